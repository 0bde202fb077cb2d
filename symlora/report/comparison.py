"""Compare methods with LoRA, over shared seeds and over their predictions.

In points. Two sources of chance are kept apart: new seeds on this validation split (t, sign flip, equivalence) and new
rows for these trained models (McNemar); the two-level bootstrap has both. Only the verdict holds over several tasks.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from symlora import stats
from symlora.audit.names import REFERENCE
from symlora.report.choice import Chosen, Key
from symlora.report.predictions import load_predictions

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Criteria:
    """What intervals and tests are computed with: configs/report.yaml."""

    level: float  # of intervals
    alpha: float  # chance of any false verdict on a method in a section; paired intervals have the level 1 - alpha
    margin: float  # in points: two methods are equivalent if the difference of their means lies within ±margin
    power: float  # for the number of seeds that would settle it
    resamples: int  # of each bootstrap
    seed: int  # of the bootstraps
    # Protocol, model: tasks that a verdict holds over, with runs or without; else those with runs.
    families: dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Paired:
    """A method less the reference, paired by seed; in points."""

    key: Key  # of the method; task, model and protocol are the reference's too
    seeds: tuple[int, ...]  # that both have a score for
    scores: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # of the method and of the reference, [seeds] each
    difference: stats.Interval  # mean over seeds with its t interval at 1 - alpha; NaN bounds for one seed
    p_difference: float | None  # of the paired t test; None for one seed, as those below
    p_equivalence: float | None  # of the paired TOST
    flip: float | None  # p of the exact sign-flip test
    both: stats.Interval | None  # two-level bootstrap over seeds and rows; None for unlike rows too
    mcnemar: float | None  # p over the rows, for the lowest seed's models; None where the score is no accuracy
    obstacle: str  # why there is no verdict: runs that failed or are at chance, other rows or metric; else empty
    decision: stats.Decision | None = None  # the verdict, which holds over the tasks of the section
    needed: int | None = None  # seeds that would settle it with the power asked for, if the true difference were 0


def compare(method: Chosen, reference: Chosen, criteria: Criteria) -> Paired | None:
    """Run all tests of one task; None without a shared seed."""
    pairs = method.finished.merge(reference.finished, on="seed", suffixes=("", "_reference"))
    if pairs.empty:
        return None
    pairs = pairs.sort_values("seed", ignore_index=True)
    a, b = (100 * pairs[name].to_numpy(np.float64) for name in ("score", "score_reference"))
    several = len(pairs) > 1
    failed = method.failed + reference.failed
    chance = int(method.finished["at_chance"].sum() + reference.finished["at_chance"].sum())
    sides = _predictions(pairs)
    obstacles = {f"{failed} failed": failed, f"{chance} at chance": chance, "other rows": sides is None}
    obstacles["other metric"] = not pairs["metric"].equals(pairs["metric_reference"])
    both, rows = (None, None) if sides is None else _over_rows(*sides, str(pairs["metric"].iloc[0]), criteria)
    return Paired(
        key=method.key,
        seeds=tuple(int(seed) for seed in pairs["seed"]),
        scores=(a, b),
        difference=stats.paired_interval(a, b, 1 - criteria.alpha),
        p_difference=stats.paired_t(a, b) if several else None,
        p_equivalence=stats.tost(a, b, criteria.margin) if several else None,
        flip=stats.sign_flip(a, b) if several else None,
        both=both,
        mcnemar=rows,
        obstacle=", ".join(text for text, number in obstacles.items() if number),
    )


def unpaired(method: Chosen, reference: Chosen) -> str:
    """Say why two methods share no seed; empty if one is untrained."""
    if method.runs.empty or reference.runs.empty:
        return ""
    failed = method.failed + reference.failed
    return f"{failed} failed" if failed else "no shared seed"


def compare_all(chosen: dict[Key, Chosen], criteria: Criteria) -> dict[Key, Paired]:
    """Compare every method with LoRA, and judge it over a section's tasks.

    What a verdict means stands in docs/statistics.md. The family has the declared tasks and those with
    several runs of both. A task without p values, or with an obstacle, counts with p = 1.
    """
    pairs: dict[Key, Paired] = {}
    families: dict[tuple[str, str, str], list[Paired]] = {}
    tried: dict[tuple[str, str, str], set[str]] = {}
    for key, method in chosen.items():
        reference, section = chosen[(*key[:3], REFERENCE)], (key[0], key[1], key[3])
        pair = None if key[3] == REFERENCE else compare(method, reference, criteria)
        if min(len(method.runs), len(reference.runs)) > 1:
            tried.setdefault(section, set()).add(key[2])
        if pair is not None:
            pairs[key] = pair
            if pair.p_difference is not None:
                families.setdefault(section, []).append(pair)
    for section, family in families.items():
        declared = criteria.families.get(section[1], {}).get(section[0], [])
        absent = len({*declared, *tried[section]} - {pair.key[2] for pair in family})
        open_p = (1.0, 1.0)
        numbers = [
            (pair.difference.estimate, *(open_p if pair.obstacle else (pair.p_difference, pair.p_equivalence)))
            for pair in family
        ]
        means, different, equal = np.array([*numbers, *[(0.0, *open_p)] * absent], dtype=np.float64).T
        decisions = stats.decide(means, different, equal, criteria.alpha)
        for pair, decision in zip(family, decisions[: len(family)], strict=True):
            spread = float(np.std(np.subtract(*pair.scores), ddof=1))
            needed = stats.seeds_needed(spread, criteria.margin, criteria.power, criteria.alpha / len(decisions))
            judged = replace(decision, verdict="none") if pair.obstacle else decision
            pairs[pair.key] = replace(pair, decision=judged, needed=needed)
    return pairs


def _predictions(pairs: pd.DataFrame) -> tuple[Array, Array, Array] | None:
    """Load labels [rows] and both sides' predictions [seeds, rows].

    None where rows or labels differ: other data under one task's name.
    """
    places = ("folder", "selection", "split")
    sides = [
        [load_predictions(*place) for place in pairs[[f"{name}{side}" for name in places]].itertuples(index=False)]
        for side in ("", "_reference")
    ]
    first = sides[0][0]
    if any(not table[["idx", "label"]].equals(first[["idx", "label"]]) for side in sides for table in side):
        return None
    a, b = (np.stack([table["prediction"].to_numpy() for table in side]) for side in sides)
    return first["label"].to_numpy(), a, b


def _over_rows(
    labels: Array, a: Array, b: Array, metric: str, criteria: Criteria
) -> tuple[stats.Interval | None, float | None]:
    """Compute the two-level interval, and McNemar's p of the lowest seed."""
    mcnemar = stats.mcnemar(a[0], b[0], labels) if metric == "accuracy" else None
    if len(a) < 2 or len(labels) < 2:
        return None, mcnemar
    fractions = stats.two_level_bootstrap(metric, labels, a, b, criteria.level, criteria.resamples, criteria.seed)
    return fractions.times(100), mcnemar
