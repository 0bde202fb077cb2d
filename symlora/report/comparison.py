"""A method against LoRA on one task: the tests of symlora.stats on the seeds that both have, and on their predictions.

Everything is in points. Two sources of chance are kept apart: new seeds on this validation split (t, sign flip,
equivalence), new rows for these trained models (McNemar), and both together (two-level bootstrap). Only the verdict
holds over several tasks; everything else speaks of one.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from symlora import stats
from symlora.report.choice import Chosen, Key
from symlora.report.names import REFERENCE
from symlora.report.predictions import load_predictions
from symlora.report.settings import Settings


@dataclass(frozen=True)
class Paired:
    """A method less the reference, at each one's chosen configuration, paired by seed. Differences are in points.

    Attributes:
        key: Of the method (its task, model and protocol are the reference's too).
        seeds: That both have a score for.
        scores: In points, of the method and of the reference, [seeds] each.
        difference: Mean over the seeds with its t interval at 1 - alpha, for this task alone; low and high are NaN for
            one seed.
        p_difference: Of the paired t test; None for fewer than two seeds.
        p_equivalence: Of the paired TOST; None for fewer than two seeds.
        flip: p of the exact sign-flip test; None for fewer than two seeds.
        both: Two-level bootstrap interval over seeds and rows together; None for one seed or unlike rows.
        mcnemar: p over the rows, for the models of the lowest seed; None where the score is no accuracy.
        decision: The verdict, which holds over the tasks of the section; None for fewer than two seeds.
        needed: Seeds that would settle it with the power asked for, if the true difference were 0; None if unknown.
    """

    key: Key
    seeds: tuple[int, ...]
    scores: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    difference: stats.Interval
    p_difference: float | None
    p_equivalence: float | None
    flip: float | None
    both: stats.Interval | None
    mcnemar: float | None
    decision: stats.Decision | None = None
    needed: int | None = None


def compare(method: Chosen, reference: Chosen, settings: Settings) -> Paired | None:
    """All tests of one task, without a decision; None where no seed has a score for both."""
    columns = ["seed", "score", "folder", "split", "selection", "metric"]
    pairs = method.finished[columns].merge(reference.finished[columns], on="seed", suffixes=("", "_reference"))
    if pairs.empty:
        return None
    pairs = pairs.sort_values("seed", ignore_index=True)
    a, b = (100 * pairs[name].to_numpy(np.float64) for name in ("score", "score_reference"))
    several = len(pairs) > 1
    both, rows = _over_rows(pairs, settings)
    return Paired(
        key=method.key,
        seeds=tuple(int(seed) for seed in pairs["seed"]),
        scores=(a, b),
        difference=stats.paired_interval(a, b, 1 - settings.alpha),
        p_difference=stats.paired_t(a, b) if several else None,
        p_equivalence=stats.tost(a, b, settings.margin) if several else None,
        flip=stats.sign_flip(a, b) if several else None,
        both=both,
        mcnemar=rows,
    )


def compare_all(chosen: dict[Key, Chosen], settings: Settings) -> dict[Key, Paired]:
    """Every method against the reference of its section and task, where both have runs."""
    found: dict[Key, Paired] = {}
    for key, method in chosen.items():
        if key[3] != REFERENCE:
            paired = compare(method, chosen[(*key[:3], REFERENCE)], settings)
            if paired is not None:
                found[key] = paired
    return decide_all(found, settings)


def decide_all(pairs: dict[Key, Paired], settings: Settings) -> dict[Key, Paired]:
    """Judge each method over the tasks of a section (docs/protocols.md, "What a verdict means").

    A task with a single seed has no p value, and is in no family.
    """
    families: dict[tuple[str, str, str], list[Key]] = {}
    for key, pair in pairs.items():
        if pair.p_difference is not None:
            families.setdefault((key[0], key[1], key[3]), []).append(key)
    decided = dict(pairs)
    for keys in families.values():
        family = [pairs[key] for key in keys]
        numbers = [(pair.difference.estimate, pair.p_difference, pair.p_equivalence) for pair in family]
        means, different, equal = np.array(numbers, dtype=np.float64).T
        decisions = stats.decide(means, different, equal, settings.alpha)
        for key, pair, decision in zip(keys, family, decisions, strict=True):
            spread = float(np.std(np.subtract(*pair.scores), ddof=1))
            needed = stats.seeds_needed(spread, settings.margin, settings.power, settings.alpha / len(keys))
            decided[key] = replace(pair, decision=decision, needed=needed)
    return decided


def _over_rows(pairs: pd.DataFrame, settings: Settings) -> tuple[stats.Interval | None, float | None]:
    """The two-level interval in points, and McNemar's test of the lowest seed's two models."""
    sides = [
        [
            load_predictions(row[f"folder{side}"], row[f"selection{side}"], row[f"split{side}"])
            for _, row in pairs.iterrows()
        ]
        for side in ("", "_reference")
    ]
    first = sides[0][0]
    if any(not table[["idx", "label"]].equals(first[["idx", "label"]]) for side in sides for table in side):
        return None, None  # rows or labels differ: other data under one task's name
    labels, metric = first["label"].to_numpy(), str(pairs["metric"].iloc[0])
    a, b = (np.stack([table["prediction"].to_numpy() for table in side]) for side in sides)
    mcnemar = stats.mcnemar(a[0], b[0], labels) if metric == "accuracy" else None
    if len(a) < 2:
        return None, mcnemar
    fractions = stats.two_level_bootstrap(
        metric, labels, a, b, level=settings.level, resamples=settings.resamples, seed=settings.seed
    )
    points = {name: 100 * getattr(fractions, name) for name in ("estimate", "low", "high")}
    return replace(fractions, **points), mcnemar
