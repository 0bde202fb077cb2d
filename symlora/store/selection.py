"""Choose a configuration: the one rule that sweeps, reports and submissions share.

A configuration is chosen by its score on the held-out slice, where the protocol sets one aside, else by its validation
score (which flatters the result, as in LoRA's recipe). Ties go to the more cautious training.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from symlora.config.schema import HELD_OUT

AXES = ("lr", "batch_size")  # what a grid varies


def rank(score: float | None, lr: float, batch_size: int) -> tuple[float, float, int]:
    """Return a sort key: best score, then smallest rate, then largest batch.

    A score that is None or NaN (a failed run, a metric that is not defined) comes last.
    """
    return (
        math.inf if score is None or math.isnan(score) else -round(score, 12),
        lr,
        -batch_size,
    )  # no rounding errors


def criterion(record: Mapping[str, Any]) -> tuple[float | None, str]:
    """Read the score that may choose a configuration, and its split.

    Of a finished run's run.json: the held-out slice's score at the held-out epoch, or without a slice the validation
    score at the epoch of the protocol's rule. The score is None where the metric is not defined (NaN before it is
    written).
    """
    task, selections = record["config"]["task"], record["selections"]
    if HELD_OUT in selections:
        rule = split = HELD_OUT
    else:
        rule, split = record["config"]["protocol"]["selection"], task["validation"][0]
    score = selections[rule]["metrics"][split][task["score"]]
    return None if score is None or math.isnan(score) else score, split


def edge(value: float, tried: Collection[float]) -> str:
    """Say where a value lies: `inside`, `lowest`, `highest` or `only value`."""
    if len(set(tried)) == 1:
        return "only value"
    return "lowest" if value <= min(tried) else "highest" if value >= max(tried) else "inside"
