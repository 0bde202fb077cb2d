"""What the report decides by: configs/report.yaml, fixed before the runs that it judges."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from symlora.config.compose import CONFIG_DIR
from symlora.errors import SymloraError


@dataclass(frozen=True)
class Settings:
    """Attributes:
    level: Of intervals.
    alpha: Chance of any false verdict on a method in a section; paired intervals have the level 1 - alpha.
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
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SymloraError(f"{path} cannot be read: {error}") from error
    known = {field.name: field.type for field in dataclasses.fields(Settings)}
    if not isinstance(content, dict) or set(content) != set(known):
        wrong = sorted(map(str, set(content if isinstance(content, dict) else ()) ^ set(known)))
        raise SymloraError(
            f"{path}: give exactly the keys {', '.join(known)} (missing or unknown: {', '.join(wrong)})."
        )
    settings = Settings(**content)
    for key, most in (("level", 1.0), ("alpha", 0.5), ("power", 1.0)):
        value = getattr(settings, key)
        if not isinstance(value, float) or not 0.0 < value < most:
            raise SymloraError(f"{path}: {key}={value!r}: give a share between 0 and {most:g}.")
    margin = settings.margin
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0.0 < margin < float("inf"):
        raise SymloraError(f"{path}: margin={margin!r}: give points above 0.")
    for key, least in (("resamples", 100), ("seed", 0)):
        value = getattr(settings, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SymloraError(f"{path}: {key}={value!r}: give a whole number, {least} or more.")
    return settings
