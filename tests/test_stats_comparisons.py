"""Tests of difference, equivalence and power against scipy and statsmodels, by enumeration, and by simulation.

Run: pytest tests/test_stats_comparisons.py (about 10 s).
"""

from __future__ import annotations

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

relaxed = settings(deadline=None, max_examples=60)  # other work may share the cores
score = st.integers(0, 1000).map(lambda n: n / 1000)


def pairs(least: int = 2, most: int = 8) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    """Scores a and b of as many seeds."""
    return st.integers(least, most).flatmap(
        lambda n: st.tuples(*(st.lists(score, min_size=n, max_size=n) for _ in range(2)))
    )


def has_spread(a: list[float], b: list[float]) -> bool:
    return float(np.ptp(np.subtract(a, b))) > 1e-6


@relaxed
@given(pairs())
def test_paired_t_equals_scipy(ab: tuple[list[float], list[float]]) -> None:
    a, b = ab
    assume(has_spread(a, b))
    found, expected = stats.paired_t(a, b, 0.9), scipy.stats.ttest_rel(a, b)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-7, abs=1e-10)
    interval = expected.confidence_interval(0.9)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(interval), abs=1e-9)
    assert (found.n, found.test) == (len(a), "paired t")
    assert found.difference.over == f"paired seeds (t, n = {len(a)})"


def test_paired_t_without_spread() -> None:
    # 0.3 - 0.1 and 0.2 differ by rounding alone, as do 0.1 + 0.2 and 0.3
    for a, b, p, t in (
        ([0.3, 0.4, 0.5], [0.1, 0.2, 0.3], 0.0, math.inf),
        ([0.1, 0.2], [0.3, 0.4], 0.0, -math.inf),
        ([0.1 + 0.2, 0.7], [0.3, 0.7], 1.0, 0.0),
        ([87.3001, 86.4001, 88.1001], [87.3, 86.4, 88.1], 0.0, math.inf),
    ):
        found = stats.paired_t(a, b)
        assert (found.p, found.statistic) == (p, t)
        assert found.difference.low == found.difference.high == found.difference.estimate


@relaxed
@given(pairs(2, 7))
def test_sign_flip_equals_enumeration_and_scipy(ab: tuple[list[float], list[float]]) -> None:
    a, b = ab
    d = np.subtract(a, b)
    found = stats.sign_flip(a, b)
    means = [abs(np.mean(np.array(signs) * d)) for signs in itertools.product((1, -1), repeat=len(d))]
    assert found.p == np.mean([mean >= abs(d.mean()) - 1e-12 for mean in means])
    expected = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    )
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.test == "sign flip (exact)"


@pytest.mark.parametrize(("n", "least"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (10, 2 / 1024)])
def test_smallest_p_of_the_sign_flip(n: int, least: float) -> None:
    """style_and_stats.md C4: with 5 pairs 0.0625, 6 0.031, 10 0.002."""
    a = 0.8 + np.arange(n) / 100
    found = stats.sign_flip(a, a - 0.05 - np.arange(n) / 1000)
    assert found.p == least
    assert stats.sign_flip(a, a - 0.05).p == least
    assert stats.sign_flip(a, a).p == 1.0
    assert math.isinf(found.difference.high) == (least > 0.05)


@relaxed
@given(pairs(6, 9), st.sampled_from([0.8, 0.95]))
def test_the_sign_flip_interval_holds_the_shifts_not_rejected(
    ab: tuple[list[float], list[float]], level: float
) -> None:
    a, b = ab
    interval = stats.sign_flip(a, b, level).difference
    step = 1e-6  # the bounds are means of subsets of thousandths: no other lies as near
    for shift, inside in (
        (interval.low - step, False),
        (interval.low + step, True),
        (interval.high - step, True),
        (interval.high + step, False),
    ):
        if interval.low + step < interval.high - step:
            assert (stats.sign_flip(a, np.add(b, shift)).p > 1 - level + 1e-9) == inside


def test_sign_flip_of_many_pairs_is_random_and_says_so() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0.3, 1, size=40)
    b = np.zeros(40)
    found = stats.sign_flip(a, b)
    assert found.test == "sign flip (100000 random patterns)"
    assert found.p == pytest.approx(stats.paired_t(a, b).p, abs=0.01)
    t = stats.paired_t(a, b).difference
    assert (found.difference.low, found.difference.high) == pytest.approx((t.low, t.high), abs=0.15 * t.half_width)
    assert stats.sign_flip(a, b) == found != stats.sign_flip(a, b, seed=1)
    assert stats.sign_flip(a + 100, b, resamples=999).p == 1 / 1000  # never 0


