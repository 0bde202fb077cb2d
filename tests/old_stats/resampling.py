"""Metrics of many resamples at once.

A bootstrap resample of rows is a count per row: how often it was drawn. All GLUE metrics are functions of sums over
rows, hence of counts times fixed columns, and 10,000 resamples are one matrix product instead of 10,000 calls. Rows
that agree in their label and in every prediction are one row with a larger count, which makes QQP's 40,430 rows a few
hundred. Each function equals its namesake in symlora.metrics on the rows drawn, conventions included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from old_stats.checks import Reals
from symlora import metrics

Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64] | Reals
# counts [resamples, rows], predictions [seeds, rows], labels [rows] -> values and "divided by zero" [resamples, seeds]
Weighted = Callable[[Reals, Labels, Labels], tuple[Reals, Flags]]

_CELLS = 2**18  # of a matrix [resamples, rows] held at a time: 2 MiB, which caches hold


def accuracy(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    """Share of rows predicted correctly."""
    values = counts @ (predictions == labels).T.astype(np.float64) / counts.sum(axis=1, keepdims=True)
    return values, np.zeros(values.shape, dtype=bool)


def f1(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    """F1 of class 1 against class 0; 0 and flagged where class 1 is neither predicted nor present."""
    hits = counts @ ((predictions == 1) & (labels == 1)).T.astype(np.float64)
    marked = counts @ (predictions + labels).T.astype(np.float64)
    return _divide(2 * hits, marked, otherwise=0.0)


def matthews_correlation(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    """Matthews correlation (R_K for more than two classes); 0 and flagged where one side is of one class."""
    classes = np.arange(int(max(predictions.max(), labels.max())) + 1)
    rows = counts.sum(axis=1, keepdims=True)
    covariance = rows * (counts @ (predictions == labels).T.astype(np.float64))
    predicted_variance = np.broadcast_to(rows**2, covariance.shape).copy()
    true_variance = predicted_variance.copy()
    for number in classes:
        predicted = counts @ (predictions == number).T.astype(np.float64)  # [resamples, seeds]
        true = counts @ (labels == number).astype(np.float64)[:, None]
        covariance -= predicted * true
        predicted_variance -= predicted**2
        true_variance -= true**2
    # Whole numbers, so exact zeros; the product of the two could pass 2^53, its root is taken factor by factor.
    return _divide(covariance, np.sqrt(predicted_variance) * np.sqrt(true_variance), otherwise=0.0)


def pearson(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    """Pearson's correlation; nan and flagged where all predictions or all labels drawn are equal."""
    rows = counts.sum(axis=1, keepdims=True)
    x, y = _standard(predictions).T, _standard(labels)[:, None]  # centred first, so that the subtractions lose little
    mean_x, mean_y = counts @ x / rows, counts @ y / rows
    covariance = counts @ (x * y) / rows - mean_x * mean_y
    variance_x = counts @ (x * x) / rows - mean_x**2
    variance_y = counts @ (y * y) / rows - mean_y**2
    return _correlation(covariance, variance_x, variance_y)


