"""Check the tests against scipy, statsmodels, enumeration and simulation."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables  # type: ignore[import-untyped]
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]
from statsmodels.stats.weightstats import ttost_paired  # type: ignore[import-untyped]

from symlora import stats

Verdicts = npt.NDArray[np.str_]
relaxed = settings(deadline=None, max_examples=60)  # other work may share the cores
score = st.integers(0, 1000).map(lambda n: n / 1000)
pairs = st.integers(2, 7).flatmap(lambda n: st.tuples(*(st.lists(score, min_size=n, max_size=n) for _ in range(2))))


@relaxed
@given(pairs, st.sampled_from([0.002, 0.05, 0.3]))
def test_tost_and_t_equal_their_references_in_any_unit(ab: tuple[list[float], list[float]], margin: float) -> None:
    a, b = map(np.array, ab)
    assume(np.ptp(a - b) > 1e-6)
    equal, different = stats.tost(a, b, margin), stats.paired_t(a, b)
    assert equal == pytest.approx(float(ttost_paired(a, b, -margin, margin)[0]), rel=1e-6, abs=1e-10)
    assert different == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-6, abs=1e-10)
    a, b = 100 * a + 7, 100 * b + 7
    assert stats.tost(b, a, 100 * margin) == pytest.approx(equal, abs=1e-9)
    assert stats.paired_t(b, a) == pytest.approx(different, abs=1e-9)


def test_pairs_without_spread() -> None:
    b = np.array([87.1, 86.4, 88.0, 85.9])
    for difference, equal, different in ((0.0, 0.0, 1.0), (0.5, 0.0, 0.0), (-1.0, 1.0, 0.0), (1.5, 1.0, 0.0)):
        assert (stats.tost(b + difference, b, 1.0), stats.paired_t(b + difference, b)) == (equal, different)


def test_tost_keeps_its_level_and_power() -> None:
    # On the margin "equivalent" comes in at most alpha of experiments; within it as often as tost_power says.
    rng, n, sd, margin = np.random.default_rng(4), 8, 0.6, 1.0
    for truth in (margin, 0.4):
        d = rng.normal(truth, sd, size=(1200, n))
        share = np.mean([stats.tost(row, np.zeros(n), margin) < 0.05 for row in d])
        assert share == pytest.approx(stats.tost_power(n, sd, margin, difference=truth), abs=0.03)
        assert truth < margin or share <= 0.068


@relaxed
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(-6, 6)), min_size=2, max_size=7))
def test_sign_flip_equals_exact_enumeration(tenths: list[tuple[int, int]]) -> None:
    # Differences of points with one decimal are off by some 1e-15: patterns of one mean must tie.
    d = [difference for _, difference in tenths]
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=len(d))]
    a, b = zip(*(((score + difference) / 10, score / 10) for score, difference in tenths), strict=True)
    assert stats.sign_flip(a, b) == pytest.approx(np.mean(np.array(sums) >= abs(sum(d))), abs=1e-12)
    ten = 0.8 + np.arange(10) / 100
    assert stats.sign_flip(ten, ten - 0.05) == 2 / 2**10  # the smallest p


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


@settings(deadline=None, max_examples=10)  # statsmodels takes a tenth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


@relaxed
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4))
def test_holm_of_rows_is_a_closed_test(p_values: list[tuple[float, float]]) -> None:
    # A hypothesis is rejected if Bonferroni rejects every set of hypotheses that holds it and can be true at once.
    p, expected = np.array(p_values), np.zeros((len(p_values), 2))
    for chosen in itertools.product((None, 0, 1), repeat=len(p)):  # of each row: neither hypothesis, or one of them
        true = [(row, column) for row, column in enumerate(chosen) if column is not None]
        for place in true:
            expected[place] = max(expected[place], min(1.0, len(true) * min(p[other] for other in true)))
    assert stats.holm(p) == pytest.approx(expected, abs=1e-12)


def test_holm_and_verdicts_by_hand() -> None:
    assert stats.holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert stats.holm([]).shape == (0,) and stats.decide([], [], []) == []
    found = stats.decide([0.3, -2.0, 1.0, 0.1], [0.01, 0.001, 0.02, 0.5], [0.004, 0.9, 0.8, 0.02])
    assert [one.verdict for one in found] == ["equivalent", "worse", "inconclusive", "inconclusive"]
    # 4 · 0.001; 4 · 0.004; 4 · 0.01, which closes the first task; then 3 · 0.02 twice; 3 · 0.5 passes 1
    assert [one.p_difference for one in found] == pytest.approx([0.04, 0.004, 0.06, 1.0])
    assert [one.p_equivalence for one in found] == pytest.approx([0.016, 1.0, 1.0, 0.06])
    assert stats.decide([2.0], [0.04], [0.9])[0].verdict == "better"


def judged(truth: Any, spread: Any, seed: int, n: int = 5) -> tuple[Verdicts, npt.NDArray[np.bool_]]:
    """Draw verdicts [reports, tasks] at margin 1; tell which are false."""
    truth = np.broadcast_to(truth, 8)
    d = np.random.default_rng(seed).normal(truth, spread, size=(4000, n, 8))
    different = scipy.stats.ttest_1samp(d, 0, axis=1).pvalue
    low, high = (scipy.stats.ttest_1samp(d, x, axis=1, alternative=side) for x, side in ((-1, "greater"), (1, "less")))
    equal = np.maximum(low.pvalue, high.pvalue)
    decisions = [stats.decide(*report) for report in zip(d.mean(axis=1), different, equal, strict=True)]
    found = np.array([[one.verdict for one in report] for report in decisions])
    false = {"equivalent": np.abs(truth) >= 1, "better": truth <= 0, "worse": truth >= 0}
    return found, np.any([(found == verdict) & wrong for verdict, wrong in false.items()], axis=0)


@pytest.mark.parametrize(
    ("truth", "spread"),
    [
        (0.0, 2 * math.sqrt(2)),  # the methods are alike, s = 2 points each
        (0.02, 2.0),  # nearly so: a wrong sign counts
        (1.0, 0.1),  # at the margin
        ([0.0] * 4 + [1.0] * 4, [2.0] * 4 + [0.05] * 4),  # both claims may be false
        ([0.5] * 7 + [0.0], [0.08] * 7 + [2.0]),  # seven tasks are settled on both questions
    ],
)
def test_any_false_verdict_comes_in_at_most_five_of_a_hundred_reports(truth: Any, spread: Any) -> None:
    # Eight tasks, five seeds. 4,000 reports: three standard errors of noise are 1.0 points.
    assert np.mean(judged(truth, spread, seed=6)[1].any(axis=1)) <= 0.06


def test_verdicts_find_what_is_there() -> None:
    found, _ = judged([0.0] * 4 + [3.0] * 2 + [-3.0] * 2, 0.25, seed=8)
    for tasks, verdict in ((slice(0, 4), "equivalent"), (slice(4, 6), "better"), (slice(6, 8), "worse")):
        assert np.mean(found[:, tasks] == verdict) > 0.95


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
