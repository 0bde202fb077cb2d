"""Test paired scores for a difference and for equivalence.

Pairs are seeds (a seed fixes head, data order and dropout for both methods) or rows of a split. "Not significant" never
means "tied": only `tost` can show equivalence. Input out of range raises ValueError: fewer than two pairs, unequal
lengths, scores that are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from symlora.stats.intervals import Interval, Reals, differences, is_constant, paired_interval

Verdict = Literal["equivalent", "better", "worse", "inconclusive"]
_EXACT_PAIRS, _RANDOM_PATTERNS = 20, 100_000


@dataclass(frozen=True)
class Equivalence:
    """The result of `tost`."""

    verdict: Verdict
    difference: Interval  # mean of a - b at the level 1 - 2·alpha
    p: float  # small p speaks for equivalence
    margin: float
    n: int


def tost(a: npt.ArrayLike, b: npt.ArrayLike, margin: float, alpha: float = 0.05) -> Equivalence:
    """Run two one-sided paired t tests for equivalence (TOST, Schuirmann 1987).

    p is the larger p value of the tests of mean ≤ -margin and of mean ≥ margin. The verdict on a, in this order:
    equivalent if p < alpha (the interval of level 1 - 2·alpha lies within ±margin, whether or not it holds 0); better
    or worse if that interval excludes 0; else inconclusive.

    If all differences are equal, the interval has width 0, and p is 0 within the margin and 1 outside.

    Args:
        a: Scores [seeds].
        b: Scores [seeds] of the same seeds.
        margin: In the unit of the scores.
        alpha: Of each one-sided test, below 0.5.
    """
    d = _pairs(a, b)
    if not 0 < margin < np.inf:
        raise ValueError(f"margin must be positive and finite, found {margin}")
    difference = paired_interval(a, b, 1 - 2 * alpha)
    if is_constant(d):
        p = float(abs(d[0]) >= margin)
    else:
        sides = ((-margin, "greater"), (margin, "less"))
        p = max(float(stats.ttest_1samp(d, mean, alternative=side).pvalue) for mean, side in sides)
    verdict: Verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "inconclusive"
    return Equivalence("equivalent" if p < alpha else verdict, difference, p, margin, len(d))


def sign_flip(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Compute the p value of the sign-flip test of scores a, b [seeds] (Fisher 1935).

    It is the share of sign patterns whose mean is at least as far from 0. All 2^n patterns are taken for up to 20
    pairs, 100,000 random ones beyond. The only assumption is that a difference is symmetric about 0 if the methods
    are alike. The smallest p is 2/2^n: 0.0625 for 5 seeds.
    """
    d = _pairs(a, b)
    scaled = d / max(float(np.abs(d).sum()), 1e-300)

    def statistic(x: Reals, y: Reals, axis: int) -> Any:
        return np.round((x - y).sum(axis), 12)  # patterns with the same mean must tie

    found = stats.permutation_test(
        (scaled, np.zeros_like(d)),
        statistic,
        permutation_type="samples",
        n_resamples=2**_EXACT_PAIRS if len(d) <= _EXACT_PAIRS else _RANDOM_PATTERNS,
        batch=2**14,
        rng=0,
    )
    return float(found.pvalue)


def mcnemar(predictions_a: npt.ArrayLike, predictions_b: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute the p value of McNemar's exact test (1947) of two models' accuracy; classes [rows] each.

    It speaks of these two trained models and of new rows, not of the methods. Seeds must not be pooled into the rows:
    that would count each row several times.
    """
    a, b, true = (np.asarray(values) for values in (predictions_a, predictions_b, labels))
    if not len(true) or not a.shape == b.shape == true.shape == (len(true),):
        raise ValueError(f"predictions and labels must have shape [rows], found {a.shape}, {b.shape} and {true.shape}")
    only_a, only_b = int(np.sum((a == true) & (b != true))), int(np.sum((a != true) & (b == true)))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: npt.ArrayLike) -> Reals:
    """Adjust p values [n] by Holm's step-down method (1979), in the order given.

    Comparing each with alpha keeps the chance of any false claim below alpha, however the tests depend on each other.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p values must lie in [0, 1], found {p}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def _pairs(a: npt.ArrayLike, b: npt.ArrayLike) -> Reals:
    d = differences(a, b)
    if len(d) < 2:
        raise ValueError(f"at least 2 pairs needed, found {len(d)}")
    return d
