"""What every function here asks of its input, in one place, so that all refuse it with the same words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


def sample(values: npt.ArrayLike, what: str = "values", least: int = 1) -> Reals:
    """`values` as float64 of shape [n]. ValueError: other shapes, fewer than `least` values, or any not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{what} must have shape [n], found {array.shape}")
    if len(array) < least:
        raise ValueError(f"{what}: at least {least} needed, found {len(array)}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{what} hold {array[bad[0]]} at position {bad[0]} ({len(bad)} of {len(array)} not finite)")
    return array


def differences(a: npt.ArrayLike, b: npt.ArrayLike, least: int = 2) -> Reals:
    """a - b, pair by pair, shape [n]; differences that are equal but for rounding are made equal.

    0.86 - 0.85 and 0.87 - 0.86 differ by 1e-17: a standard deviation of that size would be rounding, not a spread.
    ValueError: unequal lengths, fewer than `least` pairs, values not finite.
    """
    first, second = sample(a, "a", least), sample(b, "b", least)
    if len(first) != len(second):
        raise ValueError(f"a and b must be pairs, found {len(first)} and {len(second)} values")
    rounding = 1e-12 * float(max(np.abs(first).max(), np.abs(second).max()))
    d: Reals = first - second
    d[np.abs(d) <= rounding] = 0.0
    return np.full_like(d, d[0]) if np.ptp(d) <= rounding else d


def is_constant(values: Reals) -> bool:
    """Whether all values are equal but for rounding."""
    return bool(np.ptp(values) <= 1e-12 * float(np.max(np.abs(values))))


def level(value: float) -> float:
    """ValueError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"level must lie between 0 and 1, found {value}")
    return float(value)


def positive(value: float, what: str) -> float:
    """ValueError unless 0 < value < infinity."""
    if not 0 < value < np.inf:
        raise ValueError(f"{what} must be positive and finite, found {value}")
    return float(value)
