"""Check bootstraps against the rows drawn, scipy and theory."""

import math
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
from symlora.stats import Interval, bootstrap

Classes = npt.NDArray[np.int64]


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def noisy(labels: Classes, right: float, rng: np.random.Generator, seeds: int) -> Classes:
    """Draw predictions [seeds, rows], each right with this chance."""
    return np.where(rng.random((seeds, len(labels))) < right, labels, 1 - labels)


@pytest.mark.parametrize("name", bootstrap.WEIGHTED)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_metrics_of_counted_rows_equal_metrics_of_the_rows_drawn(name: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 25))
    classes = 3 if name in ("accuracy", "matthews_correlation") else 2
    real = name == "pearson"
    values = st.integers(-4, 4).map(lambda n: n / 2) if real else st.integers(0, classes - 1)
    table = data.draw(arrays(np.float64 if real else np.int64, (3, rows), elements=values))
    counts = data.draw(arrays(np.int64, (2, rows), elements=st.integers(0, 3)))
    counts[:, 0] += 2  # a correlation asks for two rows
    found, undefined = bootstrap.WEIGHTED[name](counts.astype(np.float64), table[1:], table[0])
    for line, drawn in enumerate(counts):
        for seed in range(2):
            predicted, true = np.repeat(table[1 + seed], drawn), np.repeat(table[0], drawn)
            assert found[line, seed] == pytest.approx(metrics.METRICS[name](predicted, true), abs=1e-9, nan_ok=True)
            one_value = np.ptp(predicted) == 0 or np.ptp(true) == 0
            flag = {"accuracy": False, "f1": not (predicted.any() or true.any())}.get(name, one_value)
            assert undefined[line, seed] == flag


def test_correlations_at_the_edge_of_rounding() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    x = 1e6 + 1e-2 * (y + rng.normal(size=200))
    found, _ = bootstrap.WEIGHTED["pearson"](np.ones((1, 200)), x[None], y)
    assert found[0, 0] == pytest.approx(metrics.METRICS["pearson"](x, y), abs=1e-9)
    y[1], counts = y[0], rng.integers(1, 99, (50, 200)) * (np.arange(200) < 2)  # the two rows drawn are equal
    for pair in ((y[None], x), (x[None], y)):
        assert bootstrap.WEIGHTED["pearson"](counts.astype(np.float64), *pair)[1].all()


