"""The statistics on scipy against those that they replace (tests/old_stats), to 1e-9.

Run: pytest tests/test_stats_same.py (about 10 s). It goes together with the old code.
"""

import math
from typing import Any

import numpy as np
import old_stats as old
import pytest

from symlora import metrics, stats

EXACT = 1e-9


def same(new: stats.Interval, before: old.Interval) -> bool:
    """Whether the figures agree and `over` is the same text."""
    figures = [(i.estimate, i.low, i.high, i.level, i.degenerate) for i in (new, before)]
    return figures[0] == pytest.approx(figures[1], abs=EXACT, rel=EXACT, nan_ok=True) and new.over == before.over


def samples() -> list[np.ndarray]:
    """Scores of 1 to 12 seeds: fractions and points, rounded (so that ties occur) and not, equal and nearly equal."""
    rng = np.random.default_rng(0)
    drawn = [rng.normal(centre, spread, n) for n in range(1, 13) for centre, spread in ((0.87, 0.004), (63.4, 1.7))]
    tied = [np.round(sample, digits) for sample in drawn for digits in (1, 2)]
    return [*drawn, *tied, np.full(3, 0.1), np.zeros(4), np.array([0.1 + 0.2, 0.3])]


def test_intervals() -> None:
    for sample in samples():
        for level in (0.5, 0.9, 0.95, 0.99):
            assert same(stats.t_interval(sample, level), old.t_interval(sample, level))
    for n in (1, 2, 5, 40, 277, 1043):
        for correct in {0, 1, n // 3, n - 1, n}:
            for level in (0.9, 0.95):
                assert same(stats.wilson(correct, n, level, rows="x"), old.wilson(correct, n, level, rows="x"))
    for n in (4, 5, 1500):
        for r in (-1.0, -0.31, 0.0, 0.9, 0.999999, 1.0):
            assert same(stats.fisher_z(r, n, 0.9), old.fisher_z(r, n, 0.9))
            assert same(stats.bernoulli_interval(abs(r), n), old.bernoulli_interval(abs(r), n))
            assert same(stats.printed_interval(abs(r), n), old.printed_interval(abs(r), n))


def test_paired_tests() -> None:
    rng = np.random.default_rng(1)
    for a in samples():
        if len(a) < 2:
            continue
        for b in (
            a + rng.normal(0, a.std() + 1e-3, len(a)),
            np.round(a + 0.1 * rng.normal(size=len(a)), 1),
            a - 0.3,
            a,
        ):
            flip, t = old.sign_flip(a, b), old.paired_t(a, b, 0.95)
            assert stats.sign_flip(a, b) == pytest.approx(flip.p, abs=EXACT)
            assert same(stats.paired_interval(a, b), t.difference)
            for margin, alpha in ((0.002, 0.05), (0.3, 0.05), (1.0, 0.01)):
                new, before = stats.tost(a, b, margin, alpha), old.tost(a, b, margin, alpha)
                assert same(new.difference, before.difference)
                assert new.p == pytest.approx(before.p, abs=EXACT)
                assert (new.verdict, new.margin, new.n) == (before.verdict, before.margin, before.n)
    a, b = rng.normal(size=(2, 20))
    assert stats.sign_flip(a, b) == pytest.approx(old.sign_flip(a, b).p, abs=EXACT)  # the most pairs that are exact


def test_tests_of_rows_and_of_families() -> None:
    rng = np.random.default_rng(2)
    for rows in (1, 2, 40, 277):
        for classes in (2, 3):
            a, b, labels = rng.integers(0, classes, (3, rows))
            assert stats.mcnemar(a, b, labels) == pytest.approx(old.mcnemar(a, b, labels).p, abs=EXACT)
            assert stats.mcnemar(a, a, labels) == old.mcnemar(a, a, labels).p == 1.0
    for n in range(9):
        p_values = np.round(rng.random(n), 1)
        assert stats.holm(p_values) == pytest.approx(old.holm(p_values), abs=EXACT)


def test_power() -> None:
    for n in (2, 3, 5, 12, 300):
        for sd in (0.0, 0.1, 0.7, 1.5, 6.0):
            for difference in (0.0, 0.4, -1.0):
                assert stats.tost_power(n, sd, 1.0, 0.05, difference) == pytest.approx(
                    old.tost_power(n, sd, 1.0, 0.05, difference), abs=EXACT
                )
    for sd in (0.0, 0.1, 0.9, 3.0, 20.0, 100.0):
        for power in (0.5, 0.8, 0.95):
            assert stats.seeds_needed(sd, 1.0, power) == old.seeds_needed(sd, 1.0, power)
    assert stats.seeds_needed(3.0, 1.0, max_n=20) is old.seeds_needed(3.0, 1.0, max_n=20) is None


@pytest.mark.parametrize("metric", ["matthews_correlation", "accuracy", "f1", "pearson", "spearmanr"])
@pytest.mark.parametrize("rows", [12, 60, 1043])
def test_bootstraps(metric: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    labels: Any
    if metric in ("pearson", "spearmanr"):
        labels = rng.normal(size=rows)
        predictions = labels + rng.normal(size=(6, rows))
    else:
        labels = rng.integers(0, 2, rows)
        predictions = np.where(rng.random((6, rows)) < 0.8, labels, 1 - labels)
    count = 40 if metric == "spearmanr" else 3000
    # What is not weighted is computed one by one, from the same random numbers as an old function of no name.
    statistic = (lambda p, t: metrics.spearmanr(p, t)) if metric == "spearmanr" else metric
    for level in (0.9, 0.95):
        assert same(
            stats.bootstrap_interval(metric, predictions[0], labels, level, count, seed=3),
            old.bootstrap_interval(statistic, predictions[0], labels, level=level, resamples=count, seed=3),
        )
        assert same(
            stats.two_level_bootstrap(metric, labels, predictions[:3], predictions[3:], level, count, seed=3),
            old.two_level_bootstrap(statistic, labels, predictions[:3], predictions[3:], level, count, seed=3),
        )


def test_bootstraps_of_degenerate_rows() -> None:
    labels = np.array([1] + [0] * 19)
    predictions = np.array([1, 1] + [0] * 18)
    for metric in ("matthews_correlation", "f1"):
        assert same(
            stats.bootstrap_interval(metric, predictions, labels), old.bootstrap_interval(metric, predictions, labels)
        )
    ramp = np.arange(20.0)
    for x in (labels.astype(float), np.ones(20)):
        new, before = stats.bootstrap_interval("pearson", x, ramp), old.bootstrap_interval("pearson", x, ramp)
        assert same(new, before) and new.degenerate > 0
        pair = (np.stack([x, ramp]), np.stack([ramp, x]))
        assert same(stats.two_level_bootstrap("pearson", ramp, *pair), old.two_level_bootstrap("pearson", ramp, *pair))
    assert math.isnan(stats.bootstrap_interval("pearson", np.ones(20), ramp).low)


def test_rounding() -> None:
    for sample in samples():
        for scale in (1, 100):
            assert [stats.points(x, scale) for x in sample] == [old.points(x, scale) for x in sample]
        assert stats.format_points(stats.t_interval(sample)) == old.format_points(old.t_interval(sample))
