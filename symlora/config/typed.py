"""Read YAML files into dataclasses."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from symlora.errors import SymloraError

T = TypeVar("T")


def read_yaml(path: Path, schema: type[T], advice: str = "Restore it.") -> T:
    """Read a YAML file into a dataclass.

    Raises:
        SymloraError: It cannot be read, or a key is missing, unknown or of another type; file and key are named.
    """
    try:
        found: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(path)))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise SymloraError(f"{path} cannot be read: {' '.join(str(error).split())}. {advice}") from error
    result: T = found
    return result