@relaxed
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 50))
def test_mcnemar_equals_statsmodels(only_a: int, only_b: int, both: int) -> None:
    labels = np.ones(only_a + only_b + both, dtype=np.int64)
    a = np.repeat([1, 0, 1], [only_a, only_b, both])
    b = np.repeat([0, 1, 1], [only_a, only_b, both])
    found = stats.mcnemar(a, b, labels)
    expected = contingency_tables.mcnemar([[both, only_a], [only_b, 0]], exact=True)
    assert found.p == pytest.approx(min(1.0, expected.pvalue), abs=1e-12)
    assert found.difference.estimate == pytest.approx((only_a - only_b) / len(labels))
    assert (found.statistic, found.n) == (only_a, len(labels))
    mirrored = stats.mcnemar(b, a, labels)
    assert mirrored.p == pytest.approx(found.p, abs=1e-12)
    assert (-mirrored.difference.high, -mirrored.difference.low) == pytest.approx(
        (found.difference.low, found.difference.high), abs=1e-12
    )


def test_mcnemar_interval_covers() -> None:
    """RTE's size, the two models disagreeing on one row in seven: 2,000 experiments, ± 0.5 of noise."""
    rng = np.random.default_rng(1)
    chances, labels = [0.05, 0.10, 0.70, 0.15], np.ones(277)
    kinds = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    covered = 0
    for counts in rng.multinomial(277, chances, size=2000):
        a, b = np.repeat(kinds, counts, axis=0).T
        interval = stats.mcnemar(a, b, labels).difference
        covered += interval.low <= -0.05 <= interval.high
    assert abs(covered / 2000 - 0.95) < 0.015


def test_paired_bootstrap() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 400)
    a = np.where(rng.random((3, 400)) < 0.9, labels, 1 - labels)
    b = np.where(rng.random((3, 400)) < 0.84, labels, 1 - labels)
    found = stats.paired_bootstrap("accuracy", labels, a, b)
    # A mean over rows: its bootstrap is normal with the variance of the rows' mean differences.
    d = (a == labels).mean(axis=0) - (b == labels).mean(axis=0)
    error = d.std() / math.sqrt(400)
    assert found.statistic == found.difference.estimate == pytest.approx(d.mean(), abs=1e-12)
    assert found.difference.half_width == pytest.approx(1.96 * error, rel=0.04)
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf(abs(d.mean()) / error), abs=0.003)
    assert found.test == "paired bootstrap (10000 resamples)"
    exchanged = stats.paired_bootstrap("accuracy", labels, b, a)
    assert exchanged.p == pytest.approx(found.p, abs=0.003)
    assert exchanged.difference.low == pytest.approx(-found.difference.high, abs=0.002)
    assert stats.paired_bootstrap("accuracy", labels, a, a).p == 1.0
    sure = stats.paired_bootstrap("accuracy", labels, labels, 1 - labels, resamples=99)  # one seed: [rows]
    assert sure.p == 0.02 and sure.n == 400


def test_paired_bootstrap_agrees_with_mcnemar() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 1000)
    a, b = (np.where(rng.random(1000) < right, labels, 1 - labels) for right in (0.88, 0.855))
    bootstrap, exact = stats.paired_bootstrap("accuracy", labels, a, b), stats.mcnemar(a, b, labels)
    assert bootstrap.p == pytest.approx(exact.p, abs=0.02)
    assert (bootstrap.difference.low, bootstrap.difference.high) == pytest.approx(
        (exact.difference.low, exact.difference.high), abs=0.003
    )


@settings(deadline=None, max_examples=20)  # statsmodels takes a tenth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    assert adjusted == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)
    assert np.all(adjusted >= np.array(p_values) - 1e-15) and np.all(adjusted <= 1)
    order = np.random.default_rng(0).permutation(len(p_values))
    assert stats.holm(np.array(p_values)[order]) == pytest.approx(adjusted[order], abs=1e-12)


def test_holm_by_hand() -> None:
    assert stats.holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert stats.holm([]).shape == (0,)


