"""Compute what printed scores and intervals imply.

Printed scores are handled as integer hundredths, so that no result depends on how a decimal number is held in binary.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from symlora import stats

HalfWidth = Callable[[float, int], float]
RULES = ("truncated", "rounded")  # to two decimals


def bernoulli(p: float, n: int) -> float:
    """Compute A = 1.96 √(p (1 - p) / n), in points: the usual formula."""
    return 196 * math.sqrt(p * (1 - p) / n)


def as_printed(p: float, n: int) -> float:
    """Compute B = 1.96 p (1 - p) / √n, in points: the paper's formula."""
    return 196 * p * (1 - p) / math.sqrt(n)


def standard_error(r: float, n: int) -> float:
    """Compute one standard error of Pearson's r, (1 - r²) / √(n - 1), in points."""
    return 100 * (1 - r * r) / math.sqrt(n - 1)


def fisher(r: float, n: int) -> float:
    """Compute half of the 95 % interval of Pearson's r by Fisher's z, in points."""
    return 100 * stats.fisher_z(r, n).half_width


FORMULAS: Mapping[str, HalfWidth] = {"A": bernoulli, "B": as_printed}


def hundredths(score: float) -> int:
    """Convert a printed fraction to integer hundredths: 0.92 to 92."""
    return round(100 * score)


def counts(score: float, n: int, rule: str) -> range:
    """List every number k of correct answers whose share k / n is printed as `score`.

    Args:
        score: The printed fraction, with two decimals.
        n: Number of examples.
        rule: "truncated", or "rounded": there a tie counts for both neighbors.
    """
    cents = hundredths(score)
    if rule == "truncated":
        return range(-(-cents * n // 100), min(-(-(cents + 1) * n // 100), n + 1))
    return range(max(-(-(2 * cents - 1) * n // 200), 0), min((2 * cents + 1) * n // 200, n) + 1)


def prints_as(points: float, printed: float) -> bool:
    """Tell whether a half-width rounds to the printed one (one decimal); a tie may go either way."""
    return abs(points - printed) <= 0.05 + 1e-9


def fitting_counts(score: float, half_width: float, n: int, rule: str, formula: HalfWidth) -> list[int]:
    """List the k of `counts` for which the formula gives the printed half-width."""
    return [k for k in counts(score, n, rule) if prints_as(formula(k / n, n), half_width)]


def fits_correlation(score: float, half_width: float, n: int, formula: HalfWidth) -> bool:
    """Tell whether a value printed as `score`, truncated or rounded, gives the printed half-width.

    Values 0.0001 apart are tried: a correlation is no share of examples.
    """
    start = 100 * hundredths(score)
    return any(prints_as(formula(value / 10_000, n), half_width) for value in range(start - 50, start + 100))


def two_sample_z(p: float, n: int, q: float, m: int) -> float:
    """Compute z of p - q for shares of n and m examples, each with its own variance."""
    return (p - q) / math.sqrt(p * (1 - p) / n + q * (1 - q) / m)


def learning_rate_sum(rows: int, batch: int, epochs: int, lr: float) -> float:
    """Sum the learning rate over all steps of a linear schedule with linear warm-up.

    With T steps, w of them warm-up, Σ t/w over the first w and Σ (T - t)/(T - w) over the others is T/2 for any w.
    """
    return lr * math.ceil(rows / batch) * epochs / 2


def decayed(weight_decay: float, lr_sum: float) -> float:
    """Compute what AdamW leaves of a parameter without gradient: Π (1 - lr · decay) ≈ exp(-decay Σ lr)."""
    return math.exp(-weight_decay * lr_sum)


def lora_parameters(n: int, r: int, matrices: int) -> int:
    """Count A (r × n) and B (n × r) of every matrix."""
    return 2 * n * r * matrices


def symlora_parameters(n: int, r: int, matrices: int) -> int:
    """Count Q (n × r), Λ (r) and λ (1) of every matrix."""
    return ((n + 1) * r + 1) * matrices


def head_parameters(n: int, outputs: int) -> int:
    """Count RoBERTa's classification head: dense (n × n, n) and output (outputs × n, outputs)."""
    return n * n + n + outputs * n + outputs


def l1_over_frobenius(matrix: npt.NDArray[np.float64]) -> float:
    """Compute Σ |w| / √(Σ w²): from 1 (one entry) to the root of the number of entries (all equal)."""
    return float(np.abs(matrix).sum() / np.linalg.norm(matrix))


def norm_ratios(n: int, r: int, seed: int) -> tuple[float, float, float]:
    """Compute `l1_over_frobenius` of random n × n matrices: full rank, Q diag(Λ) Qᵀ and B A of rank r.

    All factors are standard normal.
    """
    rng = np.random.default_rng(seed)
    q, diagonal = rng.normal(size=(n, r)), rng.normal(size=r)
    b, a = rng.normal(size=(n, r)), rng.normal(size=(r, n))
    full = rng.normal(size=(n, n))
    return l1_over_frobenius(full), l1_over_frobenius((q * diagonal) @ q.T), l1_over_frobenius(b @ a)


def as_share(points: float, n: int) -> list[int]:
    """List every k with k / n printed as `points` (two decimals): can it be one run's accuracy?"""
    exact = Fraction(str(points))
    near = math.floor(exact * n / 100)
    return [k for k in (near, near + 1) if abs(Fraction(100 * k, n) - exact) <= Fraction(1, 200)]
