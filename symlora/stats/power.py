"""Compute power and sample size of the paired equivalence test.

Values out of range raise ValueError.
"""

import bisect
import math

import numpy as np
from scipy import stats

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)  # on [-1, 1]


def tost_power(n: int, sd: float, margin: float, alpha: float = 0.05, difference: float = 0.0) -> float:
    """Compute the chance that `tost` of n pairs finds equivalence.

    Differences are taken as normal. Both one-sided tests reject where |mean| < margin - t(1 - alpha, n - 1)·s/√n. Mean
    and s are independent, so the power is the normal probability of that, integrated over the chi distribution of s
    (Owen's Q function; Phillips 1990). The usual shortcut by two noncentral t is too low for few seeds. The differences
    have mean `difference` and standard deviation `sd`; at sd 0 the power is 1 if |difference| < margin, else 0.
    """
    if n < 2 or not 0 <= sd < math.inf or not 0 < margin < math.inf or not 0 < alpha < 0.5:
        raise ValueError(
            f"n must be at least 2, sd 0 or more, margin positive, alpha in (0, 0.5); "
            f"found n = {n}, sd = {sd}, margin = {margin}, alpha = {alpha}"
        )
    if sd == 0:
        return float(abs(difference) < margin)
    freedom, error = n - 1, sd / math.sqrt(n)
    reach = float(stats.t.ppf(1 - alpha, freedom)) * error
    # Integrate over u = s/sd, which is chi/√freedom: where it has mass (12 deviations of 1/√(2·freedom) about 1), and
    # where the tests can both reject (u < margin/reach).
    first = max(0.0, 1 - 12 / math.sqrt(2 * freedom))
    last = min(margin / reach, 1 + 12 / math.sqrt(2 * freedom))
    if last <= first:
        return 0.0
    u = first + (last - first) * (_NODES + 1) / 2
    density = stats.chi.pdf(u * math.sqrt(freedom), freedom) * math.sqrt(freedom)
    room = margin - reach * u
    inside = stats.norm.cdf((room - difference) / error) - stats.norm.cdf((-room - difference) / error)
    return float(np.clip(np.sum(_WEIGHTS * density * inside) * (last - first) / 2, 0.0, 1.0))


def seeds_needed(
    sd_of_differences: float, margin: float, power: float = 0.8, alpha: float = 0.05, max_n: int = 10_000
) -> int | None:
    """Find the fewest paired seeds with which `tost` has this power.

    The true difference is taken as 0. The deviation is itself an estimate: from 5 seeds its 95 % interval reaches from
    0.6 to 2.9 times its value, and the number of seeds goes with its square.

    Returns:
        The number of seeds, 2 or more; None if max_n do not suffice.
    """
    if not 0 < power < 1:
        raise ValueError(f"power must lie between 0 and 1, found {power}")
    sizes = range(2, max_n + 1)  # the power grows with n, but for powers near 0
    place = bisect.bisect_left(sizes, power, key=lambda n: tost_power(n, sd_of_differences, margin, alpha))
    return sizes[place] if place < len(sizes) else None
