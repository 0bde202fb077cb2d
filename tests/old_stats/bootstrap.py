"""Bootstrap intervals over rows, over seeds and rows, and over seeds within tasks. Every one takes a seed and is a
function of it: the same call gives the same interval. Scores in any unit.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from old_stats import checks, resampling
from old_stats.checks import Reals
from old_stats.intervals import Interval
from old_stats.resampling import Flags, Labels, Statistic
from symlora import metrics

Method = Literal["percentile", "bca"]


def bootstrap_interval(
    statistic: Statistic,
    *arrays: npt.ArrayLike,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "percentile",
    rows: str = "rows",
) -> Interval:
    """Interval of statistic(*arrays) over rows (Efron 1979), all arrays [rows, ...] resampled together.

    statistic: a metric of symlora.metrics, by name or as the function, with arrays = predictions, labels (seconds for
    10,000 resamples of a GLUE split); or any function of the arrays that returns a number (called once per resample).
    method: "percentile", or "bca" (bias-corrected and accelerated, Efron 1987). Over a handful of values, such as
    seeds, both are much too narrow: percentiles of 5 values cover 84 % for 95 %. Use `t_interval` there.
    rows: what the rows are, for `over`. Undefined resamples are counted in `degenerate`, see `Interval`.

    ValueError: no arrays, unequal numbers of rows, fewer than 2 rows, values not finite, what the metric refuses,
    resamples < 1, an unknown method or metric name.
    """
    checks.level(level)
    _check(resamples, method)
    n, estimate, drawn, undefined = _resample(statistic, arrays, resamples, np.random.default_rng(seed))
    kept = drawn[~np.isnan(drawn)]
    tails = ((1 - level) / 2, (1 + level) / 2)
    if method == "bca" and len(kept):
        tails = _bca_tails(estimate, kept, _jackknife(statistic, arrays), tails)
    over = f"{rows} ({'BCa' if method == 'bca' else method} bootstrap, n = {n})"
    return _interval(estimate, kept, tails, level, over, resamples, int(undefined.sum()))


def two_level_bootstrap(
    statistic: Statistic,
    labels: npt.ArrayLike,
    predictions_a: npt.ArrayLike,
    predictions_b: npt.ArrayLike,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    paired: bool = True,
    rows: str = "rows",
) -> Interval:
    """Difference a - b of the mean score over seeds, with both seeds and rows drawn anew.

    labels [rows], predictions [seeds, rows]. A resample draws seeds, then rows; the rows are the same for all seeds and
    both methods, and so are the seeds if `paired` (line k of a and b then belong to one seed; else the numbers of seeds
    may differ). This is the pigeonhole bootstrap (Owen 2007) of a crossed table: its variance is right for the rows'
    part, (n - 1)/n of the truth for the part of n seeds, and three times too large for their interaction. With few
    seeds that differ much it is therefore too narrow: put the t interval over seeds beside it.

    statistic: a metric of symlora.metrics, by name or as the function, or any function of predictions [rows] and labels
    [rows] that returns a number. Errors as `bootstrap_interval`, and ValueError for unequal numbers of seeds if paired.
    """
    checks.level(level)
    _check(resamples)
    true, a, b = check_predictions(labels, predictions_a, predictions_b)
    if paired and len(a) != len(b):
        raise ValueError(f"paired seeds: predictions must be of equally many seeds, found {len(a)} and {len(b)}")
    rng = np.random.default_rng(seed)
    estimates, values, undefined = seed_scores(statistic, true, np.concatenate([a, b]), resamples, rng)
    draws_a = _draw_seeds(len(a), resamples, rng)
    draws_b = draws_a if paired else _draw_seeds(len(b), resamples, rng)
    split = len(a)
    drawn = np.take_along_axis(values[:, :split], draws_a, axis=1).mean(axis=1) - np.take_along_axis(
        values[:, split:], draws_b, axis=1
    ).mean(axis=1)
    flags = np.take_along_axis(undefined[:, :split], draws_a, axis=1).any(axis=1) | np.take_along_axis(
        undefined[:, split:], draws_b, axis=1
    ).any(axis=1)
    estimate = float(estimates[:split].mean() - estimates[split:].mean())
    seeds = f"{len(a)}" if len(a) == len(b) else f"{len(a)} and {len(b)}"
    over = f"seeds and {rows} (two-level bootstrap, {seeds} seeds, n = {len(true)})"
    tails = ((1 - level) / 2, (1 + level) / 2)
    return _interval(estimate, drawn[~np.isnan(drawn)], tails, level, over, resamples, int(flags.sum()))


def macro_mean_interval(
    scores_by_task: list[npt.ArrayLike],
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Literal["bootstrap", "welch"] = "bootstrap",
) -> Interval:
    """Mean over tasks of the mean over seeds; the tasks are fixed, the seeds of each drawn anew, task by task.

    scores_by_task: one array [seeds of that task] per task; the numbers of seeds may differ.
    method: "bootstrap", percentiles of the stratified bootstrap (rliable's, Agarwal et al. 2021), whose variance is
    (n - 1)/n of the truth for n seeds: over 8 tasks of 5 seeds it covers about 91 % for 95 %; or "welch", ± t · √(Σ
    s²/n) / tasks with Satterthwaite's degrees of freedom, which has no such shortfall.
    A task with one seed has no spread that could be seen: low and high are nan.
    ValueError: no tasks, a task without scores, scores not finite, resamples < 1, an unknown method.
    """
    checks.level(level)
    _check(resamples)
    if method not in ("bootstrap", "welch"):
        raise ValueError(f"method must be 'bootstrap' or 'welch', found {method!r}")
    if not scores_by_task:
        raise ValueError("no tasks to average")
    tasks = [checks.sample(scores, f"scores of task {number}") for number, scores in enumerate(scores_by_task)]
    estimate = float(np.mean([task.mean() for task in tasks]))
    over = f"seeds within {len(tasks)} tasks ({'Welch t' if method == 'welch' else 'stratified bootstrap'})"
    if min(len(task) for task in tasks) < 2:
        return Interval(estimate, math.nan, math.nan, level, over)
    if method == "welch":
        half = _welch_half_width(tasks, level)
        return Interval(estimate, estimate - half, estimate + half, level, over)
    rng = np.random.default_rng(seed)
    means = [task[rng.integers(len(task), size=(resamples, len(task)))].mean(axis=1) for task in tasks]
    tails = ((1 - level) / 2, (1 + level) / 2)
    return _interval(estimate, np.mean(means, axis=0), tails, level, over, resamples, 0)


def rows_interval(
    statistic: Statistic, labels: Labels, a: Labels, b: Labels, level: float, resamples: int, seed: int, rows: str
) -> tuple[Interval, Reals]:
    """The interval behind `comparisons.paired_bootstrap`, and the differences in the resamples that define one."""
    _check(resamples)
    rng = np.random.default_rng(seed)
    estimates, values, undefined = seed_scores(statistic, labels, np.concatenate([a, b]), resamples, rng)
    drawn = values[:, : len(a)].mean(axis=1) - values[:, len(a) :].mean(axis=1)
    drawn = drawn[~np.isnan(drawn)]
    estimate = float(estimates[: len(a)].mean() - estimates[len(a) :].mean())
    tails = ((1 - level) / 2, (1 + level) / 2)
    over = f"{rows} (paired bootstrap, n = {len(labels)})"
    return _interval(estimate, drawn, tails, level, over, resamples, int(undefined.any(axis=1).sum())), drawn


def seed_scores(
    statistic: Statistic, labels: Labels, predictions: Labels, resamples: int, rng: np.random.Generator
) -> tuple[Reals, Reals, Flags]:
    """Scores [seeds] of predictions [seeds, rows], and of resampled rows: values and undefined [resamples, seeds]."""
    name = resampling.metric_name(statistic)
    if name is None:
        assert not isinstance(statistic, str)
        estimates = np.array([float(statistic(row, labels)) for row in predictions])
        drawn = np.empty((resamples, len(predictions)))
        for number in range(resamples):
            index = rng.integers(len(labels), size=len(labels))
            drawn[number] = [statistic(row[index], labels[index]) for row in predictions]
        return estimates, drawn, np.isnan(drawn)
    estimates = np.array([metrics.METRICS[name](row, labels) for row in predictions])
    merged, merged_labels, counts = resampling.merge_rows(predictions, labels)
    blocks = [
        resampling.WEIGHTED[name](block, merged, merged_labels)
        for block in resampling.draw_counts(counts, resamples, rng)
    ]
    return estimates, np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks])


def _resample(
    statistic: Statistic, arrays: tuple[npt.ArrayLike, ...], resamples: int, rng: np.random.Generator
) -> tuple[int, float, Reals, Flags]:
    """Rows, the statistic, and of resamples: the statistic and whether it was undefined, [resamples] each."""
    columns = _columns(arrays)
    if resampling.metric_name(statistic) is not None:
        predictions, labels = _metric_columns(columns)
        estimates, values, undefined = seed_scores(statistic, labels, predictions[None], resamples, rng)
        return len(labels), float(estimates[0]), values[:, 0], undefined[:, 0]
    assert not isinstance(statistic, str)
    n = len(columns[0])
    drawn = np.empty(resamples)
    for number in range(resamples):
        index = rng.integers(n, size=n)
        drawn[number] = statistic(*(column[index] for column in columns))
    return n, float(statistic(*columns)), drawn, np.isnan(drawn)


def _jackknife(statistic: Statistic, arrays: tuple[npt.ArrayLike, ...]) -> Reals:
    """The statistic without row i, for every i: [rows]."""
    columns = _columns(arrays)
    name = resampling.metric_name(statistic)
    if name is None:
        assert not isinstance(statistic, str)
        return np.array([statistic(*(np.delete(c, i, axis=0) for c in columns)) for i in range(len(columns[0]))])
    predictions, labels = _metric_columns(columns)
    merged, merged_labels, counts = resampling.merge_rows(predictions[None], labels)
    blocks = [
        np.repeat(resampling.WEIGHTED[name](left, merged, merged_labels)[0][:, 0], times)
        for left, times in resampling.leave_one_out(counts)
    ]
    return np.concatenate(blocks)


def _bca_tails(estimate: float, drawn: Reals, jackknife: Reals, tails: tuple[float, float]) -> tuple[float, float]:
    """The percentiles that BCa reads instead of `tails` (Efron & Tibshirani 1993, ch. 14); nan if there are none."""
    below = (np.sum(drawn < estimate) + np.sum(drawn <= estimate)) / (2 * len(drawn))
    bias = float(stats.norm.ppf(below))
    deviations = jackknife.mean() - jackknife
    spread = float(np.sum(deviations**2))
    acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + stats.norm.ppf(tails)
    low, high = stats.norm.cdf(bias + z / (1 - acceleration * z))
    return float(low), float(high)


def _interval(
    estimate: float, drawn: Reals, tails: tuple[float, float], level: float, over: str, resamples: int, degenerate: int
) -> Interval:
    defined = len(drawn) > 0 and not math.isnan(estimate) and not any(math.isnan(tail) for tail in tails)
    low, high = np.quantile(drawn, tails) if defined else (math.nan, math.nan)
    if degenerate:
        over = f"{over[:-1]}, {degenerate} of {resamples} resamples degenerate)"
    return Interval(estimate, float(low), float(high), float(level), over, resamples, degenerate)


def _welch_half_width(tasks: list[Reals], level: float) -> float:
    variances = np.array([task.var(ddof=1) / len(task) for task in tasks])
    freedom = np.array([len(task) - 1 for task in tasks])
    if all(checks.is_constant(task) for task in tasks):
        return 0.0
    degrees = variances.sum() ** 2 / np.sum(variances**2 / freedom)
    return float(stats.t.ppf((1 + level) / 2, degrees) * np.sqrt(variances.sum()) / len(tasks))


def _draw_seeds(seeds: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return rng.integers(seeds, size=(resamples, seeds))


def check_predictions(
    labels: npt.ArrayLike, predictions_a: npt.ArrayLike, predictions_b: npt.ArrayLike
) -> tuple[Labels, Labels, Labels]:
    """Labels [rows] and both predictions [seeds, rows] as arrays. ValueError: other shapes, no finite numbers."""
    true, a, b = np.asarray(labels), np.asarray(predictions_a), np.asarray(predictions_b)
    for what, values in (("predictions_a", a), ("predictions_b", b)):
        if values.ndim != 2 or true.ndim != 1 or values.shape[1:] != true.shape or not len(values):
            raise ValueError(
                f"{what} must have shape [seeds, rows] and labels [rows], found {values.shape} and {true.shape}"
            )
    _columns((true, a.T, b.T))
    return true, a, b


def _columns(arrays: tuple[npt.ArrayLike, ...]) -> list[Labels]:
    columns = [np.asarray(array) for array in arrays]
    if not columns or any(column.ndim == 0 or len(column) != len(columns[0]) for column in columns):
        raise ValueError(f"arrays of equally many rows needed, found shapes {[column.shape for column in columns]}")
    if len(columns[0]) < 2:
        raise ValueError(f"a bootstrap needs at least 2 rows, found {len(columns[0])}")
    for number, column in enumerate(columns):
        if column.dtype.kind not in "iubf" or not np.all(np.isfinite(column)):
            raise ValueError(f"array {number} must hold finite numbers only")
    return columns


def _metric_columns(columns: list[Labels]) -> tuple[Labels, Labels]:
    if len(columns) != 2 or any(column.ndim != 1 for column in columns):
        raise ValueError(
            f"a metric takes predictions and labels of shape [rows], found {[column.shape for column in columns]}"
        )
    return columns[0], columns[1]


def _check(resamples: int, method: str = "percentile") -> None:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, found {resamples}")
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be 'percentile' or 'bca', found {method!r}")
