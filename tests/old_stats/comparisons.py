"""Is method a different from method b? Tests of a difference, each with the interval that goes with it.

None of these can show that two methods are the same: "not significant" is not "tied". `equivalence.tost` can.
Pairs are seeds (a seed fixes head, data order and dropout for both methods) or the rows of a split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from old_stats import bootstrap, checks
from old_stats.intervals import Interval, t_interval
from old_stats.resampling import Statistic

_EXACT_PAIRS = 20


@dataclass(frozen=True)
class Comparison:
    """A two-sided test of "no difference" between a and b."""

    difference: Interval
    """a - b, in the unit of the scores."""
    p: float
    statistic: float
    n: int
    """Pairs: seeds or rows."""
    test: str
    """Its name, with what limits it: "sign flip (exact)"."""


def paired_t(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> Comparison:
    """Paired t test (Student 1908) of scores a, b [seeds], with the t interval of the mean difference; statistic: t.

    All differences equal: t is infinite and p 0, or, if they are all 0, t is 0 and p 1.
    ValueError: fewer than 2 pairs, unequal lengths, scores not finite.
    """
    d = checks.differences(a, b)
    n, difference = len(d), paired_interval(d, level)
    if difference.low == difference.high:
        zero = difference.estimate == 0
        t = 0.0 if zero else math.copysign(math.inf, difference.estimate)
        return Comparison(difference, 1.0 if zero else 0.0, t, n, "paired t")
    t = difference.estimate / (float(d.std(ddof=1)) / math.sqrt(n))
    return Comparison(difference, float(2 * stats.t.sf(abs(t), n - 1)), t, n, "paired t")


def sign_flip(
    a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95, resamples: int = 100_000, seed: int = 0
) -> Comparison:
    """Sign-flip (randomisation) test of the mean difference of scores a, b [seeds] (Fisher 1935); statistic: the mean.

    p is the share of the 2^n sign patterns whose mean is at least as far from 0: exact, with no assumption but that
    each difference is symmetric about 0 if the methods are alike. It cannot fall under 2/2^n: 0.0625 for 5 seeds. From
    21 pairs on, `resamples` seeded random patterns stand for all, and `test` says so.
    The interval holds the shifts that the same test does not reject (Hartigan 1969: its bounds are means of subsets of
    the differences). It is infinite where the pairs are too few for the level, as 5 seeds are for 95 %.
    ValueError: fewer than 2 pairs, unequal lengths, scores not finite.
    """
    d = checks.differences(a, b)
    checks.level(level)
    n = len(d)
    exact = n <= _EXACT_PAIRS
    if exact:
        sums, sizes = _subset_sums(d), _subset_sums(np.ones(n))
        sums, sizes = sums[1:], sizes[1:]  # the empty subset is the pattern observed
    else:
        sums, sizes = _random_subsets(d, resamples, np.random.default_rng(seed))
    total, rounding = float(d.sum()), 1e-12 * float(np.abs(d).sum())
    extreme = int(np.sum(np.abs(total - 2 * sums) >= abs(total) - rounding)) + 1
    patterns = len(sums) + 1
    # Bounds: the k-th subset mean from either end, with the largest k that leaves both tails within 1 - level.
    k = math.floor((1 - level) * patterns / 2 + 1e-9)
    low, high = -math.inf, math.inf
    if k:
        means = np.sort(sums / sizes)
        low, high = float(means[k - 1]), float(means[-k])
    name = "sign flip (exact)" if exact else f"sign flip ({resamples} random patterns)"
    difference = Interval(float(d.mean()), low, high, float(level), f"seeds (sign flip, n = {n} pairs)")
    return Comparison(difference, extreme / patterns, difference.estimate, n, name)


def mcnemar(
    predictions_a: npt.ArrayLike, predictions_b: npt.ArrayLike, labels: npt.ArrayLike, level: float = 0.95
) -> Comparison:
    """McNemar's test (1947), exact, of two models' accuracy on the same rows; all [rows], any class numbers.

    statistic: rows that only a has right; p: binomial over the rows that only one of the two has right, 1 if there are
    none. It speaks of these two trained models and of new rows, not of the methods: seeds must not be pooled into the
    rows, which would count each row several times (`paired_bootstrap` takes several seeds).
    The interval of the difference of accuracies is Bonett & Price's adjusted Wald (2012).
    ValueError: unequal or other shapes, no rows, values not finite.
    """
    columns = [
        checks.sample(values, what)
        for values, what in ((predictions_a, "predictions_a"), (predictions_b, "predictions_b"), (labels, "labels"))
    ]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"predictions and labels must be equally long, found {[len(column) for column in columns]}")
    a, b, true = columns
    n = len(true)
    only_a, only_b = int(np.sum((a == true) & (b != true))), int(np.sum((a != true) & (b == true)))
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    z = float(stats.norm.ppf((1 + checks.level(level)) / 2))
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre = share_a - share_b
    half = z * math.sqrt((share_a + share_b - centre**2) / (n + 2))
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    over = f"rows (Bonett-Price, n = {n})"
    difference = Interval((only_a - only_b) / n, low, high, float(level), over)
    return Comparison(difference, p, float(only_a), n, "McNemar (exact)")


def paired_bootstrap(
    statistic: Statistic,
    labels: npt.ArrayLike,
    predictions_a: npt.ArrayLike,
    predictions_b: npt.ArrayLike,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    rows: str = "rows",
) -> Comparison:
    """Difference a - b of a metric on the same resampled rows; with several seeds, of its mean over them, seeds fixed.

    labels [rows], predictions [rows] or [seeds, rows]. p: twice the smaller share of resamples on either side of 0, and
    never 0 (Davison & Hinkley 1997, 4.4: one is added above and below). statistic: the difference.
    Errors as `bootstrap.two_level_bootstrap`; the numbers of seeds may differ.
    """
    true, a, b = bootstrap.check_predictions(
        labels, np.atleast_2d(np.asarray(predictions_a)), np.atleast_2d(np.asarray(predictions_b))
    )
    interval, drawn = bootstrap.rows_interval(statistic, true, a, b, checks.level(level), resamples, seed, rows)
    p = math.nan
    if len(drawn):
        drawn[np.abs(drawn) < 1e-12] = 0.0  # a difference of two equal means may be left at 1e-17
        smaller = min(int(np.sum(drawn <= 0)), int(np.sum(drawn >= 0)))
        p = min(1.0, 2 * (smaller + 1) / (len(drawn) + 1))
    return Comparison(interval, p, interval.estimate, len(true), f"paired bootstrap ({resamples} resamples)")


def holm(p_values: npt.ArrayLike) -> checks.Reals:
    """Holm's step-down adjustment (1979) of p values [n]: compare each with alpha, and the chance of any false claim in
    the family stays under alpha, however the tests depend on each other. In the order given; [0] gives [0].

    ValueError: other shapes, values outside [0, 1] or nan (leave out a test that was not made).
    """
    p = checks.sample(p_values, "p values", least=0)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p values must lie in [0, 1], found {p.min()} to {p.max()}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def paired_interval(d: checks.Reals, level: float) -> Interval:
    """The t interval of the mean of differences d [n], named for what it is."""
    return replace(t_interval(d, level), over=f"paired seeds (t, n = {len(d)})")


def _subset_sums(values: checks.Reals) -> checks.Reals:
    """Sums of all 2^n subsets, the empty one first: [2^n]."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return sums


def _random_subsets(
    values: checks.Reals, resamples: int, rng: np.random.Generator
) -> tuple[checks.Reals, checks.Reals]:
    """Sums and sizes of random non-empty subsets."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, found {resamples}")
    chosen = rng.integers(0, 2, size=(resamples, len(values))).astype(np.float64)
    chosen = chosen[chosen.any(axis=1)]
    return chosen @ values, chosen.sum(axis=1)