def spearmanr(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    """Spearman's correlation with mean ranks for ties, the ranks taken anew in every resample; flagged as `pearson`."""
    turned = np.ascontiguousarray(counts.T)  # [rows, resamples]: ranks are running sums over rows
    rows = turned.sum(axis=0)
    true = _centred_ranks(turned, labels)
    weighted = turned * true
    true_variance = np.einsum("ij,ij->j", weighted, true)
    values, undefined = np.empty((len(counts), len(predictions))), np.empty((len(counts), len(predictions)), dtype=bool)
    for number, row in enumerate(predictions):
        predicted = _centred_ranks(turned, row)
        covariance = np.einsum("ij,ij->j", weighted, predicted)
        variance = np.einsum("ij,ij->j", turned * predicted, predicted)
        # Divided by n³, as the variance n³/12 of n different ranks, they are small where all values drawn are equal.
        values[:, number], undefined[:, number] = _correlation(
            covariance / rows**3, variance / rows**3, true_variance / rows**3
        )
    return values, undefined


WEIGHTED: dict[str, Weighted] = {
    "matthews_correlation": matthews_correlation,
    "accuracy": accuracy,
    "f1": f1,
    "pearson": pearson,
    "spearmanr": spearmanr,
}
Statistic = str | Callable[..., float]


def metric_name(statistic: Statistic) -> str | None:
    """The name of a metric of symlora.metrics given by name or as the function; None for any other function.

    ValueError: an unknown name.
    """
    if isinstance(statistic, str):
        if statistic not in WEIGHTED:
            raise ValueError(f"unknown metric {statistic!r}; known: {', '.join(WEIGHTED)}")
        return statistic
    return next((name for name, function in metrics.METRICS.items() if function is statistic), None)


def merge_rows(predictions: Labels, labels: Labels) -> tuple[Labels, Labels, npt.NDArray[np.int64]]:
    """Equal rows made one: predictions [seeds, patterns], labels [patterns] and the number of rows of each pattern."""
    if predictions.dtype.kind == "f" or labels.dtype.kind == "f":  # reals hardly ever repeat
        return predictions, labels, np.ones(len(labels), dtype=np.int64)
    table: npt.NDArray[np.int64] = np.vstack([labels, predictions]).astype(np.int64)
    columns, counts = np.unique(table, axis=1, return_counts=True)
    return columns[1:], columns[0], counts.astype(np.int64)


def draw_counts(counts: npt.NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Iterator[Reals]:
    """Bootstrap resamples of all rows: how often each pattern was drawn, in blocks [some, patterns]."""
    rows, patterns = int(counts.sum()), len(counts)
    # One binomial per pattern beats one integer per row where patterns are few.
    few = 8 * patterns < rows
    block = max(1, _CELLS // (patterns if few else rows))
    pattern_of_row = np.repeat(np.arange(patterns), counts)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if few:
            yield rng.multinomial(rows, counts / rows, size=size).astype(np.float64)
        else:
            drawn = pattern_of_row[rng.integers(rows, size=(size, rows))]
            drawn += patterns * np.arange(size)[:, None]
            flat = np.bincount(drawn.ravel(), minlength=size * patterns)
            yield flat.reshape(size, patterns).astype(np.float64)


def leave_one_out(counts: npt.NDArray[np.int64]) -> Iterator[tuple[Reals, npt.NDArray[np.int64]]]:
    """The jackknife in blocks: counts [some, patterns] with one row fewer, and how many rows each line stands for."""
    block = max(1, _CELLS // len(counts))
    for start in range(0, len(counts), block):
        lines = np.arange(start, min(start + block, len(counts)))
        left = np.tile(counts.astype(np.float64), (len(lines), 1))
        left[np.arange(len(lines)), lines] -= 1
        yield left, counts[lines]


def _divide(above: Reals, below: Reals, otherwise: float) -> tuple[Reals, Flags]:
    undefined = below == 0
    values = np.where(undefined, otherwise, above / np.where(undefined, 1.0, below))
    return np.clip(values, -1.0, 1.0), undefined


def _correlation(covariance: Reals, variance_x: Reals, variance_y: Reals) -> tuple[Reals, Flags]:
    # What is left of a variance by cancellation, where every value drawn is the same, is rounding.
    undefined = (variance_x < 1e-12) | (variance_y < 1e-12)
    scale = np.sqrt(np.where(undefined, 1.0, variance_x)) * np.sqrt(np.where(undefined, 1.0, variance_y))
    return np.where(undefined, np.nan, np.clip(covariance / scale, -1.0, 1.0)), undefined


def _standard(values: Labels) -> Reals:
    """Values along the last axis with mean 0 and standard deviation 1 (all zeros where they are all equal)."""
    centred = values - values.mean(axis=-1, keepdims=True)
    spread = values.std(axis=-1, keepdims=True)
    equal = np.ptp(values, axis=-1, keepdims=True) == 0
    standard: Reals = np.where(equal, 0.0, centred / np.where(equal, 1.0, spread))
    return standard


def _centred_ranks(turned: Reals, values: Labels) -> Reals:
    """Mid-ranks of the rows drawn, minus their mean: [rows, resamples] from counts of that shape and values [rows]."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    in_group = turned[order]
    if len(sizes) < len(values):
        in_group = np.add.reduceat(in_group, np.cumsum(sizes) - sizes, axis=0)
    middle = np.cumsum(in_group, axis=0)
    middle -= in_group / 2
    middle -= turned.sum(axis=0) / 2
    ranks: Reals = middle[group]
    return ranks
