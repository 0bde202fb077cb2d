"""Bootstraps: the metrics of weighted rows against symlora.metrics, intervals against scipy and theory, coverage.

Run: pytest tests/test_stats_bootstrap.py (about 15 s).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from symlora import stats
from symlora.metrics import functions as metrics
from symlora.stats import Interval, bootstrap, resampling

relaxed = settings(deadline=None, max_examples=60)  # other work may share the cores
Classes = npt.NDArray[np.int64]


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def noisy(labels: Classes, right: float, rng: np.random.Generator, seeds: int) -> Classes:
    """Predictions [seeds, rows] of the classes 0 and 1, each right with the chance given."""
    return np.where(rng.random((seeds, len(labels))) < right, labels, 1 - labels)


@pytest.mark.parametrize("name", resampling.WEIGHTED)
@relaxed
@given(data=st.data())
def test_metrics_of_counted_rows_equal_metrics_of_the_rows_drawn(name: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 25))
    classes = 3 if name in ("accuracy", "matthews_correlation") else 2
    real = name in ("pearson", "spearmanr")
    values = st.integers(-4, 4).map(lambda n: n / 2) if real else st.integers(0, classes - 1)
    table = data.draw(arrays(np.float64 if real else np.int64, (3, rows), elements=values))
    counts = data.draw(arrays(np.int64, (2, rows), elements=st.integers(0, 3)))
    counts[:, 0] += 2  # a correlation asks for two rows
    found, undefined = resampling.WEIGHTED[name](counts.astype(np.float64), table[1:], table[0])
    assert found.shape == undefined.shape == (2, 2)
    for line, drawn in enumerate(counts):
        for seed in range(2):
            predicted, true = np.repeat(table[1 + seed], drawn), np.repeat(table[0], drawn)
            expected = metrics.METRICS[name](predicted, true)
            assert found[line, seed] == pytest.approx(expected, abs=1e-9, nan_ok=True)
            one_value = np.ptp(predicted) == 0 or np.ptp(true) == 0
            flag = {"accuracy": False, "f1": not (predicted.any() or true.any())}.get(name, one_value)
            assert undefined[line, seed] == flag


def test_correlations_keep_their_digits_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    x = 1e6 + 1e-2 * (y + rng.normal(size=200))
    found, _ = resampling.pearson(np.ones((1, 200)), x[None], y)
    assert found[0, 0] == pytest.approx(metrics.pearson(x, y), abs=1e-9)


@pytest.mark.parametrize("rows", [12, 3000])  # the two ways of drawing: row by row, and pattern by pattern
def test_counts_are_those_of_a_bootstrap(rows: int) -> None:
    patterns = np.array([1, rows // 3, rows - rows // 3 - 1])
    drawn = np.concatenate(list(resampling.draw_counts(patterns, 20_000, np.random.default_rng(1))))
    assert drawn.shape == (20_000, 3)
    assert np.all(drawn.sum(axis=1) == rows)
    share = patterns / rows
    covariance = rows * (np.diag(share) - np.outer(share, share))  # multinomial
    assert drawn.mean(axis=0) == pytest.approx(patterns, rel=0.03)
    assert np.cov(drawn.T) == pytest.approx(covariance, abs=0.04 * float(covariance.max()))


def test_merged_rows_are_the_same_rows() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    merged, merged_labels, counts = resampling.merge_rows(noisy(labels, 0.8, rng, 2), labels)
    assert counts.sum() == 500 and len(counts) <= 8
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    found, _ = resampling.accuracy(counts[None].astype(np.float64), merged, merged_labels)
    expected = [metrics.accuracy(row, labels) for row in noisy(labels, 0.8, rng, 2)]
    assert found[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("name", ["matthews_correlation", "f1", "spearmanr", "pearson"])
def test_bootstrap_interval_agrees_with_scipy(name: str, method: Any) -> None:
    """Two bootstraps of one data set, each with its own random numbers: 0.25 of a standard error is their noise."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 150)
    predictions = noisy(labels, 0.85, rng, 1)[0]
    data: tuple[Any, Any] = (predictions, labels)
    if name in ("spearmanr", "pearson"):
        x = np.exp(rng.normal(size=80))
        data = (x, x + rng.normal(size=80))
    ours = stats.bootstrap_interval(name, *data, method=method, resamples=20_000)
    scipys = scipy.stats.bootstrap(
        data, metrics.METRICS[name], paired=True, vectorized=False, n_resamples=1500, method=method, rng=rng
    )
    tolerance = 0.25 * scipys.standard_error
    assert ends(ours) == pytest.approx(tuple(scipys.confidence_interval), abs=tolerance)
    assert ours.estimate == metrics.METRICS[name](*data)
    assert ours.over == f"rows ({'BCa' if method == 'bca' else method} bootstrap, n = {len(data[0])})"