@pytest.mark.parametrize("rows", [12, 3000])  # the two ways of drawing: row by row, and pattern by pattern
def test_counts_are_those_of_a_bootstrap(rows: int) -> None:
    patterns = np.array([1, rows // 3, rows - rows // 3 - 1])
    drawn = np.concatenate(list(bootstrap.draw_counts(patterns, 20_000, np.random.default_rng(1))))
    assert drawn.shape == (20_000, 3) and np.all(drawn.sum(axis=1) == rows)
    share = patterns / rows
    covariance = rows * (np.diag(share) - np.outer(share, share))  # multinomial
    assert drawn.mean(axis=0) == pytest.approx(patterns, rel=0.03)
    assert np.cov(drawn.T) == pytest.approx(covariance, abs=0.04 * float(covariance.max()))


@pytest.mark.parametrize("name", ["matthews_correlation", "f1", "spearmanr"])
def test_row_interval_agrees_with_scipy(name: str) -> None:
    # Two bootstraps, each with its own random numbers: 0.25 of a standard error is their noise.
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 150)
    data: tuple[Any, Any] = (noisy(labels, 0.85, rng, 1)[0], labels)
    if name == "spearmanr":
        x = np.exp(rng.normal(size=80))
        data = (x, x + rng.normal(size=80))
    ours = stats.row_interval(name, *data, resamples=2000 if name == "spearmanr" else 20_000)
    scipys = scipy.stats.bootstrap(
        data, metrics.METRICS[name], paired=True, vectorized=False, n_resamples=1500, method="percentile", rng=rng
    )
    assert ends(ours) == pytest.approx(tuple(scipys.confidence_interval), abs=0.25 * scipys.standard_error)
    assert ours.estimate == metrics.METRICS[name](*data)
    assert ours.method == f"percentile bootstrap, n = {len(data[0])}"


def test_frozen_figures() -> None:
    # The tables of make report stay the same as long as these do.
    labels = np.arange(300) % 2
    right = np.arange(300) * 7919 % 101 > 9
    interval = stats.row_interval("matthews_correlation", np.where(right, labels, 1 - labels), labels)
    assert ends(interval) == pytest.approx((0.7301226716913162, 0.8663697322469996), abs=1e-9)
    x, waves = np.sin(np.arange(300.0)), np.arange(900.0).reshape(3, 300)
    a, b = x + np.cos(1.7 * waves), x + 1.5 * np.cos(2.3 * waves)
    both = stats.two_level_bootstrap("pearson", x, a, b, resamples=500)
    assert ends(both) == pytest.approx((0.09518987541459767, 0.21254780968985787), abs=1e-9)
    assert ends(stats.two_level_bootstrap("pearson", x, a, b, resamples=500, seed=1)) != ends(both)


def test_degenerate_resamples_are_counted_and_named() -> None:
    # One positive row of 20: a share (19/20)^20 = 36 % of resamples has none, and no Matthews correlation.
    labels = np.array([1] + [0] * 19)
    interval = stats.row_interval("matthews_correlation", np.array([1, 1] + [0] * 18), labels)
    assert interval.degenerate == pytest.approx(10_000 * (19 / 20) ** 20, abs=200)
    assert interval.method.endswith(f", {interval.degenerate} of 10000 resamples degenerate")
    assert interval.low == 0.0  # by convention they count as 0
    correlation = stats.row_interval("spearmanr", labels, np.arange(20.0))
    assert math.isfinite(correlation.low)  # of the resamples that have one
    constant = stats.row_interval("spearmanr", np.ones(20), np.arange(20.0), resamples=100)
    assert constant.degenerate == 100 and math.isnan(constant.estimate) and math.isnan(constant.low)


def test_two_level_variance_is_owens() -> None:
    # Owen 2007, the pigeonhole bootstrap: seeds' and rows' parts as they are, the interaction three times over.
    rng, seeds, rows = np.random.default_rng(9), 40, 400
    row, seed = 1.2 * rng.normal(size=rows), 0.4 * rng.normal(size=(seeds, 1))
    a = (row + seed + rng.normal(size=(seeds, rows)) > -1).astype(np.int64)
    b = np.zeros((seeds, rows), dtype=np.int64)  # always wrong: the difference is a's accuracy
    interval = stats.two_level_bootstrap("accuracy", np.ones(rows, dtype=np.int64), a, b, resamples=20_000)
    mean = a.mean()
    seed_part, row_part = a.mean(axis=1) - mean, a.mean(axis=0) - mean
    rest = a - mean - seed_part[:, None] - row_part
    variance = np.mean(seed_part**2) / seeds + np.mean(row_part**2) / rows + np.mean(rest**2) / (seeds * rows)
    assert interval.half_width == pytest.approx(1.96 * math.sqrt(variance), rel=0.03)
    assert interval.estimate == pytest.approx(mean)
    assert interval.method == "two-level bootstrap, 40 seeds, n = 400"


def test_two_level_bootstrap_pairs_seeds() -> None:
    rng = np.random.default_rng(11)
    labels = np.repeat([0, 1], 150)
    a = np.concatenate([noisy(labels, 0.95, rng, 2), noisy(labels, 0.55, rng, 2)])
    same = stats.two_level_bootstrap("accuracy", labels, a, a, resamples=500)  # compares a model with itself
    assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)
    b = noisy(labels, 0.7, rng, 4)
    first = stats.two_level_bootstrap("accuracy", labels, a, b)
    exchanged = stats.two_level_bootstrap("accuracy", labels, b, a)
    assert (-exchanged.high, -exchanged.low) == pytest.approx(ends(first), abs=0.05 * first.half_width)
    y = rng.normal(size=50)
    collapsed = stats.two_level_bootstrap("pearson", y, np.stack([y, np.ones(50)]), np.stack([y, y]), resamples=400)
    assert math.isnan(collapsed.estimate) and math.isnan(collapsed.low)
    assert collapsed.degenerate == pytest.approx(300, abs=40)  # 3 of 4 draws of two seeds hold the collapsed one


LABELS = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.row_interval("f1", LABELS, LABELS[:3]), "shape"),
        (lambda: stats.row_interval("f1", LABELS[:1], LABELS[:1]), "at least 2 rows"),
        (lambda: stats.row_interval("f1", LABELS + 1, LABELS), "classes 0 and 1"),
        (lambda: stats.row_interval("bleu", LABELS, LABELS), "unknown metric 'bleu'"),
        (lambda: stats.row_interval("pearson", [0.1, math.nan], [0.1, 0.2]), "not finite"),
        (lambda: stats.row_interval("f1", LABELS, LABELS, level=0), "level"),
        (lambda: stats.two_level_bootstrap("f1", LABELS, LABELS, LABELS), r"\[seeds, rows\]"),
        (lambda: stats.two_level_bootstrap("f1", LABELS, LABELS[None], [LABELS, LABELS]), r"\(1, 4\) and \(2, 4\)"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Interval], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
