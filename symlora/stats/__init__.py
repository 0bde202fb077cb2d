"""Confidence intervals, paired tests and power for scores of seeds and rows.

Scores may be fractions or percent points, the same within a call. The modules say which question each function answers.
"""

from symlora.stats.bootstrap import row_interval, two_level_bootstrap
from symlora.stats.intervals import Interval, fisher_z, paired_interval, t_interval, wilson
from symlora.stats.power import seeds_needed, tost_power
from symlora.stats.rounding import points, round_points
from symlora.stats.tests import Decision, decide, holm, mcnemar, paired_t, sign_flip, tost

__all__ = [
    "Decision", "Interval", "decide", "fisher_z", "holm", "mcnemar", "paired_interval", "paired_t",
    "points", "round_points", "row_interval", "seeds_needed", "sign_flip", "t_interval", "tost", "tost_power",
    "two_level_bootstrap", "wilson",
]  # fmt: skip