@relaxed
@given(pairs(), st.sampled_from([0.002, 0.05, 0.3]), st.sampled_from([0.05, 0.01]))
def test_tost_equals_statsmodels(ab: tuple[list[float], list[float]], margin: float, alpha: float) -> None:
    a, b = ab
    assume(has_spread(a, b))
    found = stats.tost(a, b, margin, alpha)
    p, _, _ = ttost_paired(np.array(a), np.array(b), -margin, margin)
    assert found.p == pytest.approx(float(p), rel=1e-6, abs=1e-10)
    t = stats.paired_t(a, b, 1 - 2 * alpha).difference
    assert found.difference == t
    # The verdict by the interval alone is the verdict by p.
    within = -margin < t.low and t.high < margin
    sign = "better" if t.low > 0 else "worse" if t.high < 0 else "inconclusive"
    assert found.verdict == ("equivalent" if within else sign)
    turned = stats.tost(b, a, margin, alpha)
    assert turned.p == pytest.approx(found.p, abs=1e-12)
    assert turned.verdict == {"better": "worse", "worse": "better"}.get(found.verdict, found.verdict)


@relaxed
@given(pairs(3, 6), st.floats(0.01, 0.2))
def test_tost_does_not_ask_for_a_unit(ab: tuple[list[float], list[float]], margin: float) -> None:
    a, b = ab
    assume(has_spread(a, b))
    fractions = stats.tost(a, b, margin)
    points = stats.tost(100 * np.array(a) + 7, 100 * np.array(b) + 7, 100 * margin)
    assert points.p == pytest.approx(fractions.p, abs=1e-9)
    assert points.difference.half_width == pytest.approx(100 * fractions.difference.half_width, abs=1e-8)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.2, 0.3, 0.25, 0.28], "equivalent"),  # significant, and smaller than the margin
        ([0.0, 0.0, 0.0, 0.0], "equivalent"),
        ([0.5, 0.5, 0.5, 0.5], "equivalent"),
        ([1.5, 1.5, 1.5, 1.5], "better"),
        ([-1.0, -1.0, -1.0, -1.0], "worse"),  # at the margin is not within it
        ([0.9, 1.1, 1.0, 1.2], "better"),
        ([-0.9, -1.1, -1.0, -1.2], "worse"),
        ([-2.0, 2.5, 0.1, -0.7], "inconclusive"),
    ],
)
def test_verdicts(differences: list[float], verdict: str) -> None:
    b = np.array([87.1, 86.4, 88.0, 85.9])
    found = stats.tost(b + differences, b, margin=1.0)
    assert found.verdict == verdict
    assert (found.p < 0.05) == (verdict == "equivalent")
    assert (found.margin, found.n, found.difference.level) == (1.0, 4, 0.9)


def test_tost_keeps_its_level_and_power() -> None:
    """On the margin "equivalent" comes in at most alpha of experiments; within it as often as tost_power says."""
    rng, n, sd, margin = np.random.default_rng(4), 8, 0.6, 1.0
    for truth in (margin, 0.0, 0.4):
        d = rng.normal(truth, sd, size=(1500, n))
        share = np.mean([stats.tost(row, np.zeros(n), margin).verdict == "equivalent" for row in d])
        assert share == pytest.approx(stats.tost_power(n, sd, margin, difference=truth), abs=0.025)
        if truth == margin:
            assert share <= 0.062


@pytest.mark.parametrize(
    ("n", "sd", "difference"),
    [(2, 0.1, 0.0), (3, 0.3, 0.0), (5, 0.7, 0.3), (5, 1.5, 0.0), (12, 1.0, -0.2), (300, 6.0, 0.1)],
)
def test_power_equals_adaptive_quadrature(n: int, sd: float, difference: float) -> None:
    margin, t = 1.0, scipy.stats.t.ppf(0.95, n - 1)

    def inside(u: float) -> float:
        error = sd / math.sqrt(n)
        room = margin - t * error * u
        normal = scipy.stats.norm.cdf([(-room - difference) / error, (room - difference) / error])
        density = scipy.stats.chi.pdf(u * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1)
        return float(density * (normal[1] - normal[0]))

    last = margin * math.sqrt(n) / (t * sd)
    expected, _ = scipy.integrate.quad(inside, 0, min(last, 8.0), points=[min(1.0, last / 2)], epsabs=1e-10, limit=200)
    assert stats.tost_power(n, sd, margin, difference=difference) == pytest.approx(expected, abs=1e-7)


def test_power_by_a_million_experiments() -> None:
    """The rejection rule written out, beside the integral: n = 5, s of the differences 0.7 margins."""
    rng = np.random.default_rng(5)
    d = rng.normal(0, 0.7, size=(400_000, 5))
    room = 1.0 - scipy.stats.t.ppf(0.95, 4) * d.std(axis=1, ddof=1) / math.sqrt(5)
    assert stats.tost_power(5, 0.7, 1.0) == pytest.approx(np.mean(np.abs(d.mean(axis=1)) < room), abs=0.003)


