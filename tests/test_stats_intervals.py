"""Check intervals against scipy, statsmodels and printed numbers; and the rounding."""

import math
from collections.abc import Callable
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


@relaxed
@given(scores, st.sampled_from([0.8, 0.95]), st.floats(-3, 3), st.floats(0.5, 100))
def test_t_interval_equals_scipy_in_any_unit(values: list[float], level: float, shift: float, scale: float) -> None:
    interval = stats.t_interval([scale * value + shift for value in values], level)
    assert interval.estimate == pytest.approx(scale * np.mean(values) + shift, abs=1e-9)
    if len(set(values)) == 1:
        assert interval.low == interval.high == interval.estimate
    else:
        low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(level)
        assert (interval.low, interval.high) == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-7)


@relaxed
@given(scores, st.randoms())
def test_paired_interval_equals_scipy(a: list[float], random: Any) -> None:
    b = a.copy()
    random.shuffle(b)
    interval = stats.paired_interval(a, b, 0.9)
    if np.ptp(np.subtract(a, b)) > 1e-6:
        expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.9)
        assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-9)
    assert interval.method == f"t, n = {len(a)}"
    printed = stats.t_interval([1, 2, 3])  # s = 1, √n = √3; t(0.975, 2) = 4.302653 in any printed table
    assert printed.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert printed.symmetric and not stats.wilson(9, 10).symmetric


def test_rounding_is_no_spread_and_one_seed_has_none() -> None:
    assert np.std([0.1] * 3, ddof=1) > 0
    # 0.3 - 0.1 and 0.4 - 0.2 differ by rounding alone
    for interval in (stats.t_interval([0.1] * 3), stats.paired_interval([0.3, 0.4, 0.5], [0.1, 0.2, 0.3])):
        assert interval.low == interval.high == interval.estimate
    assert stats.paired_interval([0.1 + 0.2, 0.7], [0.3, 0.7]).estimate == 0.0
    one = stats.t_interval([0.5])
    assert one.estimate == 0.5 and math.isnan(one.low) and math.isnan(one.high)


@relaxed
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_statsmodels(counts: tuple[int, int]) -> None:
    interval = stats.wilson(*counts)
    assert (interval.low, interval.high) == pytest.approx(proportion_confint(*counts, method="wilson"), abs=1e-12)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


@pytest.mark.parametrize(("rows", "noise"), [(4, 0.1), (5, 3.0), (1500, 0.5)])
def test_fisher_z_equals_scipy(rows: int, noise: float) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=rows)
    pearson = scipy.stats.pearsonr(x, x + noise * rng.normal(size=rows))
    interval = stats.fisher_z(pearson.statistic, rows, 0.9)
    assert (interval.low, interval.high) == pytest.approx(tuple(pearson.confidence_interval(0.9)), abs=1e-12)
    assert (stats.fisher_z(-1, rows).low, stats.fisher_z(1, rows).high) == (-1, 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.t_interval([]), r"shape \[n\], found \[\]"),
        (lambda: stats.t_interval([[1, 2]]), "shape"),
        (lambda: stats.t_interval([1.0, math.nan]), "finite"),
        (lambda: stats.t_interval([1, 2], level=95), "level"),
        (lambda: stats.paired_interval([1, 2], [1, 2, 3]), "2 and 3"),
        (lambda: stats.wilson(5, 4), "5"),
        (lambda: stats.wilson(0, 0), "not less than 1"),
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
        (0.87251, "87.3"),
        (-0.0015, "-0.2"),
        (-0.0004, "0.0"),
        (2.5e-7, "0.0"),
        (math.nan, "NaN"),
    ],
)
def test_points(value: float, text: str) -> None:
    assert str(stats.points(value)) == str(stats.points(np.float64(value))) == text


def test_a_mean_on_a_tie_is_rounded_as_the_tie() -> None:
    published = [87.5, 95.1, 89.7, 63.4, 93.3, 90.8, 86.6, 91.6]  # sum 698.0: the mean is 87.25 exactly
    assert str(stats.round_points(sum(published) / 8)) == "87.2"
    assert str(stats.round_points(87.35 - 3 * math.ulp(87.35))) == "87.4"


@given(st.integers(-(10**6), 10**6))
def test_points_equal_exact_arithmetic(ten_thousandths: int) -> None:
    expected = round(Fraction(ten_thousandths, 100), 1)  # exact, half to even
    assert Fraction(stats.points(ten_thousandths / 10**4)) == expected
    assert Fraction(stats.round_points(ten_thousandths / 10**2)) == expected


def test_format_points() -> None:
    nan = math.nan
    for (estimate, low, high), text in (
        ((87.5, 87.2, 87.8), "87.5 ± 0.3"),
        ((85.6, 80.9, 89.2), "85.6 (80.9 to 89.2)"),
        ((87.5, nan, nan), "87.5"),
        ((nan, nan, nan), "–"),
    ):
        assert stats.format_points(Interval(estimate, low, high, 0.95, "rows")) == text
    assert stats.format_points(stats.wilson(237, 277).times(100)) == "85.6 (80.9 to 89.2)"  # RTE
