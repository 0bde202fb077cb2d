"""Are two methods equivalent? Two one-sided t tests (TOST) on pairs, with a margin chosen before the runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy.typing as npt
from scipy import stats

from old_stats import checks
from old_stats.comparisons import paired_interval
from old_stats.intervals import Interval

Verdict = Literal["equivalent", "better", "worse", "inconclusive"]


@dataclass(frozen=True)
class Equivalence:
    """What a paired TOST of a against b says."""

    verdict: Verdict
    """Of a: see `tost`."""
    difference: Interval
    """Mean of a - b at the level 1 - 2·alpha, in the unit of the scores."""
    p: float
    """Of the null hypothesis that the difference is as large as the margin: small p speaks for equivalence."""
    margin: float
    n: int


def tost(a: npt.ArrayLike, b: npt.ArrayLike, margin: float, alpha: float = 0.05) -> Equivalence:
    """Paired TOST (Schuirmann 1987) of scores a, b [seeds]; margin in the unit of the scores.

    p: the larger of two one-sided paired t tests', of mean ≤ -margin and of mean ≥ margin. The verdict, in this order:
        equivalent    p < alpha: the interval of level 1 - 2·alpha lies strictly within ±margin. This comes first: a
                      difference that is significant and yet smaller than the margin is equivalence;
        better        else, the interval lies wholly above 0: a is better, by more than can be called equivalent;
        worse         else, the interval lies wholly below 0;
        inconclusive  else. The seeds do not tell.
    "better" and "worse" are thus one-sided tests at alpha each; they speak of the sign, not of a difference beyond the
    margin.

    All differences equal (two methods that both predict the majority class, say): the interval has width 0; p is 0 if
    it lies within the margin, else 1.
    ValueError: fewer than 2 pairs, unequal lengths, scores not finite, margin not positive, alpha outside (0, 0.5).
    """
    d = checks.differences(a, b)
    checks.positive(margin, "margin")
    check_alpha(alpha)
    n, difference = len(d), paired_interval(d, 1 - 2 * alpha)
    mean = difference.estimate
    if difference.low == difference.high:
        p = 0.0 if abs(mean) < margin else 1.0
    else:
        error = float(d.std(ddof=1)) / math.sqrt(n)
        p = float(
            stats.t.sf((margin - abs(mean)) / error, n - 1)
        )  # the side that the mean is nearer to has the larger p
    return Equivalence(_verdict(p < alpha, difference), difference, p, float(margin), n)


def check_alpha(alpha: float) -> None:
    """ValueError unless 0 < alpha < 0.5."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, found {alpha}")


def _verdict(equivalent: bool, difference: Interval) -> Verdict:
    if equivalent:
        return "equivalent"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "inconclusive"
