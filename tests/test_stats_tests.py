"""Tests of difference, equivalence and power against scipy and statsmodels, by enumeration, and by simulation.

Run: pytest tests/test_stats_tests.py (about 15 s).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables  # type: ignore[import-untyped]
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]
from statsmodels.stats.weightstats import ttost_paired  # type: ignore[import-untyped]

from symlora import stats

relaxed = settings(deadline=None, max_examples=60)  # other work may share the cores
score = st.integers(0, 1000).map(lambda n: n / 1000)
pairs = st.integers(2, 7).flatmap(lambda n: st.tuples(*(st.lists(score, min_size=n, max_size=n) for _ in range(2))))


@relaxed
@given(pairs, st.sampled_from([0.002, 0.05, 0.3]), st.sampled_from([0.05, 0.01]))
def test_tost_equals_statsmodels_in_any_unit(ab: tuple[list[float], list[float]], margin: float, alpha: float) -> None:
    a, b = map(np.array, ab)
    assume(np.ptp(a - b) > 1e-6)
    found = stats.tost(a, b, margin, alpha)
    assert found.p == pytest.approx(float(ttost_paired(a, b, -margin, margin)[0]), rel=1e-6, abs=1e-10)
    assert stats.tost(100 * a + 7, 100 * b + 7, 100 * margin, alpha).p == pytest.approx(found.p, abs=1e-9)
    # The verdict by the interval alone is the verdict by p.
    low, high = scipy.stats.ttest_rel(a, b).confidence_interval(1 - 2 * alpha)
    sign = "better" if low > 0 else "worse" if high < 0 else "inconclusive"
    assert found.verdict == ("equivalent" if -margin < low and high < margin else sign)
    turned = stats.tost(b, a, margin, alpha)
    assert turned.verdict == {"better": "worse", "worse": "better"}.get(found.verdict, found.verdict)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.2, 0.3, 0.25, 0.28], "equivalent"),  # significant, and smaller than the margin
        ([0.0, 0.0, 0.0, 0.0], "equivalent"),
        ([0.5, 0.5, 0.5, 0.5], "equivalent"),
        ([1.5, 1.5, 1.5, 1.5], "better"),
        ([-1.0, -1.0, -1.0, -1.0], "worse"),  # at the margin is not within it
        ([0.9, 1.1, 1.0, 1.2], "better"),
        ([-2.0, 2.5, 0.1, -0.7], "inconclusive"),
    ],
)
def test_verdicts_of_tost(differences: list[float], verdict: str) -> None:
    b = np.array([87.1, 86.4, 88.0, 85.9])
    found = stats.tost(b + differences, b, margin=1.0)
    assert found.verdict == verdict
    assert (found.p < 0.05) == (verdict == "equivalent")


def test_tost_keeps_its_level_and_power() -> None:
    """On the margin "equivalent" comes in at most alpha of experiments; within it as often as tost_power says."""
    rng, n, sd, margin = np.random.default_rng(4), 8, 0.6, 1.0
    for truth in (margin, 0.0, 0.4):
        d = rng.normal(truth, sd, size=(1500, n))
        share = np.mean([stats.tost(row, np.zeros(n), margin).p < 0.05 for row in d])
        assert share == pytest.approx(stats.tost_power(n, sd, margin, difference=truth), abs=0.025)
        assert truth < margin or share <= 0.062


@relaxed
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(-6, 6)), min_size=2, max_size=7))
def test_sign_flip_equals_exact_enumeration(tenths: list[tuple[int, int]]) -> None:
    """Of points with one decimal, whose differences are off by some 1e-15: patterns of one mean must tie."""
    d = [difference for _, difference in tenths]
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=len(d))]
    a, b = zip(*(((score + difference) / 10, score / 10) for score, difference in tenths), strict=True)
    assert stats.sign_flip(a, b) == pytest.approx(np.mean(np.array(sums) >= abs(sum(d))), abs=1e-12)


def test_smallest_p_of_the_sign_flip() -> None:
    for n in (3, 5, 10):
        a = 0.8 + np.arange(n) / 100
        assert stats.sign_flip(a, a - 0.05) == stats.sign_flip(a, a - 0.05 - np.arange(n) / 1000) == 2 / 2**n
        assert stats.sign_flip(a, a) == 1.0


def test_sign_flip_of_many_pairs_is_random() -> None:
    a = np.random.default_rng(0).normal(0.3, 1, size=40)
    p = stats.sign_flip(a, np.zeros(40))
    assert p == stats.sign_flip(a, np.zeros(40)) == pytest.approx(scipy.stats.ttest_1samp(a, 0).pvalue, abs=0.01)


@relaxed
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 50))
def test_mcnemar_equals_statsmodels(only_a: int, only_b: int, both: int) -> None:
    labels = np.ones(only_a + only_b + both, dtype=np.int64)
    a = np.repeat([1, 0, 1], [only_a, only_b, both])
    b = np.repeat([0, 1, 1], [only_a, only_b, both])
    expected = contingency_tables.mcnemar([[both, only_a], [only_b, 0]], exact=True)
    assert stats.mcnemar(a, b, labels) == pytest.approx(min(1.0, expected.pvalue), abs=1e-12)


@settings(deadline=None, max_examples=20)  # statsmodels takes a tenth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


def test_holm_by_hand() -> None:
    assert stats.holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert stats.holm([]).shape == (0,)


@pytest.mark.parametrize(
    ("n", "sd", "difference"), [(2, 0.1, 0.0), (3, 0.3, 0.0), (5, 0.7, 0.3), (5, 1.5, 0.0), (300, 6.0, 0.1)]
)
def test_power_equals_adaptive_quadrature(n: int, sd: float, difference: float) -> None:
    margin, t, error = 1.0, scipy.stats.t.ppf(0.95, n - 1), sd / math.sqrt(n)

    def inside(u: float) -> float:
        room = margin - t * error * u
        low, high = scipy.stats.norm.cdf([(-room - difference) / error, (room - difference) / error])
        return float(scipy.stats.chi.pdf(u * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1) * (high - low))

    last = margin / (t * error)
    expected, _ = scipy.integrate.quad(inside, 0, min(last, 8.0), points=[min(1.0, last / 2)], epsabs=1e-10, limit=200)
    assert stats.tost_power(n, sd, margin, difference=difference) == pytest.approx(expected, abs=1e-7)


def test_power_at_the_ends() -> None:
    # 2·Φ(margin·√n/sd - 1.645) - 1, any textbook's large-sample power of TOST at a true difference of 0
    normal = 2 * scipy.stats.norm.cdf(math.sqrt(4000) / 20 - 1.6448536) - 1
    assert stats.tost_power(4000, 20.0, 1.0) == pytest.approx(normal, abs=1e-3)
    assert (stats.tost_power(5, 0.0, 1.0), stats.tost_power(5, 0.0, 1.0, difference=1.0)) == (1.0, 0.0)
    # (1.645 + 1.282)² = 8.56 squared ratios for 80 %: tables of sample sizes for equivalence
    assert stats.seeds_needed(20.0, 1.0) == pytest.approx(400 * 8.564, abs=3)
    assert (stats.seeds_needed(0.0, 1.0), stats.seeds_needed(100.0, 1.0)) == (2, None)


@relaxed
@given(st.floats(0.05, 8), st.floats(0.3, 3), st.sampled_from([0.5, 0.8, 0.95]))
def test_seeds_needed_is_the_smallest(sd: float, margin: float, power: float) -> None:
    n = stats.seeds_needed(sd, margin, power)
    assert n is not None and stats.tost_power(n, sd, margin) >= power
    assert n == 2 or stats.tost_power(n - 1, sd, margin) < power
    assert n == stats.seeds_needed(sd, margin, power, max_n=n)
    assert n == 2 or stats.seeds_needed(sd, margin, power, max_n=n - 1) is None


ONES = np.ones(4, dtype=np.int64)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.sign_flip([1.0], [2.0]), "at least 2 pairs"),
        (lambda: stats.sign_flip([1.0, 2.0], [1.0, 2.0, 3.0]), "2 and 3"),
        (lambda: stats.tost([1.0, math.nan], [1.0, 2.0], 1.0), "a must be"),
        (lambda: stats.tost([1, 2], [1, 3], margin=math.nan), "margin"),
        (lambda: stats.mcnemar([], [], []), "shape"),
        (lambda: stats.mcnemar(ONES, ONES[:3], ONES), "shape"),
        (lambda: stats.holm([0.1, math.nan]), r"\[0, 1\]"),
        (lambda: stats.holm([0.1, 1.1]), r"\[0, 1\]"),
        (lambda: stats.tost_power(1, 1.0, 1.0), "at least 2"),
        (lambda: stats.tost_power(5, math.nan, 1.0), "sd = nan"),
        (lambda: stats.seeds_needed(1.0, 1.0, power=1.0), "power"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
