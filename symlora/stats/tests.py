"""Test paired scores for difference and equivalence, and judge several tasks.

Pairs are seeds (a seed fixes head, data order and dropout for both methods) or rows of a split. "Not significant" never
means "tied": only `tost` can show equivalence. Input out of range raises ValueError: fewer than two pairs, unequal
lengths, scores that are not finite.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from symlora.stats.intervals import Reals, paired_differences

Verdict = Literal["equivalent", "better", "worse", "inconclusive", "none"]


@dataclass(frozen=True)
class Decision:
    """The verdict on one task, with its adjusted p values."""

    verdict: Verdict
    p_difference: float
    p_equivalence: float


def decide(
    differences: npt.ArrayLike, p_difference: npt.ArrayLike, p_equivalence: npt.ArrayLike, alpha: float = 0.05
) -> list[Decision]:
    """Judge a method on a family of tasks; arrays are [tasks].

    Alpha is the chance of any false verdict in the family. Each task has two null hypotheses: the difference is 0
    (`paired_t`), and it is at least the margin (`tost`). At most one of them can be true, so `holm` counts tasks, not
    tests. The verdict, in this order: equivalent if the adjusted p_equivalence is below alpha; better or worse, by the
    sign of the mean difference, if the adjusted p_difference is; else inconclusive.
    """
    decisions = []
    adjusted = holm(np.column_stack([p_difference, p_equivalence]))
    for difference, (different, equal) in zip(np.asarray(differences), adjusted, strict=True):
        verdict: Verdict = "inconclusive"
        if equal < alpha:
            verdict = "equivalent"
        elif different < alpha:
            verdict = "better" if difference > 0 else "worse"
        decisions.append(Decision(verdict, float(different), float(equal)))
    return decisions


def holm(p_values: npt.ArrayLike) -> Reals:
    """Adjust p values by Holm's step-down method (1979), in the order given.

    Comparing each with alpha keeps the chance of any false claim in the family below alpha, however the tests depend on
    each other.

    Args:
        p_values: [n], or [n, k] where at most one of the k hypotheses of a row can be true. A row then counts once,
            until all its hypotheses are rejected (Shaffer 1986).
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p values must lie in [0, 1], found {p}")
    last = np.sort(p.max(axis=1) if p.ndim == 2 else p)  # a row is closed after its largest p
    ascending = np.sort(p, axis=None)
    still_open = len(last) - np.searchsorted(last, ascending)
    adjusted = np.minimum(1.0, np.maximum.accumulate(ascending * still_open))
    return np.asarray(adjusted[np.searchsorted(ascending, p)])


def paired_t(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Compute the p value of the two-sided paired t test; scores [seeds].

    If all differences are equal, p is 1 if they are 0, else 0.
    """
    d = _pairs(a, b)
    return float(d[0] == 0) if np.ptp(d) == 0 else float(stats.ttest_1samp(d, 0).pvalue)


def tost(a: npt.ArrayLike, b: npt.ArrayLike, margin: float) -> float:
    """Compute the p value of the paired equivalence test; scores [seeds].

    It is the larger of the p values of two one-sided t tests (TOST, Schuirmann 1987), of mean ≤ -margin and of mean ≥
    margin: small p speaks for equivalence. If all differences are equal, p is 0 within the margin, else 1.
    """
    d = _pairs(a, b)
    if not 0 < margin < np.inf:
        raise ValueError(f"margin must be positive and finite, found {margin}")
    if np.ptp(d) == 0:
        return float(abs(d[0]) >= margin - 1e-9)  # the margin itself, but for rounding
    sides = ((-margin, "greater"), (margin, "less"))
    return max(float(stats.ttest_1samp(d, mean, alternative=side).pvalue) for mean, side in sides)


def sign_flip(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Compute the p value of the sign-flip test (Fisher 1935); scores [seeds].

    It is the share of sign patterns whose mean is at least as far from 0. All 2^n patterns are taken for up to 20
    pairs, 100,000 random ones beyond. The only assumption is that a difference is symmetric about 0 if the methods
    are alike. The smallest p is 2/2^n: 0.0625 for 5 seeds.
    """
    d = _pairs(a, b)
    scaled = d / max(float(np.abs(d).sum()), 1e-300)
    found = stats.permutation_test(
        (scaled, np.zeros_like(d)),
        lambda x, y, axis: np.round((x - y).sum(axis), 12),  # patterns with the same mean must tie
        permutation_type="samples",
        n_resamples=2**20 if len(d) <= 20 else 100_000,
        batch=2**14,
        rng=0,
    )
    return float(found.pvalue)


def mcnemar(predictions_a: npt.ArrayLike, predictions_b: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute the p value of McNemar's exact test (1947); classes [rows].

    It speaks of these two trained models and of new rows, not of the methods. Seeds must not be pooled into the rows:
    that would count each row several times.
    """
    a, b, true = (np.asarray(values) for values in (predictions_a, predictions_b, labels))
    if not len(true) or not a.shape == b.shape == true.shape == (len(true),):
        raise ValueError(f"predictions and labels must have shape [rows], found {a.shape}, {b.shape} and {true.shape}")
    only_a, only_b = int(np.sum((a == true) & (b != true))), int(np.sum((a != true) & (b == true)))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _pairs(a: npt.ArrayLike, b: npt.ArrayLike) -> Reals:
    d = paired_differences(a, b)
    if len(d) < 2:
        raise ValueError(f"at least 2 pairs needed, found {len(d)}")
    return d
