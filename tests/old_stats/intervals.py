"""Intervals with a closed form: over seeds, and over the rows of one split.

An interval speaks of one source of chance only, and says which in `over`: new seeds on this validation set, or new
rows for this one trained model. Neither contains the other; `two_level_bootstrap` takes both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from old_stats import checks


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, in the unit of the scores (fractions or points).

    low and high are nan where there is no interval (one seed), and infinite where no finite one has the level.
    """

    estimate: float
    low: float
    high: float
    level: float
    over: str
    """What would be drawn anew: "seeds (t, n = 5)", "validation rows (Wilson, n = 277)"."""
    resamples: int = 0
    """Of a bootstrap; 0 for a closed form."""
    degenerate: int = 0
    """Resamples in which the statistic divided by zero (a single class, all predictions equal). They take part with
    the metric's value by convention (0 for Matthews correlation and F1) and are left out where that is nan."""

    @property
    def half_width(self) -> float:
        """Half of high - low: the number behind the ± where the interval is symmetric."""
        return (self.high - self.low) / 2

    @property
    def symmetric(self) -> bool:
        """Whether the estimate lies in the middle, so that `estimate ± half_width` tells the whole interval."""
        return bool(math.isclose(self.high - self.estimate, self.estimate - self.low, rel_tol=1e-9, abs_tol=1e-12))


def t_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Mean over seeds ± t(n - 1) · s/√n with s of ddof 1 (Student 1908): its coverage is exact for normal scores.

    values [n], any unit. n = 1: low and high are nan, a single seed says nothing about the spread.
    ValueError: no values, other shapes, values not finite.
    """
    scores = checks.sample(values)
    quantile = float(stats.t.ppf((1 + checks.level(level)) / 2, len(scores) - 1)) if len(scores) > 1 else math.nan
    return _mean_interval(scores, quantile, level, f"seeds (t, n = {len(scores)})")


def paper_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Mean ± 1.96 · s/√n (at other levels than 95 % the normal quantile), as the SymLoRA paper says (arXiv 2504.03719).

    For comparison only: over n = 5 seeds its nominal 95 % cover the truth 88 % of the time, t's 95 %.
    values [n], any unit; n = 1 gives nan, errors as `t_interval`.
    """
    scores = checks.sample(values)
    quantile = 1.96 if level == 0.95 else _normal(level)
    return _mean_interval(scores, quantile, level, f"seeds ({quantile:.2f}·s/√n, n = {len(scores)})")


def bernoulli_interval(p: float, n: int, *, rows: str = "rows") -> Interval:
    """p ± 1.96·√(p(1 - p)/n) for a share p of n rows (Wald): the formula that the paper's printed ± follow.

    p is a fraction. ValueError: p outside [0, 1], n < 1.
    """
    _check_share(p, n)
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    return Interval(float(p), p - half, p + half, 0.95, f"{rows} (Wald, n = {n})")


def printed_interval(p: float, n: int, *, rows: str = "rows") -> Interval:
    """p ± 1.96·p(1 - p)/√n, as the paper's text prints the formula: without the root, so not an interval of anything.

    p is a fraction. ValueError: p outside [0, 1], n < 1.
    """
    _check_share(p, n)
    half = 1.96 * p * (1 - p) / math.sqrt(n)
    return Interval(float(p), p - half, p + half, 0.95, f"{rows} (1.96·p(1-p)/√n as printed, n = {n})")


def wilson(correct: int, n: int, level: float = 0.95, *, rows: str = "rows") -> Interval:
    """Share of rows predicted correctly by one model, with Wilson's score interval (1927, no continuity correction).

    A fraction. ValueError: n < 1, correct not a whole number in 0..n.
    """
    if n < 1 or not 0 <= correct <= n or correct != int(correct):
        raise ValueError(f"correct must be a whole number of n >= 1 rows, found {correct} of {n}")
    z = _normal(level)
    p = correct / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At both ends the bound is the end itself; the subtraction above would leave it a rounding error beside it.
    low = 0.0 if correct == 0 else middle - half
    high = 1.0 if correct == n else middle + half
    return Interval(p, low, high, float(level), f"{rows} (Wilson, n = {n})")


def fisher_z(r: float, n: int, level: float = 0.95, *, rows: str = "rows") -> Interval:
    """Pearson's r of n rows with the interval tanh(atanh r ± z/√(n - 3)) (Fisher 1921), made for normal pairs.

    r = ±1 gives an interval of width 0. ValueError: r outside [-1, 1] or nan, n < 4.
    """
    if not -1 <= r <= 1:
        raise ValueError(f"r must lie in [-1, 1], found {r}")
    if n < 4:
        raise ValueError(f"Fisher's z needs at least 4 rows, found {n}")
    z = _normal(level)
    half = z / math.sqrt(n - 3)
    centre = math.atanh(r) if abs(r) < 1 else math.copysign(math.inf, r)
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    return Interval(float(r), low, high, float(level), f"{rows} (Fisher z, n = {n})")


def _mean_interval(scores: checks.Reals, quantile: float, level: float, over: str) -> Interval:
    n, mean = len(scores), float(scores.mean())
    error = float(scores.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    if n > 1 and checks.is_constant(scores):
        error = 0.0
    return Interval(mean, mean - quantile * error, mean + quantile * error, float(level), over)


def _normal(level: float) -> float:
    return float(stats.norm.ppf((1 + checks.level(level)) / 2))


def _check_share(p: float, n: int) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a fraction in [0, 1], found {p}")
    if not np.isfinite(n) or n < 1:
        raise ValueError(f"n must be at least 1, found {n}")
