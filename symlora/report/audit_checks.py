"""The audit's arithmetic: pure functions of printed numbers.

Printed scores are handled as whole hundredths and printed ± as whole tenths of a point, so that no check depends on
how a decimal number is held in binary.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from symlora.report.published import Recipe
from symlora.stats.intervals import bernoulli_interval, printed_interval

Rule = Literal["truncated", "rounded"]
RULES: tuple[Rule, ...] = ("truncated", "rounded")
HalfWidth = Callable[[float, int], float]


def bernoulli(p: float, n: int) -> float:
    """A = 1.96 √(p (1 - p) / n), in points: the normal interval of one proportion over n examples."""
    return 100 * bernoulli_interval(p, n).half_width


def as_printed(p: float, n: int) -> float:
    """B = 1.96 s / √n with s = p (1 - p), in points: the formula in the paper's text."""
    return 100 * printed_interval(p, n).half_width


FORMULAS: Mapping[str, HalfWidth] = {"A": bernoulli, "B": as_printed}


def hundredths(score: float) -> int:
    """A printed score as whole hundredths: 0.92 → 92.

    Raises:
        ValueError: It has more than two decimals.
    """
    exact = Decimal(repr(score)) * 100
    if exact != exact.to_integral_value():
        raise ValueError(f"{score!r} has more than two decimals")
    return int(exact)


def truncate_points(points: float) -> int:
    """A score in points without its decimals: 86.6 → 86."""
    return int(Decimal(repr(points)).to_integral_value(ROUND_FLOOR))


def round_whole(points: float) -> int:
    """A score in points to the nearest whole point, half to even: 86.6 → 87."""
    return int(Decimal(repr(points)).to_integral_value(ROUND_HALF_EVEN))


def counts(score: float, n: int, rule: Rule) -> range:
    """Every number k of correct answers among n whose share k / n is printed as score.

    A share exactly halfway between two printed values counts for both under "rounded".
    """
    c = hundredths(score)
    if rule == "truncated":
        low, high = Fraction(c * n, 100), Fraction((c + 1) * n, 100)
        return range(math.ceil(low), min(math.ceil(high), n + 1))
    low, high = Fraction((2 * c - 1) * n, 200), Fraction((2 * c + 1) * n, 200)
    return range(max(math.ceil(low), 0), min(math.floor(high), n) + 1)


def prints_as(points: float, printed: float) -> bool:
    """Whether a half-width rounds to the printed one, which has one decimal; a tie may go either way."""
    return abs(points - printed) <= 0.05 + 1e-9


@lru_cache(maxsize=1024)  # asked again by several findings; QQP's test split has thousands of counts to try
def fitting_counts(score: float, half_width: float, n: int, rule: Rule, formula: str) -> tuple[int, ...]:
    """The k in counts(score, n, rule) for which the formula gives the printed ±: empty if it cannot have been used."""
    width = FORMULAS[formula]
    return tuple(k for k in counts(score, n, rule) if prints_as(width(k / n, n), half_width))


def window(score: float, rule: Rule) -> npt.NDArray[np.float64]:
    """Values, 0.0001 apart, that are printed as score: for scores that are no share of examples."""
    start = hundredths(score) * 100 - (0 if rule == "truncated" else 50)
    return np.arange(start, start + 100) / 10_000


def fits_anywhere(score: float, half_width: float, n: int, rule: Rule, width: HalfWidth) -> bool:
    """Whether some value printed as score gives the printed ±."""
    return any(prints_as(width(float(p), n), half_width) for p in window(score, rule))


def pearson_standard_error(r: float, n: int) -> float:
    """(1 - r²) / √(n - 1), in points: one standard error, not an interval."""
    return 100 * (1 - r * r) / math.sqrt(n - 1)


def two_sample_z(p: float, n: int, q: float, m: int) -> float:
    """z of the difference of two independent proportions, each with its own variance."""
    return (p - q) / math.sqrt(p * (1 - p) / n + q * (1 - q) / m)


def two_sided_p(z: float) -> float:
    """Probability that a standard normal lies as far from 0 as z, on either side."""
    return math.erfc(abs(z) / math.sqrt(2))


def learning_rate_sum(rows: int, batch: int, epochs: int, lr: float) -> float:
    """Σ lr over all steps of a linear schedule with linear warm-up.

    With T steps and w of warm-up, Σ t/w over the first w and Σ (T - t)/(T - w) over the others is T/2, whatever w.
    """
    return lr * math.ceil(rows / batch) * epochs / 2


def decayed(weight_decay: float, lr_sum: float) -> float:
    """What AdamW leaves of a parameter that has no gradient: Π (1 - lr_t · weight_decay) ≈ exp(-weight_decay Σ lr)."""
    return math.exp(-weight_decay * lr_sum)


def decayed_under(recipe: Recipe, rows: int, weight_decay: float, devices: int) -> float:
    """decayed for a task's recipe, with its batch on that many devices."""
    return decayed(weight_decay, learning_rate_sum(rows, recipe.batch * devices, recipe.epochs, recipe.lr))


def lora_parameters(n: int, r: int, matrices: int) -> int:
    """A (r × n) and B (n × r) per matrix."""
    return 2 * n * r * matrices


def symlora_parameters(n: int, r: int, matrices: int) -> int:
    """Q (n × r), Λ (r) and λ (1) per matrix."""
    return ((n + 1) * r + 1) * matrices


def head_parameters(n: int, outputs: int) -> int:
    """RoBERTa's classification head: dense (n × n, n) and output (outputs × n, outputs)."""
    return n * n + n + outputs * n + outputs


def l1_over_frobenius(matrix: npt.NDArray[np.float64]) -> float:
    """Σ |w| / √(Σ w²): from 1 (one entry) to the square root of the number of entries (all alike)."""
    return float(np.abs(matrix).sum() / np.sqrt(np.square(matrix).sum()))


def norm_ratios(n: int, r: int, seed: int) -> dict[str, float]:
    """l1_over_frobenius of random matrices of the kinds that Figure 1 compares, n × n, factors standard normal."""
    rng = np.random.default_rng(seed)
    q, diagonal = rng.normal(size=(n, r)), rng.normal(size=r)
    b, a = rng.normal(size=(n, r)), rng.normal(size=(r, n))
    return {
        "Gaussian, full rank": l1_over_frobenius(rng.normal(size=(n, n))),
        f"Q diag(Λ) Qᵀ, rank {r}": l1_over_frobenius((q * diagonal) @ q.T),
        f"B A, rank {r}": l1_over_frobenius(b @ a),
    }


def as_share(points: float, n: int) -> list[int]:
    """Every k with k / n printed as points, two decimals: can this be one run's accuracy on n examples?"""
    exact = Fraction(Decimal(repr(points)))
    near = math.floor(exact * n / 100)
    return [k for k in (near, near + 1) if abs(Fraction(100 * k, n) - exact) <= Fraction(1, 200)]


def mean(values: Iterable[float]) -> float:
    """The mean of printed decimals, without binary error."""
    exact = [Decimal(repr(value)) for value in values]
    return float(sum(exact) / len(exact))
