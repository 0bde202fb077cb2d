"""Round to percent points with one decimal, half to even."""

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal

_ONE_DECIMAL = Decimal("0.1")
# A mean of one-decimal numbers is off by some 1e-14: 87.25 may arrive as 87.24999999999999. Twelve digits are more
# than any score here has, and restore such a tie.
_NOISE = Context(prec=12, rounding=ROUND_HALF_EVEN)


def points(value: float, scale: int = 100) -> Decimal:
    """Round value · scale; scale is 100 for fractions, 1 for points.

    The product is taken in decimal, from the shortest text that gives this float, so 0.8725 is a tie and becomes 87.2,
    as 0.8735 becomes 87.4. Never "-0.0". nan and infinities pass. str() of the result is what a table prints.
    """
    if not math.isfinite(value):
        return Decimal(str(float(value)))
    exact = _NOISE.create_decimal(repr(float(value))) * scale
    rounded = exact.quantize(_ONE_DECIMAL, rounding=ROUND_HALF_EVEN)
    return abs(rounded) if rounded == 0 else rounded


def round_points(value: float) -> Decimal:
    """Round a value that is in percent points already."""
    return points(value, scale=1)
