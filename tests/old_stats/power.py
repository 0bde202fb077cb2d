"""How many seeds would settle it: the power of the paired TOST."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from old_stats import checks
from old_stats.equivalence import check_alpha

# Gauss-Legendre on [-1, 1].
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def tost_power(n: int, sd: float, margin: float, alpha: float = 0.05, difference: float = 0.0) -> float:
    """Chance that `tost` of n pairs says "equivalent" if differences are normal(`difference`, sd²).

    The two one-sided tests both reject where |mean| < margin - t(1 - alpha, n - 1)·s/√n. Mean and s are independent, so
    the power is the normal probability of that, integrated over the chi distribution of s: exact but for quadrature,
    as with Owen's Q function (Phillips 1990). The usual shortcut by two noncentral t is too low for few seeds.
    sd, margin and difference in one unit, that of the scores. sd = 0: 1 if |difference| < margin, else 0.
    ValueError: n < 2, sd negative or not finite, margin not positive, alpha outside (0, 0.5).
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, found {n}")
    if not 0 <= sd < math.inf or not math.isfinite(difference):
        raise ValueError(f"sd must be 0 or larger and finite, the difference finite; found {sd} and {difference}")
    checks.positive(margin, "margin")
    check_alpha(alpha)
    if sd == 0:
        return 1.0 if abs(difference) < margin else 0.0
    quantile = float(stats.t.ppf(1 - alpha, n - 1))
    error = sd / math.sqrt(n)
    freedom = n - 1
    # Over u = s/sd, which is chi/√freedom; beyond `last` the tests cannot both reject, beyond 12 standard deviations
    # of u (about 1/√(2 freedom)) there is no mass.
    last = margin / (quantile * error)
    first = max(0.0, 1 - 12 / math.sqrt(2 * freedom))
    last = min(last, 1 + 12 / math.sqrt(2 * freedom))
    if last <= first:
        return 0.0
    u = first + (last - first) * (_NODES + 1) / 2
    density = stats.chi.pdf(u * math.sqrt(freedom), freedom) * math.sqrt(freedom)
    room = margin - quantile * error * u
    inside = stats.norm.cdf((room - difference) / error) - stats.norm.cdf((-room - difference) / error)
    return float(np.clip(np.sum(_WEIGHTS * density * inside) * (last - first) / 2, 0.0, 1.0))


def seeds_needed(
    sd_of_differences: float, margin: float, power: float = 0.8, alpha: float = 0.05, max_n: int = 10_000
) -> int | None:
    """The smallest number of paired seeds (2 or more) with which `tost` says "equivalent" with this power, if the true
    difference is 0; None if max_n seeds do not suffice.

    The deviation is itself an estimate: from 5 seeds its 95 % interval reaches from 0.6 to 2.9 times its value, and
    the number of seeds goes with its square.
    Units and errors as `tost_power`, and ValueError: power outside (0, 1), max_n < 2.
    """
    if not 0 < power < 1:
        raise ValueError(f"power must lie between 0 and 1, found {power}")
    if max_n < 2:
        raise ValueError(f"max_n must be at least 2, found {max_n}")

    def enough(n: int) -> bool:
        return tost_power(n, sd_of_differences, margin, alpha) >= power

    low, high = 1, 2  # the power grows with n: double until it is enough, then halve the gap
    while not enough(high):
        if high == max_n:
            return None
        low, high = high, min(2 * high, max_n)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
