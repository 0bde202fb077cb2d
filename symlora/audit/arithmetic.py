"""Compute what printed scores and intervals imply.

Printed scores are handled as whole hundredths, so that no result depends on how a decimal number is held in binary.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from symlora import stats

HalfWidth = Callable[[float, int], float]
RULES = ("truncated", "rounded")  # to two decimals


def bernoulli(p: float, n: int) -> float:
    """Compute A = 1.96 √(p (1 - p) / n), in points: the usual formula."""
    return 196 * math.sqrt(p * (1 - p) / n)


def as_printed(p: float, n: int) -> float:
    """Compute B = 1.96 p (1 - p) / √n, in points: the paper's formula."""
    return 196 * p * (1 - p) / math.sqrt(n)


FORMULAS: Mapping[str, HalfWidth] = {"A": bernoulli, "B": as_printed}
CORRELATION: Mapping[str, HalfWidth] = {
    **FORMULAS,
    "standard_error": lambda r, n: 100 * (1 - r * r) / math.sqrt(n - 1),
    "fisher": lambda r, n: 100 * stats.fisher_z(r, n).half_width,  # half of the 95 % interval
}
"""Ways to a ± of Pearson's r over n rows, in points."""


def counts(units: int, n: int, rule: str, of: int = 100) -> range:
    """List every k whose k / n prints as units / of, ties included."""
    if rule == "truncated":
        return range(-(-units * n // of), min(-(-(units + 1) * n // of), n + 1))
    return range(max(-(-(2 * units - 1) * n // (2 * of)), 0), min((2 * units + 1) * n // (2 * of), n) + 1)


def prints_as(points: float, printed: float) -> bool:
    """Tell whether points round to one decimal as printed, ties either way."""
    return abs(points - printed) <= 0.05 + 1e-9


def fits_correlation(cents: int, half_width: float, n: int, formula: HalfWidth) -> bool:
    """Tell whether a value printed as `cents` gives the printed half-width.

    Values 0.0001 apart are tried, for truncation and rounding: a correlation is no share of examples.
    """
    tried = range(100 * cents - 50, 100 * cents + 100)
    return any(prints_as(formula(value / 10_000, n), half_width) for value in tried)


def two_sample_z(p: float, n: int, q: float, m: int) -> float:
    """Compute z of p - q for shares of n and m examples."""
    return (p - q) / math.sqrt(p * (1 - p) / n + q * (1 - q) / m)


def learning_rate_sum(rows: int, batch: int, epochs: int, lr: float) -> float:
    """Sum a linear schedule's learning rate over all steps.

    With T steps, w of them warm-up, Σ t/w over the first w and Σ (T - t)/(T - w) over the others is T/2 for any w.
    """
    return lr * math.ceil(rows / batch) * epochs / 2


def decayed(weight_decay: float, lr_sum: float) -> float:
    """Compute what AdamW's decay leaves of 1: about Π (1 - lr · weight_decay)."""
    return math.exp(-weight_decay * lr_sum)


def norm_ratios(n: int, r: int, seed: int) -> list[float]:
    """Compute Σ |w| / √(Σ w²) of random n × n matrices.

    They are of full rank, Q diag(Λ) Qᵀ and B A of rank r, from standard normal factors.
    """
    rng = np.random.default_rng(seed)
    q, diagonal = rng.normal(size=(n, r)), rng.normal(size=r)
    b, a = rng.normal(size=(n, r)), rng.normal(size=(r, n))
    matrices = (rng.normal(size=(n, n)), (q * diagonal) @ q.T, b @ a)
    return [float(np.abs(matrix).sum() / np.linalg.norm(matrix)) for matrix in matrices]
