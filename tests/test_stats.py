"""Check intervals, bootstraps and tests against scipy, statsmodels, enumeration, theory and printed numbers."""

import itertools
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats import contingency_tables  # type: ignore[import-untyped]
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]
from statsmodels.stats.weightstats import ttost_paired  # type: ignore[import-untyped]

from symlora import stats
from symlora.metrics import functions as metrics
from symlora.stats import Interval, bootstrap

Classes = npt.NDArray[np.int64]
score = st.integers(0, 1000).map(lambda n: n / 1000)
pairs = st.integers(2, 7).flatmap(lambda n: st.tuples(*(st.lists(score, min_size=n, max_size=n) for _ in range(2))))
scores = st.lists(st.floats(0, 1).map(lambda x: round(x, 4)), min_size=2, max_size=12)
LABELS, ONES = np.array([0, 1, 0, 1]), np.ones(4, dtype=np.int64)


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


@given(scores, st.sampled_from([0.8, 0.95]), st.floats(-3, 3), st.floats(0.5, 100))
def test_t_interval_equals_scipy_in_any_unit(values: list[float], level: float, shift: float, scale: float) -> None:
    interval = stats.t_interval([scale * value + shift for value in values], level)
    assert interval.estimate == pytest.approx(scale * np.mean(values) + shift, abs=1e-9)
    if len(set(values)) == 1:
        assert interval.low == interval.high == interval.estimate
    else:
        low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(level)
        assert ends(interval) == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-7)


@given(scores, st.randoms())
def test_paired_interval_equals_scipy(a: list[float], random: Any) -> None:
    b = a.copy()
    random.shuffle(b)
    interval = stats.paired_interval(a, b, 0.9)
    if np.ptp(np.subtract(a, b)) > 1e-6:
        expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.9)
        assert ends(interval) == pytest.approx(tuple(expected), abs=1e-9)
    assert interval.method == f"t, n = {len(a)}"
    printed = stats.t_interval([1, 2, 3])  # s = 1, √n = √3; t(0.975, 2) = 4.302653 in any printed table
    assert printed.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_rounding_is_no_spread_and_one_seed_has_none() -> None:
    assert np.std([0.1] * 3, ddof=1) > 0
    # 0.3 - 0.1 and 0.4 - 0.2 differ by rounding alone
    for interval in (stats.t_interval([0.1] * 3), stats.paired_interval([0.3, 0.4, 0.5], [0.1, 0.2, 0.3])):
        assert interval.low == interval.high == interval.estimate
    assert stats.paired_interval([0.1 + 0.2, 0.7], [0.3, 0.7]).estimate == 0.0
    one = stats.t_interval([0.5])
    assert one.estimate == 0.5 and math.isnan(one.low) and math.isnan(one.high)


@pytest.mark.parametrize(("rows", "noise"), [(4, 0.1), (5, 3.0), (1500, 0.5)])
def test_fisher_z_equals_scipy(rows: int, noise: float) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=rows)
    pearson = scipy.stats.pearsonr(x, x + noise * rng.normal(size=rows))
    interval = stats.fisher_z(pearson.statistic, rows, 0.9)
    assert ends(interval) == pytest.approx(tuple(pearson.confidence_interval(0.9)), abs=1e-12)
    assert (stats.fisher_z(-1, rows).low, stats.fisher_z(1, rows).high) == (-1, 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8725, "87.2"),  # a tie goes to the even digit
        (0.87251, "87.3"),
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


def noisy(labels: Classes, right: float, rng: np.random.Generator, seeds: int) -> Classes:
    """Draw predictions [seeds, rows], each right with this chance."""
    return np.where(rng.random((seeds, len(labels))) < right, labels, 1 - labels)


@pytest.mark.parametrize("name", bootstrap.WEIGHTED)
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


def degenerate(interval: Interval, resamples: int) -> int:
    found = re.search(rf", (\d+) of {resamples} resamples degenerate$", interval.method)
    assert found is not None
    return int(found[1])


def test_degenerate_resamples_are_counted_and_named() -> None:
    # One positive row of 20: a share (19/20)^20 = 36 % of resamples has none, and no Matthews correlation.
    labels = np.array([1] + [0] * 19)
    interval = stats.row_interval("matthews_correlation", np.array([1, 1] + [0] * 18), labels)
    assert degenerate(interval, 10_000) == pytest.approx(10_000 * (19 / 20) ** 20, abs=200)
    assert interval.low == 0.0  # by convention they count as 0
    correlation = stats.row_interval("spearmanr", labels, np.arange(20.0))
    assert math.isfinite(correlation.low)  # of the resamples that have one
    constant = stats.row_interval("spearmanr", np.ones(20), np.arange(20.0), resamples=100)
    assert degenerate(constant, 100) == 100 and math.isnan(constant.estimate) and math.isnan(constant.low)


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
    assert degenerate(collapsed, 400) == pytest.approx(300, abs=40)  # 3 of 4 draws of two seeds hold the collapsed one


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
    a, b = 100 * np.array([0.57, 0.60]), 100 * np.array([0.56, 0.59])  # the margin, but 0.99999999999999 in floats
    assert stats.tost(a, b, 1.0) == 1.0 and stats.tost(a, b + 0.1, 1.0) == 0.0


