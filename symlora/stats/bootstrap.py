"""Bootstrap metrics over rows, or over seeds and rows together.

A resample of rows is a count per row: how often it was drawn. The metrics are functions of sums over rows, hence of
counts times fixed columns, and 10,000 resamples are one matrix product. Rows that agree in their label and in every
prediction are merged into one row with a larger count. The same seed gives the same interval.
What the metric refuses, and fewer than two rows, raise ValueError.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from symlora.metrics import functions as metrics
from symlora.stats.intervals import Interval, Reals, fisher_z, wilson

Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64] | Reals
_CELLS = 2**18  # of a matrix [resamples, rows] held at a time: 2 MiB, which caches hold


def row_interval(
    metric: str,
    predictions: npt.ArrayLike,
    labels: npt.ArrayLike,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Compute a metric with an interval over rows that suits it.

    Wilson's for accuracy, Fisher's z for Pearson's r, percentiles of resamples for the others (Efron 1979). `metric` is
    a name of METRICS in symlora.metrics.functions, predictions and labels are [rows].
    """
    predicted, true = np.asarray(predictions), np.asarray(labels)
    if metric == "accuracy":
        return wilson(int(np.sum(predicted == true)), len(true), level)
    if metric == "pearson":
        return fisher_z(metrics.pearson(predicted, true), len(true), level)
    estimates, drawn, undefined = _scores(metric, predicted[None], true, resamples, np.random.default_rng(seed))
    method = f"percentile bootstrap, n = {len(true)}"
    return _percentiles(float(estimates[0]), drawn[:, 0], undefined[:, 0], level, method)