def test_percentiles_of_bca_in_closed_form() -> None:
    """Efron & Tibshirani (1993), 14.10 and 14.15: z0 = Φ⁻¹(share below), a = Σd³ / 6(Σd²)^1.5, on either side."""
    drawn, tails = np.arange(1000.0), (0.025, 0.975)
    level_jackknife, skewed = np.array([-1.0, 0.0, 1.0]), np.array([0.0, 0.0, 3.0])
    z0 = scipy.stats.norm.ppf(0.6)
    found = bootstrap._bca_tails(599.5, drawn, level_jackknife, tails)
    assert found == pytest.approx(tuple(scipy.stats.norm.cdf([2 * z0 - 1.959964, 2 * z0 + 1.959964])), abs=1e-6)
    a = (1 + 1 - 8) / (6 * (1 + 1 + 4) ** 1.5)  # deviations mean - value: 1, 1, -2
    expected = scipy.stats.norm.cdf([z / (1 - a * z) for z in (-1.959964, 1.959964)])
    assert bootstrap._bca_tails(499.5, drawn, skewed, tails) == pytest.approx(tuple(expected), abs=1e-6)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_any_function_may_be_the_statistic(method: Any) -> None:
    """A metric wrapped in a function of its own takes the slow way, and finds the same interval."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 200)
    predictions = noisy(labels, 0.8, rng, 1)[0]
    named = stats.bootstrap_interval("accuracy", predictions, labels, method=method)
    function = stats.bootstrap_interval(metrics.accuracy, predictions, labels, method=method)
    assert named == function
    wrapped = stats.bootstrap_interval(lambda p, t: float(np.mean(p == t)), predictions, labels, method=method)
    assert ends(wrapped) == pytest.approx(ends(named), abs=0.0076)  # one row and a half
    assert wrapped.estimate == named.estimate


def test_a_seed_fixes_the_interval() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 300)
    a, b, scores = noisy(labels, 0.8, rng, 3), noisy(labels, 0.7, rng, 3), rng.normal(size=7)
    calls: list[Callable[[int], Any]] = [
        lambda seed: stats.bootstrap_interval("f1", a[0], labels, seed=seed, resamples=500),
        lambda seed: stats.two_level_bootstrap("f1", labels, a, b, seed=seed, resamples=500),
        lambda seed: stats.paired_bootstrap("f1", labels, a, b, seed=seed, resamples=500).difference,
        lambda seed: stats.macro_mean_interval([scores, scores + 0.1], seed=seed, resamples=500),
    ]
    for call in calls:
        assert call(0) == call(0)
        assert ends(call(0)) != ends(call(1))


def test_degenerate_resamples_are_counted_and_named() -> None:
    """One positive row of 20: a share (19/20)^20 = 36 % of resamples has none, and no Matthews correlation."""
    labels = np.array([1] + [0] * 19)
    predictions = np.array([1, 1] + [0] * 18)
    interval = stats.bootstrap_interval("matthews_correlation", predictions, labels, resamples=10_000)
    assert interval.degenerate == pytest.approx(10_000 * (19 / 20) ** 20, abs=200)
    assert interval.over.endswith(f"{interval.degenerate} of 10000 resamples degenerate)")
    assert interval.low == 0.0  # by convention they count as 0
    x, y = labels.astype(np.float64), np.arange(20.0)
    correlation = stats.bootstrap_interval("pearson", x, y, resamples=10_000)
    assert correlation.degenerate == pytest.approx(10_000 * (19 / 20) ** 20, abs=200)
    assert math.isfinite(correlation.low)  # of the resamples that have one
    constant = stats.bootstrap_interval("pearson", np.ones(20), y, resamples=100)
    assert constant.degenerate == 100 and math.isnan(constant.estimate) and math.isnan(constant.low)


def test_bootstrap_of_the_matthews_correlation_covers() -> None:
    """A split of RTE's size with 4 kinds of rows, MCC 0.6. 800 experiments: ± 0.8 of noise."""
    cells = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    chances = np.array([0.40, 0.08, 0.12, 0.40])
    (tn, fn, fp, tp) = chances
    truth = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    rng = np.random.default_rng(6)
    covered = {"percentile": 0, "bca": 0}
    for _ in range(800):
        predictions, labels = cells[rng.choice(4, size=277, p=chances)].T
        method: Any
        for method in covered:
            interval = stats.bootstrap_interval(
                "matthews_correlation", predictions, labels, resamples=400, method=method
            )
            covered[method] += interval.low <= truth <= interval.high
    assert {name: abs(count / 800 - 0.95) < 0.015 for name, count in covered.items()} == dict.fromkeys(covered, True)


