"""Hold what the report decides by, fixed before the runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Criteria:
    """What intervals and tests are computed with: configs/report.yaml."""

    level: float  # of intervals
    alpha: float  # chance of any false verdict on a method in a section; paired intervals have the level 1 - alpha
    margin: float  # in points: two methods are equivalent if the difference of their means lies within ±margin
    power: float  # for the number of seeds that would settle it
    resamples: int  # of each bootstrap
    seed: int  # of the bootstraps
    # Protocol, model: tasks that a verdict holds over, with runs or without; else those with runs.
    families: dict[str, dict[str, list[str]]]
