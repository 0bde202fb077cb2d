"""Intervals and tests for scores of seeds and rows: pure functions of arrays, float64, shapes in their docstrings.

Scores may be fractions or percent points, the same within a call; `points` turns them into what a table prints.
What each question is answered with, and why, is said in the modules: intervals, bootstrap, comparisons, equivalence,
power, rounding.
"""

from old_stats.bootstrap import bootstrap_interval, macro_mean_interval, two_level_bootstrap
from old_stats.comparisons import Comparison, holm, mcnemar, paired_bootstrap, paired_t, sign_flip
from old_stats.equivalence import Equivalence, Verdict, tost
from old_stats.intervals import (
    Interval,
    bernoulli_interval,
    fisher_z,
    paper_interval,
    printed_interval,
    t_interval,
    wilson,
)
from old_stats.power import seeds_needed, tost_power
from old_stats.rounding import format_points, points, round_points

__all__ = [
    "Comparison",
    "Equivalence",
    "Interval",
    "Verdict",
    "bernoulli_interval",
    "bootstrap_interval",
    "fisher_z",
    "format_points",
    "holm",
    "macro_mean_interval",
    "mcnemar",
    "paired_bootstrap",
    "paired_t",
    "paper_interval",
    "points",
    "printed_interval",
    "round_points",
    "seeds_needed",
    "sign_flip",
    "t_interval",
    "tost",
    "tost_power",
    "two_level_bootstrap",
    "wilson",
]