def test_percentile_bootstrap_over_five_seeds_is_too_narrow() -> None:
    """style_and_stats.md C4: 83.6 % for nominal 95 % at n = 5. One task's macro mean is its mean over seeds."""
    samples = np.random.default_rng(7).normal(size=(3000, 5))
    intervals = [stats.macro_mean_interval([sample], resamples=500) for sample in samples]
    assert abs(np.mean([i.low <= 0 <= i.high for i in intervals]) - 0.836) < 0.02
    plain = stats.bootstrap_interval(np.mean, samples[0], resamples=4000)
    assert ends(plain) == pytest.approx(ends(intervals[0]), abs=0.15 * plain.half_width)


def test_macro_mean_interval_covers() -> None:
    """8 tasks of 5 seeds: Welch 95 %; the bootstrap's variance is 4/5 of the truth, hence some 91.5 %."""
    spreads = np.array([0.1, 0.2, 0.2, 0.3, 0.3, 0.5, 0.7, 1.2])
    samples = np.random.default_rng(8).normal(size=(1200, 8, 5)) * spreads[:, None]
    plain = [stats.macro_mean_interval(list(sample), resamples=500) for sample in samples]
    welch = [stats.macro_mean_interval(list(sample), method="welch") for sample in samples]
    assert abs(np.mean([i.low <= 0 <= i.high for i in welch]) - 0.95) < 0.015
    shortfall = float(np.mean([i.low <= 0 <= i.high for i in plain]))
    assert 0.87 < shortfall < 0.93
    narrower = np.mean([b.half_width for b in plain]) / np.mean([8**-1 * _normal_half_width(s) for s in samples])
    assert narrower == pytest.approx(math.sqrt(4 / 5), abs=0.02)


def _normal_half_width(sample: npt.NDArray[np.float64]) -> float:
    return 1.96 * math.sqrt(float(np.sum(sample.var(axis=1, ddof=1) / 5)))


def test_macro_mean_interval_in_closed_form() -> None:
    tasks: list[npt.ArrayLike] = [[0.5, 0.6, 0.7], [0.9, 0.9]]
    interval = stats.macro_mean_interval(tasks)
    assert interval.estimate == pytest.approx((0.6 + 0.9) / 2)
    assert interval.over == "seeds within 2 tasks (stratified bootstrap)"
    # The task without spread adds nothing: Welch is half the one-task t interval.
    welch = stats.macro_mean_interval(tasks, method="welch")
    assert welch.half_width == pytest.approx(stats.t_interval([0.5, 0.6, 0.7]).half_width / 2)
    one_seed = stats.macro_mean_interval([[0.5, 0.6], [0.9]])
    assert one_seed.estimate == pytest.approx(0.725) and math.isnan(one_seed.low)