def test_power_for_many_seeds_is_the_normal_one() -> None:
    """2·Φ(margin·√n/sd - 1.645) - 1, any textbook's large-sample power of TOST at a true difference of 0."""
    normal = 2 * scipy.stats.norm.cdf(math.sqrt(4000) / 20 - 1.6448536) - 1
    assert stats.tost_power(4000, 20.0, 1.0) == pytest.approx(normal, abs=1e-3)
    # (1.645 + 1.282)² = 8.56 squared ratios for 80 %: tables of sample sizes for equivalence
    assert stats.seeds_needed(20.0, 1.0) == pytest.approx(400 * 8.564, abs=3)


@relaxed
@given(st.floats(0.05, 8), st.floats(0.3, 3), st.sampled_from([0.5, 0.8, 0.95]))
def test_seeds_needed_is_the_smallest(sd: float, margin: float, power: float) -> None:
    n = stats.seeds_needed(sd, margin, power)
    assert n is not None and n >= 2
    assert stats.tost_power(n, sd, margin) >= power
    assert n == 2 or stats.tost_power(n - 1, sd, margin) < power
    # Only the ratio counts; fractions and points give one answer (a ratio on the edge aside).
    assert abs(n - (stats.seeds_needed(sd / 100, margin / 100, power) or 0)) <= 1


def test_seeds_needed_at_the_ends() -> None:
    assert stats.seeds_needed(0.0, 1.0) == 2
    assert stats.seeds_needed(100.0, 1.0) is None
    exact = stats.seeds_needed(3.0, 1.0)
    assert exact is not None
    assert stats.seeds_needed(3.0, 1.0, max_n=exact) == exact
    assert stats.seeds_needed(3.0, 1.0, max_n=exact - 1) is None
    assert stats.tost_power(5, 0.0, 1.0) == 1.0
    assert stats.tost_power(5, 0.0, 1.0, difference=1.0) == 0.0


ONES: npt.NDArray[np.int64] = np.ones(4, dtype=np.int64)


@pytest.mark.parametrize("test", [stats.paired_t, stats.sign_flip, lambda a, b: stats.tost(a, b, 1.0)])
@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([1.0], [2.0], "at least 2"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "2 and 3"),
        ([1.0, math.nan], [1.0, 2.0], "a hold nan"),
        ([1.0, 2.0], [1.0, math.inf], "b hold inf"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "shape"),
    ],
)
def test_bad_pairs_are_refused(test: Callable[[Any, Any], Any], a: Any, b: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        test(a, b)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.tost([1, 2], [1, 3], margin=0), "margin"),
        (lambda: stats.tost([1, 2], [1, 3], margin=math.nan), "margin"),
        (lambda: stats.tost([1, 2], [1, 3], margin=1, alpha=0.5), "alpha"),
        (lambda: stats.mcnemar([], [], []), "at least 1"),
        (lambda: stats.mcnemar(ONES, ONES[:3], ONES), "equally long"),
        (lambda: stats.mcnemar(np.stack([ONES, ONES]), ONES, ONES), "shape"),
        (lambda: stats.paired_bootstrap("f1", ONES, ONES, ONES[:3]), r"predictions_b must have shape"),
        (lambda: stats.paired_bootstrap("f1", ONES, ONES, ONES, resamples=0), "resamples"),
        (lambda: stats.sign_flip(np.arange(30), np.zeros(30), resamples=0), "resamples"),
        (lambda: stats.paired_t([1, 2], [1, 3], level=1), "level"),
        (lambda: stats.sign_flip([1, 2], [1, 3], level=1), "level"),
        (lambda: stats.holm([0.1, math.nan]), "nan"),
        (lambda: stats.holm([0.1, 1.1]), r"\[0, 1\]"),
        (lambda: stats.tost_power(1, 1.0, 1.0), "at least 2"),
        (lambda: stats.tost_power(5, -1.0, 1.0), "sd"),
        (lambda: stats.tost_power(5, math.nan, 1.0), "sd"),
        (lambda: stats.seeds_needed(1.0, 0.0), "margin"),
        (lambda: stats.seeds_needed(1.0, 1.0, power=1.0), "power"),
        (lambda: stats.seeds_needed(1.0, 1.0, max_n=1), "max_n"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
