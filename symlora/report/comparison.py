"""Compare a method with LoRA on one task, over the seeds that both have and over their predictions.

Everything is in points. Two sources of chance are kept apart: new seeds on this validation split (t, sign flip,
equivalence), new rows for these trained models (McNemar), and both together (two-level bootstrap).
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from symlora import stats
from symlora.report.choice import Chosen, Key
from symlora.report.criteria import Criteria
from symlora.report.names import REFERENCE
from symlora.report.predictions import load_predictions


@dataclass(frozen=True)
class Paired:
    """A method less the reference, paired by seed, each at its chosen configuration; in points."""

    key: Key  # of the method; task, model and protocol are the reference's too
    seeds: tuple[int, ...]  # that both have a score for
    scores: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # of the method and of the reference, [seeds] each
    difference: stats.Interval  # mean over the seeds with its t interval at `level`; NaN bounds for one seed
    equivalence: stats.Equivalence | None  # paired TOST with its interval at 1 - 2·alpha; None for one seed
    flip: float | None  # p of the exact sign-flip test; None for one seed
    both: stats.Interval | None  # two-level bootstrap over seeds and rows; None for one seed or unlike rows
    mcnemar: float | None  # p over the rows, for the lowest seed's models; None where the score is no accuracy
    needed: int | None  # seeds that would settle it with the power asked for, if the true difference were 0


def compare(method: Chosen, reference: Chosen, criteria: Criteria) -> Paired | None:
    """Run all tests of one task; return None where no seed has a score for both."""
    columns = ["seed", "score", "folder", "split", "selection", "metric"]
    pairs = method.finished[columns].merge(reference.finished[columns], on="seed", suffixes=("", "_reference"))
    if pairs.empty:
        return None
    pairs = pairs.sort_values("seed", ignore_index=True)
    a, b = (100 * pairs[name].to_numpy(np.float64) for name in ("score", "score_reference"))
    several = len(pairs) > 1
    difference = stats.paired_interval(a, b, criteria.level)
    equivalence = stats.tost(a, b, criteria.margin, criteria.alpha) if several else None
    flip = stats.sign_flip(a, b) if several else None
    needed = None
    if several:
        spread = float(np.std(a - b, ddof=1))
        needed = stats.seeds_needed(spread, criteria.margin, criteria.power, criteria.alpha)
    both, rows = _over_rows(pairs, criteria)
    return Paired(
        key=method.key,
        seeds=tuple(int(seed) for seed in pairs["seed"]),
        scores=(a, b),
        difference=difference,
        equivalence=equivalence,
        flip=flip,
        both=both,
        mcnemar=rows,
        needed=needed,
    )


def compare_all(chosen: dict[Key, Chosen], criteria: Criteria) -> dict[Key, Paired]:
    """Compare every method with the reference of its section and task, where both have runs."""
    found: dict[Key, Paired] = {}
    for key, method in chosen.items():
        if key[3] != REFERENCE:
            paired = compare(method, chosen[(*key[:3], REFERENCE)], criteria)
            if paired is not None:
                found[key] = paired
    return found


def holm_adjusted(pairs: dict[Key, Paired]) -> dict[Key, tuple[float, float]]:
    """Adjust p values of (sign flip, equivalence) by Holm, within one section and method over its tasks.

    A task with a single seed has no p value, and is in no family.
    """
    families: dict[tuple[str, str, str], dict[Key, tuple[float, float]]] = {}
    for key, pair in pairs.items():
        if pair.flip is not None and pair.equivalence is not None:
            families.setdefault((key[0], key[1], key[3]), {})[key] = (pair.flip, pair.equivalence.p)
    adjusted: dict[Key, tuple[float, float]] = {}
    for tests in families.values():
        flips, equal = (stats.holm(p_values) for p_values in zip(*tests.values(), strict=True))
        adjusted |= {key: (float(flips[i]), float(equal[i])) for i, key in enumerate(tests)}
    return adjusted


def _over_rows(pairs: pd.DataFrame, criteria: Criteria) -> tuple[stats.Interval | None, float | None]:
    """Compute the two-level interval in points, and McNemar's p of the lowest seed's two models."""
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
        metric, labels, a, b, level=criteria.level, resamples=criteria.resamples, seed=criteria.seed
    )
    points = {name: 100 * getattr(fractions, name) for name in ("estimate", "low", "high")}
    return replace(fractions, **points), mcnemar