def test_two_level_variance_is_owens() -> None:
    """Of the pigeonhole bootstrap (Owen 2007): seeds' and rows' parts as they are, the interaction three times over."""
    rng = np.random.default_rng(9)
    seeds, rows = 40, 400
    labels = np.ones(rows, dtype=np.int64)
    row, seed = 1.2 * rng.normal(size=rows), 0.4 * rng.normal(size=(seeds, 1))
    a = (row + seed + rng.normal(size=(seeds, rows)) > -1).astype(np.int64)
    b = np.zeros((seeds, rows), dtype=np.int64)  # always wrong: the difference is a's accuracy
    interval = stats.two_level_bootstrap("accuracy", labels, a, b, resamples=20_000)
    mean = a.mean()
    seed_part, row_part = a.mean(axis=1) - mean, a.mean(axis=0) - mean
    rest = a - mean - seed_part[:, None] - row_part
    variance = np.mean(seed_part**2) / seeds + np.mean(row_part**2) / rows + np.mean(rest**2) / (seeds * rows)
    assert interval.half_width == pytest.approx(1.96 * math.sqrt(variance), rel=0.03)
    assert interval.estimate == pytest.approx(mean)
    assert interval.over == "seeds and rows (two-level bootstrap, 40 seeds, n = 400)"