def two_level_bootstrap(
    metric: str,
    labels: npt.ArrayLike,
    predictions_a: npt.ArrayLike,
    predictions_b: npt.ArrayLike,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Compute the mean difference with its interval over seeds and rows.

    A resample draws seeds, then rows, the same for both methods and all seeds (the pigeonhole bootstrap, Owen 2007).
    Its variance is right for the rows' part, (n - 1)/n of the truth for the part of n seeds, and three times too large
    for their interaction. With few seeds that differ much it is too narrow: report the t interval over seeds too.
    Labels are [rows], predictions [seeds, rows]; line k of a and b belong to one seed.
    """
    true, a, b = np.asarray(labels), np.asarray(predictions_a), np.asarray(predictions_b)
    if a.ndim != 2 or a.shape != b.shape or not len(a):
        raise ValueError(f"predictions must both have shape [seeds, rows], found {a.shape} and {b.shape}")
    rng, seeds = np.random.default_rng(seed), len(a)
    estimates, values, undefined = _scores(metric, np.concatenate([a, b]), true, resamples, rng)
    chosen = rng.integers(seeds, size=(resamples, seeds))
    mean_a, mean_b = (np.take_along_axis(v, chosen, axis=1).mean(axis=1) for v in np.split(values, 2, axis=1))
    either = undefined[:, :seeds] | undefined[:, seeds:]
    flags = np.asarray(np.take_along_axis(either, chosen, axis=1).any(axis=1))
    estimate = float(estimates[:seeds].mean() - estimates[seeds:].mean())
    method = f"two-level bootstrap, {seeds} seeds, n = {len(true)}"
    return _percentiles(estimate, mean_a - mean_b, flags, level, method)


def _percentiles(estimate: float, drawn: Reals, undefined: Flags, level: float, method: str) -> Interval:
    if degenerate := int(undefined.sum()):
        method += f", {degenerate} of {len(drawn)} resamples degenerate"
    defined = drawn[~np.isnan(drawn)]
    low = high = math.nan
    if len(defined) and not math.isnan(estimate):
        low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return Interval(estimate, float(low), float(high), method)


def _scores(
    metric: str, predictions: Labels, labels: Labels, resamples: int, rng: np.random.Generator
) -> tuple[Reals, Reals, Flags]:
    """Compute scores [seeds]; scores and zero divisions of resamples [resamples, seeds]."""
    if labels.shape[:1] < (2,):
        raise ValueError(f"a bootstrap needs at least 2 rows, found labels of shape {labels.shape}")
    estimates = np.array([metrics.compute([metric], row, labels)[metric] for row in predictions])
    if metric in WEIGHTED:
        merged, merged_labels, counts = merge_rows(predictions, labels)
        blocks = [WEIGHTED[metric](drawn, merged, merged_labels) for drawn in draw_counts(counts, resamples, rng)]
        return estimates, np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks])
    values = np.empty((resamples, len(predictions)))
    for line in values:
        index = rng.integers(len(labels), size=len(labels))
        line[:] = [metrics.METRICS[metric](row[index], labels[index]) for row in predictions]
    return estimates, values, np.isnan(values)


def merge_rows(predictions: Labels, labels: Labels) -> tuple[Labels, Labels, npt.NDArray[np.int64]]:
    """Merge rows into patterns: predictions [seeds, patterns], labels, counts."""
    if predictions.dtype.kind == "f" or labels.dtype.kind == "f":  # reals hardly ever repeat
        return predictions, labels, np.ones(len(labels), dtype=np.int64)
    columns, counts = np.unique(np.vstack([labels, predictions]).astype(np.int64), axis=1, return_counts=True)
    return columns[1:], columns[0], counts.astype(np.int64)


def draw_counts(counts: npt.NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Iterator[Reals]:
    """Count the patterns of each resample, in blocks [some, patterns]."""
    rows, patterns = int(counts.sum()), len(counts)
    few = 8 * patterns < rows  # then one binomial per pattern is faster than one integer per row
    block = max(1, _CELLS // (patterns if few else rows))
    pattern_of_row = np.repeat(np.arange(patterns), counts)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if few:
            yield rng.multinomial(rows, counts / rows, size=size).astype(np.float64)
        else:
            drawn = pattern_of_row[rng.integers(rows, size=(size, rows))] + patterns * np.arange(size)[:, None]
            flat = np.bincount(drawn.ravel(), minlength=size * patterns)
            yield flat.reshape(size, patterns).astype(np.float64)


def _accuracy(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    return _divide(_total(counts, predictions == labels), counts.sum(axis=1, keepdims=True))


def _f1(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    return _divide(2 * _total(counts, predictions * labels), _total(counts, predictions + labels))


def _matthews_correlation(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    rows = counts.sum(axis=1, keepdims=True)
    classes = np.arange(max(predictions.max(), labels.max()) + 1)[:, None, None]
    predicted, true = (_total(counts, each == classes) for each in (predictions, labels))  # [classes, resamples, seeds]
    covariance = rows * _total(counts, predictions == labels) - (predicted * true).sum(axis=0)
    # Whole numbers, so exact zeros; the product of the two could pass 2^53, so the root is taken of each.
    deviations = (np.sqrt(rows**2 - (each**2).sum(axis=0)) for each in (predicted, true))
    return _divide(covariance, math.prod(deviations))


def _pearson(counts: Reals, predictions: Labels, labels: Labels) -> tuple[Reals, Flags]:
    rows = counts.sum(axis=1, keepdims=True)
    x, y = _standard(predictions).T, _standard(labels)[:, None]  # centred, so that the subtractions lose few digits
    mean_x, mean_y = counts @ x / rows, counts @ y / rows
    variances = counts @ (x * x) / rows - mean_x**2, counts @ (y * y) / rows - mean_y**2
    # What cancellation leaves of a variance, where every value drawn is the same, is rounding.
    deviation_x, deviation_y = (np.sqrt(np.where(variance < 1e-12, 0.0, variance)) for variance in variances)
    return _divide(counts @ (x * y) / rows - mean_x * mean_y, deviation_x * deviation_y, otherwise=math.nan)


# counts [resamples, rows], predictions [seeds, rows], labels [rows] -> the metric of the rows drawn, and whether it
# divided by zero: [resamples, seeds] each. Metrics that are not here are computed one by one.
WEIGHTED: dict[str, Callable[[Reals, Labels, Labels], tuple[Reals, Flags]]] = {
    "matthews_correlation": _matthews_correlation,
    "accuracy": _accuracy,
    "f1": _f1,
    "pearson": _pearson,
}


def _total(counts: Reals, columns: npt.NDArray[Any]) -> Reals:
    """Sum columns [..., seeds, rows] over the rows drawn: [..., resamples, seeds]."""
    return np.asarray(counts @ columns.mT.astype(np.float64))


def _divide(above: Reals, below: Reals, otherwise: float = 0.0) -> tuple[Reals, Flags]:
    undefined = np.broadcast_to(below == 0, above.shape)
    values = np.clip(above / np.where(undefined, 1.0, below), -1.0, 1.0)
    return np.where(undefined, otherwise, values), undefined


def _standard(values: Labels) -> Reals:
    """Scale the last axis to mean 0, deviation 1; constants to zeros."""
    centred = values - values.mean(axis=-1, keepdims=True)
    equal = np.ptp(values, axis=-1, keepdims=True) == 0
    return np.where(equal, 0.0, centred / np.where(equal, 1.0, values.std(axis=-1, keepdims=True)))
