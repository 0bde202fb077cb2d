"""Read what the report decides by: configs/report.yaml, fixed before the runs that it judges."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from symlora.config.compose import CONFIG_DIR
from symlora.errors import SymloraError


@dataclass(frozen=True)
class Criteria:
    """What intervals and tests are computed with."""

    level: float  # of intervals
    alpha: float  # chance of any false verdict on a method in a section; paired intervals have the level 1 - alpha
    margin: float  # in points: two methods are equivalent if the difference of their means lies within ±margin
    power: float  # for the number of seeds that would settle it
    resamples: int  # of each bootstrap
    seed: int  # of the bootstraps


def load_criteria(path: Path = CONFIG_DIR / "report.yaml") -> Criteria:
    """Read the criteria.

    Raises:
        SymloraError: The file cannot be read, or a key is missing, unknown or of another type.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Criteria), OmegaConf.load(path))
        criteria: Criteria = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise SymloraError(f"{path}: {error}") from error
    return criteria