def test_tost_keeps_its_level_and_power() -> None:
    # On the margin "equivalent" comes in at most alpha of experiments; within it as often as tost_power says.
    rng, n, sd, margin = np.random.default_rng(4), 8, 0.6, 1.0
    for truth in (margin, 0.4):
        d = rng.normal(truth, sd, size=(1200, n))
        share = np.mean([stats.tost(row, np.zeros(n), margin) < 0.05 for row in d])
        assert share == pytest.approx(stats.tost_power(n, sd, margin, difference=truth), abs=0.03)
        assert truth < margin or share <= 0.068


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


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 50))
def test_mcnemar_equals_statsmodels(only_a: int, only_b: int, both: int) -> None:
    labels = np.ones(only_a + only_b + both, dtype=np.int64)
    a = np.repeat([1, 0, 1], [only_a, only_b, both])
    b = np.repeat([0, 1, 1], [only_a, only_b, both])
    expected = contingency_tables.mcnemar([[both, only_a], [only_b, 0]], exact=True)
    assert stats.mcnemar(a, b, labels) == pytest.approx(min(1.0, expected.pvalue), abs=1e-12)


@settings(max_examples=10)  # statsmodels takes a tenth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4))
def test_holm_of_rows_is_a_closed_test(p_values: list[tuple[float, float]]) -> None:
    # A hypothesis is rejected if Bonferroni rejects every set of hypotheses that holds it and can be true at once.
    p, expected = np.array(p_values), np.zeros((len(p_values), 2))
    for chosen in itertools.product((None, 0, 1), repeat=len(p)):  # of each row: neither hypothesis, or one of them
        true = [(row, column) for row, column in enumerate(chosen) if column is not None]
        for place in true:
            expected[place] = max(expected[place], min(1.0, len(true) * min(p[other] for other in true)))
    assert stats.holm(p) == pytest.approx(expected, abs=1e-12)


def test_verdicts_by_hand() -> None:
    assert stats.holm([]).shape == (0,) and stats.decide([], [], []) == []
    found = stats.decide([0.3, -2.0, 1.0, 0.1], [0.01, 0.001, 0.02, 0.5], [0.004, 0.9, 0.8, 0.02])
    assert [one.verdict for one in found] == ["equivalent", "worse", "inconclusive", "inconclusive"]
    # 4 · 0.001; 4 · 0.004; 4 · 0.01, which closes the first task; then 3 · 0.02 twice; 3 · 0.5 passes 1
    assert [one.p_difference for one in found] == pytest.approx([0.04, 0.004, 0.06, 1.0])
    assert [one.p_equivalence for one in found] == pytest.approx([0.016, 1.0, 1.0, 0.06])
    assert stats.decide([2.0], [0.04], [0.9])[0].verdict == "better"


def judged(truth: Any, spread: Any, seed: int, n: int = 5) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.bool_]]:
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


@given(st.floats(0.05, 8), st.floats(0.3, 3), st.sampled_from([0.5, 0.8, 0.95]))
def test_seeds_needed_is_the_smallest(sd: float, margin: float, power: float) -> None:
    n = stats.seeds_needed(sd, margin, power)
    assert n is not None and stats.tost_power(n, sd, margin) >= power
    assert n == 2 or stats.tost_power(n - 1, sd, margin) < power
    assert n == stats.seeds_needed(sd, margin, power, max_n=n)
    assert n == 2 or stats.seeds_needed(sd, margin, power, max_n=n - 1) is None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.t_interval([]), r"shape \[n\], found \[\]"),
        (lambda: stats.t_interval([1.0, math.nan]), "finite"),
        (lambda: stats.paired_interval([1, 2], [1, 2, 3]), "2 and 3"),
        (lambda: stats.wilson(5, 4), "5"),
        (lambda: stats.wilson(0, 0), "not less than 1"),
        (lambda: stats.fisher_z(math.nan, 100), r"\[-1, 1\]"),
        (lambda: stats.fisher_z(0.5, 3), "at least 4 rows"),
        (lambda: stats.row_interval("f1", LABELS, LABELS[:3]), "shape"),
        (lambda: stats.row_interval("f1", LABELS[:1], LABELS[:1]), "at least 2 rows"),
        (lambda: stats.row_interval("f1", LABELS + 1, LABELS), "classes 0 and 1"),
        (lambda: stats.row_interval("bleu", LABELS, LABELS), "unknown metric 'bleu'"),
        (lambda: stats.row_interval("pearson", [0.1, math.nan], [0.1, 0.2]), "not finite"),
        (lambda: stats.two_level_bootstrap("f1", LABELS, LABELS, LABELS), r"\[seeds, rows\]"),
        (lambda: stats.two_level_bootstrap("f1", LABELS, LABELS[None], [LABELS, LABELS]), r"\(1, 4\) and \(2, 4\)"),
        (lambda: stats.sign_flip([1.0], [2.0]), "at least 2 pairs"),
        (lambda: stats.tost([1.0, math.nan], [1.0, 2.0], 1.0), "a must be"),
        (lambda: stats.tost([1, 2], [1, 3], margin=math.nan), "margin"),
        (lambda: stats.mcnemar([], [], []), "shape"),
        (lambda: stats.mcnemar(ONES, ONES[:3], ONES), "shape"),
        (lambda: stats.holm([0.1, math.nan]), r"\[0, 1\]"),
        (lambda: stats.tost_power(1, 1.0, 1.0), "at least 2"),
        (lambda: stats.tost_power(5, math.nan, 1.0), "sd = nan"),
        (lambda: stats.seeds_needed(1.0, 1.0, power=1.0), "power"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
