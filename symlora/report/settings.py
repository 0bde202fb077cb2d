"""What the report decides by: configs/report.yaml, fixed before the runs that it judges."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from symlora.config import CONFIG_DIR
from symlora.errors import SymloraError


@dataclass(frozen=True)
class Settings:
    """Attributes:
    level: Of intervals.
    alpha: Of tests; the interval that goes with the equivalence test has the level 1 - 2·alpha.
    margin: In points: two methods are equivalent if the difference of their means lies within ±margin.
    power: For the number of seeds that would settle it.
    resamples: Of each bootstrap.
    seed: Of the bootstraps.
    """

    level: float
    alpha: float
    margin: float
    power: float
    resamples: int
    seed: int


def load_settings(path: Path = CONFIG_DIR / "report.yaml") -> Settings:
    """Reads and checks the file.

    Raises:
        SymloraError: A key is missing, unknown or out of range.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SymloraError(f"{path} cannot be read: {error}") from error
    known = {field.name: field.type for field in dataclasses.fields(Settings)}
    if not isinstance(content, dict) or set(content) != set(known):
        wrong = sorted(set(content or ()) ^ set(known))
        raise SymloraError(
            f"{path}: give exactly the keys {', '.join(known)} (missing or unknown: {', '.join(wrong)})."
        )
    settings = Settings(**content)
    for key in ("level", "alpha", "power"):
        value = getattr(settings, key)
        if not isinstance(value, float) or not 0.0 < value < 1.0:
            raise SymloraError(f"{path}: {key}={value!r}: give a share between 0 and 1.")
    if not isinstance(settings.margin, (int, float)) or not settings.margin > 0.0:
        raise SymloraError(f"{path}: margin={settings.margin!r}: give points above 0.")
    for key, least in (("resamples", 100), ("seed", 0)):
        value = getattr(settings, key)
        if not isinstance(value, int) or value < least:
            raise SymloraError(f"{path}: {key}={value!r}: give a whole number, {least} or more.")
    return settings
