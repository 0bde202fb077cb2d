"""Intervals with a closed form against scipy, statsmodels, printed numbers and simulated coverage; and the rounding.

Run: pytest tests/test_stats_intervals.py (about 10 s).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped]

from symlora import stats
from symlora.stats import Interval

relaxed = settings(deadline=None, max_examples=60)  # other work may share the cores
scores = st.lists(st.floats(0, 1).map(lambda x: round(x, 4)), min_size=2, max_size=12)


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@relaxed
@given(scores, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_t_interval_equals_scipy(values: list[float], level: float) -> None:
    interval = stats.t_interval(values, level)
    assert interval.estimate == pytest.approx(np.mean(values), abs=1e-12)
    if len(set(values)) == 1:
        assert interval.low == interval.high == interval.estimate
        return
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-10)


@relaxed
@given(scores, st.randoms(), st.floats(-3, 3), st.floats(0.5, 100))
def test_mean_intervals_follow_shift_and_scale_and_ignore_order(
    values: list[float], random: Any, shift: float, scale: float
) -> None:
    moved = [scale * value + shift for value in values]
    random.shuffle(moved)
    for interval in (stats.t_interval, stats.paper_interval):
        before, after = interval(values), interval(moved)
        for name in ("estimate", "low", "high"):
            assert getattr(after, name) == pytest.approx(scale * getattr(before, name) + shift, abs=1e-8)


def test_mean_intervals_in_closed_form() -> None:
    # s = 1, √n = √3; t(0.975, 2) = 4.302653 (any printed table)
    t, normal = stats.t_interval([1, 2, 3]), stats.paper_interval([1, 2, 3])
    assert t.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert normal.half_width == pytest.approx(1.96 / math.sqrt(3), abs=1e-12)
    assert (t.estimate, t.level, t.over) == (2.0, 0.95, "seeds (t, n = 3)")
    assert normal.over == "seeds (1.96·s/√n, n = 3)"
    assert stats.paper_interval([1, 2, 3], 0.9).half_width == pytest.approx(1.6448536 / math.sqrt(3), abs=1e-7)


def test_equal_scores_have_no_spread() -> None:
    assert np.std([0.1] * 3, ddof=1) > 0  # rounding, which must not become an interval
    interval = stats.t_interval([0.1] * 3)
    assert interval.low == interval.high == interval.estimate


@pytest.mark.parametrize("interval", [stats.t_interval, stats.paper_interval])
def test_one_seed_has_an_estimate_and_no_interval(interval: Callable[[list[float]], Interval]) -> None:
    one = interval([0.5])
    assert one.estimate == 0.5 and math.isnan(one.low) and math.isnan(one.high)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_coverage_of_t_and_shortfall_of_the_papers_formula(n: int) -> None:
    """style_and_stats.md C4: 1.96·s/√n covers 81, 88 and 92 % at n = 3, 5 and 10; t 95 %. 4,000 experiments: ± 0.4."""
    samples = np.random.default_rng(n).normal(0.87, 0.004, size=(4000, n))
    t = np.mean([covers(stats.t_interval(sample), 0.87) for sample in samples])
    paper = np.mean([covers(stats.paper_interval(sample), 0.87) for sample in samples])
    assert abs(t - 0.95) < 0.015
    exact = 1 - 2 * scipy.stats.t.sf(1.96, n - 1)
    assert exact == pytest.approx({3: 0.811, 5: 0.878, 10: 0.918}[n], abs=1e-3)
    assert abs(paper - exact) < 0.015


@relaxed
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_statsmodels_and_is_symmetric(counts: tuple[int, int]) -> None:
    correct, n = counts
    interval = stats.wilson(correct, n)
    expected = proportion_confint(correct, n, method="wilson")
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    mirrored = stats.wilson(n - correct, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_rte_as_printed() -> None:
    """237 of 277: Wald 81.4 to 89.7, Wilson 80.9 to 89.2 (style_and_stats.md C4)."""
    wald = stats.bernoulli_interval(237 / 277, 277)
    wilson = stats.wilson(237, 277, rows="validation rows")
    assert [str(stats.points(x)) for x in (wald.low, wald.high)] == ["81.4", "89.7"]
    assert [str(stats.points(x)) for x in (wilson.low, wilson.high)] == ["80.9", "89.2"]
    assert wilson.over == "validation rows (Wilson, n = 277)"
    assert (wald.low, wald.high) == pytest.approx(proportion_confint(237, 277, method="normal"), abs=1e-5)


@pytest.mark.parametrize(
    ("p", "n", "bernoulli", "printed"),
    [
        (0.92, 5463, "0.72", "0.20"),  # QNLI
        (0.94, 872, "1.58", "0.37"),  # SST-2
        (0.86, 9815, "0.69", "0.24"),  # MNLI matched
        (0.90, 40430, "0.29", "0.09"),  # QQP
        (0.85, 277, "4.21", "1.50"),  # RTE
        (0.88, 408, "3.15", "1.02"),  # MRPC
        (0.63, 1043, "2.93", "1.41"),  # CoLA, which is no proportion (C1 says 0.71, which is half of what comes out)
    ],
)
def test_the_two_formulas_of_the_paper(p: float, n: int, bernoulli: str, printed: str) -> None:
    """The columns A and B of style_and_stats.md C1."""
    assert f"{100 * stats.bernoulli_interval(p, n).half_width:.2f}" == bernoulli
    assert f"{100 * stats.printed_interval(p, n).half_width:.2f}" == printed


@pytest.mark.parametrize(("n", "p"), [(277, 0.6), (277, 0.86), (408, 0.88), (872, 0.945), (40, 0.7)])
def test_wilson_covers_exactly(n: int, p: float) -> None:
    """Coverage without simulation: the binomial weight of the counts whose interval holds p. It oscillates with p, so
    its mean over a narrow band is held against the nominal level.
    """
    intervals = [stats.wilson(k, n) for k in range(n + 1)]
    low, high = np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    band = np.linspace(p - 0.02, p + 0.02, 81)
    coverage = [np.sum(scipy.stats.binom.pmf(np.arange(n + 1), n, q) * ((low <= q) & (q <= high))) for q in band]
    assert abs(np.mean(coverage) - 0.95) < 0.015


@pytest.mark.parametrize(("rows", "noise"), [(4, 0.1), (5, 3.0), (277, 1.0), (1500, 0.5)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_fisher_z_equals_scipy_and_is_odd(rows: int, noise: float, level: float) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=rows)
    pearson = scipy.stats.pearsonr(x, x + noise * rng.normal(size=rows))
    interval = stats.fisher_z(float(pearson.statistic), rows, level)
    assert (interval.low, interval.high) == pytest.approx(tuple(pearson.confidence_interval(level)), abs=1e-12)
    opposite = stats.fisher_z(-interval.estimate, rows, level)
    assert (-opposite.high, -opposite.low) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_fisher_z_at_the_ends_and_on_stsb() -> None:
    for r in (1.0, -1.0):
        assert (stats.fisher_z(r, 50).low, stats.fisher_z(r, 50).high) == (r, r)
    stsb = stats.fisher_z(0.90, 1500)
    assert stats.format_points(stsb) == "90.0 (89.0 to 90.9)"  # about ± 1.0 (C1)


def test_fisher_z_covers() -> None:
    rng, rho, rows = np.random.default_rng(3), 0.9, 100
    x = rng.normal(size=(5000, rows))
    y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=x.shape)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    r = np.sum(x * y, axis=1) / np.sqrt(np.sum(x * x, axis=1) * np.sum(y * y, axis=1))
    assert abs(np.mean([covers(stats.fisher_z(float(value), rows), rho) for value in r]) - 0.95) < 0.015


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.t_interval([]), "at least 1 needed"),
        (lambda: stats.t_interval([[1, 2]]), "shape"),
        (lambda: stats.t_interval([1.0, math.nan]), "nan at position 1"),
        (lambda: stats.paper_interval([1.0, math.inf]), "not finite"),
        (lambda: stats.t_interval([1, 2], level=95), "level"),
        (lambda: stats.wilson(5, 4), "5 of 4"),
        (lambda: stats.wilson(-1, 4), "whole number"),
        (lambda: stats.wilson(0.5, 4), "whole number"),  # type: ignore[arg-type]
        (lambda: stats.wilson(0, 0), "n >= 1"),
        (lambda: stats.bernoulli_interval(87.0, 100), "fraction"),
        (lambda: stats.bernoulli_interval(math.nan, 100), "fraction"),
        (lambda: stats.printed_interval(0.5, 0), "at least 1"),
        (lambda: stats.fisher_z(1.01, 100), r"\[-1, 1\]"),
        (lambda: stats.fisher_z(math.nan, 100), r"\[-1, 1\]"),
        (lambda: stats.fisher_z(0.5, 3), "at least 4 rows"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Interval], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8725, "87.2"),  # ties go to the even digit, whatever side of them the float lies on
        (0.8735, "87.4"),
        (0.0005, "0.0"),
        (0.0015, "0.2"),
        (0.855, "85.5"),
        (0.87251, "87.3"),
        (-0.0015, "-0.2"),
        (-0.0004, "0.0"),
        (1.0, "100.0"),
        (0.0, "0.0"),
        (2.5e-7, "0.0"),
        (math.nan, "NaN"),
    ],
)
def test_points(value: float, text: str) -> None:
    assert str(stats.points(value)) == text
    assert str(stats.points(np.float64(value))) == text


def test_a_mean_on_a_tie_is_rounded_as_the_tie() -> None:
    published = [87.5, 95.1, 89.7, 63.4, 93.3, 90.8, 86.6, 91.6]  # sum 698.0: the mean is 87.25 exactly
    assert str(stats.round_points(sum(published) / 8)) == "87.2"
    noisy = 87.35 - 3 * math.ulp(87.35)
    assert str(stats.round_points(noisy)) == "87.4"


@given(st.integers(-(10**6), 10**6))
def test_points_equal_exact_arithmetic(ten_thousandths: int) -> None:
    """Python's round() of a Fraction is half-even and exact."""
    expected = round(Fraction(ten_thousandths, 100), 1)
    assert Fraction(stats.points(ten_thousandths / 10**4)) == expected
    assert Fraction(stats.round_points(ten_thousandths / 10**2)) == expected
    assert stats.points(ten_thousandths / 10**4).as_tuple().exponent == -1


def test_format_points() -> None:
    def interval(estimate: float, low: float, high: float) -> Interval:
        return Interval(estimate, low, high, 0.95, "rows")

    assert stats.format_points(interval(0.875, 0.872, 0.878)) == "87.5 ± 0.3"
    assert stats.format_points(interval(87.5, 87.2, 87.8), scale=1) == "87.5 ± 0.3"
    assert stats.format_points(stats.wilson(237, 277)) == "85.6 (80.9 to 89.2)"
    assert stats.format_points(interval(0.875, math.nan, math.nan)) == "87.5"
    assert stats.format_points(interval(0.01, -math.inf, math.inf)) == "1.0 (-∞ to ∞)"
    assert stats.format_points(interval(math.nan, math.nan, math.nan)) == "–"
    assert stats.points(0.8725) == Decimal("87.2")


def test_importing_symlora_does_not_import_the_statistics() -> None:
    import subprocess
    import sys

    code = "import sys, symlora; sys.exit('symlora.stats' in sys.modules or 'scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
