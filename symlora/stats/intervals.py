"""Compute closed-form confidence intervals over seeds or over rows.

An interval covers one source of chance: new seeds on the same validation rows, or new rows for the same trained
model. `two_level_bootstrap` covers both. Input out of range raises ValueError.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

Reals = npt.NDArray[np.float64]
_ROUNDING = 1e-12  # relative: 0.86 - 0.85 and 0.87 - 0.86 are one number, not two


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, in the unit of the scores."""

    estimate: float
    low: float  # low and high are nan where there is no interval (one seed)
    high: float
    method: str  # "t, n = 5", "Wilson, n = 277"

    @property
    def half_width(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def times(self, factor: float) -> "Interval":
        """Change the unit, as from fractions to points."""
        return replace(self, estimate=factor * self.estimate, low=factor * self.low, high=factor * self.high)


def t_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Compute the mean of scores [seeds] with its t interval.

    One value has no spread: low and high are nan. Equal values give width 0.
    """
    scores = as_sample(values)
    mean, n = float(scores.mean()), len(scores)
    half = math.nan if n == 1 else 0.0
    if np.ptp(scores) > _ROUNDING * np.abs(scores).max():
        half = float(stats.t.ppf((1 + level) / 2, n - 1) * stats.sem(scores))
    return Interval(mean, mean - half, mean + half, f"t, n = {n}")


def paired_interval(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Compute the mean of a - b [seeds] with its t interval."""
    return t_interval(paired_differences(a, b), level)


def wilson(correct: int, n: int, level: float = 0.95) -> Interval:
    """Compute the accuracy on n rows with its Wilson interval (1927)."""
    low, high = stats.binomtest(correct, n).proportion_ci(level, method="wilson")
    return Interval(correct / n, float(low), float(high), f"Wilson, n = {n}")


def fisher_z(r: float, n: int, level: float = 0.95) -> Interval:
    """Compute Fisher's interval (1921) of a Pearson correlation of n rows.

    It is tanh(atanh r ± z/√(n - 3)), and assumes normal pairs. It takes r and n, not the rows themselves, so that it
    serves printed correlations too.
    """
    if not -1 <= r <= 1 or n < 4:
        raise ValueError(f"r must lie in [-1, 1] and be of at least 4 rows, found r = {r} of {n} rows")
    half = stats.norm.ppf((1 + level) / 2) / math.sqrt(n - 3)
    centre = math.atanh(r) if abs(r) < 1 else math.copysign(math.inf, r)
    return Interval(r, math.tanh(centre - half), math.tanh(centre + half), f"Fisher z, n = {n}")


def as_sample(values: npt.ArrayLike, name: str = "values") -> Reals:
    """Check that values are finite numbers of shape [n], n ≥ 1."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample) or not np.all(np.isfinite(sample)):
        raise ValueError(f"{name} must be one or more finite numbers of shape [n], found {sample}")
    return sample


def paired_differences(a: npt.ArrayLike, b: npt.ArrayLike) -> Reals:
    """Subtract pairs, a - b, and remove rounding from the differences."""
    first, second = as_sample(a, "a"), as_sample(b, "b")
    if len(first) != len(second):
        raise ValueError(f"a and b must be pairs, found {len(first)} and {len(second)} values")
    rounding = _ROUNDING * float(max(np.abs(first).max(), np.abs(second).max()))
    d: Reals = first - second
    d[np.abs(d) <= rounding] = 0.0
    return np.full_like(d, d[0]) if np.ptp(d) <= rounding else d