@pytest.mark.parametrize(
    ("seed_spread", "row_spread", "noise", "seeds", "low", "high"),
    [
        (0.0, 1.0, 0.0, 10, 0.935, 0.965),  # rows alone: right
        (0.2, 1.0, 0.0, 12, 0.92, 0.965),  # both, more seeds: nearly right
        (0.0, 0.0, 1.0, 10, 0.985, 1.0),  # interaction alone: √3 too wide, 99.9 %
        (0.5, 0.0, 0.0, 5, 0.79, 0.87),  # five seeds alone: too narrow, as any bootstrap of five
    ],
)
def test_two_level_coverage_is_what_theory_says(
    seed_spread: float,
    row_spread: float,
    noise: float,
    seeds: int,
    low: float,
    high: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Theory speaks of means of normal effects, so the metric is here the mean of the predictions: a holds truth, seed
    effects, row effects and noise, b zeros.
    """

    def mean(counts: Any, predictions: Any, labels: Any) -> Any:
        values = counts @ predictions.T / counts.sum(axis=1, keepdims=True)
        return values, np.zeros(values.shape, dtype=bool)

    monkeypatch.setitem(resampling.WEIGHTED, "accuracy", mean)
    monkeypatch.setitem(metrics.METRICS, "accuracy", lambda predictions, labels: float(np.mean(predictions)))
    rng, rows, experiments, truth, covered = np.random.default_rng(10), 60, 600, 0.1, 0
    for _ in range(experiments):
        a = truth + seed_spread * rng.normal(size=(seeds, 1)) + row_spread * rng.normal(size=rows)
        a = a + noise * rng.normal(size=(seeds, rows))
        interval = stats.two_level_bootstrap("accuracy", np.zeros(rows), a, np.zeros_like(a), resamples=200)
        covered += interval.low <= truth <= interval.high
    assert low <= covered / experiments <= high


def test_two_level_pairing() -> None:
    rng = np.random.default_rng(11)
    labels = np.repeat([0, 1], 150)
    good, poor = noisy(labels, 0.95, rng, 1)[0], noisy(labels, 0.55, rng, 1)[0]
    a = np.array([good, poor, good, poor])
    # The same models for both: paired, each resample compares a model with itself.
    same = stats.two_level_bootstrap("accuracy", labels, a, a, resamples=500)
    assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)
    unpaired = stats.two_level_bootstrap("accuracy", labels, a, a, resamples=500, paired=False)
    assert unpaired.estimate == 0.0 and unpaired.low < -0.15 and unpaired.high > 0.15
    # Order of seeds and of rows says nothing; exchanging the methods turns the sign.
    b = noisy(labels, 0.7, rng, 4)
    order, rows = rng.permutation(4), rng.permutation(300)
    first = stats.two_level_bootstrap("accuracy", labels, a, b)
    shuffled = stats.two_level_bootstrap("accuracy", labels[rows], a[order][:, rows], b[order][:, rows])
    assert shuffled.estimate == pytest.approx(first.estimate, abs=1e-12)
    assert ends(shuffled) == pytest.approx(ends(first), abs=0.05 * first.half_width)
    exchanged = stats.two_level_bootstrap("accuracy", labels, b, a)
    assert (-exchanged.high, -exchanged.low) == pytest.approx(ends(first), abs=0.05 * first.half_width)
    other = stats.two_level_bootstrap("accuracy", labels, a, b[:2], paired=False, resamples=200)
    assert other.over == "seeds and rows (two-level bootstrap, 4 and 2 seeds, n = 300)"


@pytest.mark.parametrize("statistic", ["pearson", metrics.pearson])
def test_a_collapsed_seed_leaves_the_correlation_undefined_and_said(statistic: Any) -> None:
    rng = np.random.default_rng(12)
    y = rng.normal(size=50)
    a = np.stack([y + rng.normal(size=50), np.ones(50)])
    b = y + rng.normal(size=(2, 50))
    interval = stats.two_level_bootstrap(statistic, y, a, b, resamples=400)
    assert math.isnan(interval.estimate) and math.isnan(interval.low)
    assert interval.degenerate == pytest.approx(300, abs=40)  # 3 of 4 draws of two seeds hold the collapsed one


def test_two_level_bootstrap_takes_any_function() -> None:
    rng = np.random.default_rng(13)
    labels = rng.integers(0, 2, 100)
    a, b = noisy(labels, 0.9, rng, 3), noisy(labels, 0.7, rng, 3)
    named = stats.two_level_bootstrap("accuracy", labels, a, b, resamples=2000)
    wrapped = stats.two_level_bootstrap(lambda p, t: float(np.mean(p == t)), labels, a, b, resamples=2000)
    assert wrapped.estimate == pytest.approx(named.estimate, abs=1e-12)
    assert ends(wrapped) == pytest.approx(ends(named), abs=0.1 * named.half_width)


def test_ten_thousand_resamples_take_seconds_at_most() -> None:
    """CoLA, both methods, five seeds; 0.2 s on a free core, where a loop over symlora.metrics.functions takes 5 s."""
    rng = np.random.default_rng(14)
    labels = rng.integers(0, 2, 1043)
    a, b = noisy(labels, 0.8, rng, 5), noisy(labels, 0.8, rng, 5)
    start = time.process_time()
    stats.two_level_bootstrap("matthews_correlation", labels, a, b)
    assert time.process_time() - start < 3


LABELS = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.bootstrap_interval("f1"), "equally many rows"),
        (lambda: stats.bootstrap_interval("f1", LABELS, LABELS[:3]), "equally many rows"),
        (lambda: stats.bootstrap_interval("f1", LABELS[:1], LABELS[:1]), "at least 2 rows"),
        (lambda: stats.bootstrap_interval("f1", LABELS), "predictions and labels"),
        (lambda: stats.bootstrap_interval("f1", LABELS + 1, LABELS), "classes 0 and 1"),
        (lambda: stats.bootstrap_interval("bleu", LABELS, LABELS), "unknown metric 'bleu'"),
        (lambda: stats.bootstrap_interval("pearson", [0.1, math.nan], [0.1, 0.2]), "array 0 must hold finite"),
        (lambda: stats.bootstrap_interval("f1", LABELS, LABELS, resamples=0), "resamples"),
        (lambda: stats.bootstrap_interval("f1", LABELS, LABELS, method="magic"), "'magic'"),  # type: ignore[arg-type]
        (lambda: stats.bootstrap_interval("f1", LABELS, LABELS, level=0), "level"),
        (lambda: stats.two_level_bootstrap("f1", LABELS, LABELS, LABELS), r"\[seeds, rows\]"),
        (lambda: stats.two_level_bootstrap("f1", LABELS, LABELS[None, :3], LABELS[None]), r"\(1, 3\) and \(4,\)"),
        (lambda: stats.two_level_bootstrap("f1", LABELS, LABELS[None], np.stack([LABELS] * 2)), "found 1 and 2"),
        (lambda: stats.macro_mean_interval([]), "no tasks"),
        (lambda: stats.macro_mean_interval([[0.5, 0.6], []]), "task 1: at least 1"),
        (lambda: stats.macro_mean_interval([[0.5, math.nan]]), "task 0 hold nan"),
        (lambda: stats.macro_mean_interval([[0.5, 0.6]], method="t"), "'t'"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused(call: Callable[[], Interval], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
