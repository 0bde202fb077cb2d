"""Compose a run's configuration from YAML files and overrides."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from symlora.config.checks import NAMED, check, check_keys, check_name
from symlora.config.own_task import complete
from symlora.config.schema import Config, TaskConfig
from symlora.config.typed import read_yaml
from symlora.errors import SymloraError

_PACKAGE = Path(__file__).resolve().parents[1]
# Next to the package in a checkout, inside it in an installation.
CONFIG_DIR = next(parent / "configs" for parent in (_PACKAGE, _PACKAGE.parent) if (parent / "configs").is_dir())
# Where `make select` writes. An installed package does not write into itself; Hydra searches this folder first.
BEST_DIR = (Path("results/configs") if CONFIG_DIR.parent == _PACKAGE else CONFIG_DIR) / "best"
# Hydra finds plugins on sys.path, once: in a checkout they are in scripts/, in an installation next to the package.
_SCRIPTS = CONFIG_DIR.parent / "scripts"
if (_SCRIPTS / "hydra_plugins").is_dir() and str(_SCRIPTS) not in sys.path:
    sys.path.append(str(_SCRIPTS))

ConfigStore.instance().store(name="schema", node=Config)
PATHS = ("model.path", "init_from", "data.dir", "data.cache_dir", "results_dir")


def resolve(cfg: Any) -> Config:
    """Turn Hydra's composed object into a plain `Config`, interpolations resolved.

    Raises:
        SymloraError: A value is missing or out of range; the message names its key.
    """
    try:
        for group in NAMED:  # before the recipes, which use these names
            if (name := OmegaConf.select(cfg, f"{group}.name")) is not None:
                check_name(group, name)
        if OmegaConf.select(cfg, "data.source") == "own" and "custom" in cfg.protocol.recipe:
            with open_dict(cfg):
                cfg.protocol.recipe.setdefault(cfg.task.name, cfg.protocol.recipe.custom)
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise SymloraError(_explain(error)) from None
    assert isinstance(config, Config)
    for path in PATHS:
        group, _, name = path.rpartition(".")
        holder = getattr(config, group) if group else config
        if (value := getattr(holder, name)) is not None:
            setattr(holder, name, os.path.expanduser(value))
    check_keys(config)
    _check_facts(config)
    if config.data.source == "own":
        complete(config)
    check(config)
    # Their values are now in `train`; the other tasks' values are not part of this run.
    config.protocol.recipe = config.model.recipe = {}
    return config


def quote_paths(words: Sequence[str]) -> list[str]:
    """Quote paths that Hydra cannot read (`~`, `=`, `#`, ü), or reads as numbers."""
    quoted = list(words)
    for number, word in enumerate(words):
        key, equals, value = word.partition("=")
        if equals and key.lstrip("+") in PATHS:
            try:
                needed = isinstance(OverridesParser.create().parse_override(word).value(), (int, float))
            except HydraException:
                needed = True
            if needed:
                escaped = value.replace("'", r"\'")
                quoted[number] = f"{key}='{escaped}'"
    return quoted


def check_files() -> None:
    """Read every file in configs/, so that a damaged one is named.

    Raises:
        SymloraError: One cannot be read.
    """
    for path in sorted(CONFIG_DIR.rglob("*.yaml")):
        try:
            yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())[:300]
            raise SymloraError(f"{path} cannot be read as YAML ({reason}). Restore it (git checkout).") from None


def compose(*overrides: str) -> Config:
    """Compose the configuration that `symlora train <overrides>` would run.

    Raises:
        SymloraError: An override names no key or has a wrong value.
    """
    with our_configs():
        return resolve(hydra.compose("config", overrides=quote_paths(overrides)))


@contextmanager
def our_configs() -> Iterator[None]:
    """Let Hydra compose from configs/; say in one line what it cannot."""
    try:
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            yield
    except (yaml.YAMLError, UnicodeDecodeError):
        check_files()  # names the file
        raise
    except HydraException as error:
        detail = f" ({error.__cause__})" if error.__cause__ else ""
        raise SymloraError(f"{error}{detail}") from error
    except OmegaConfBaseException as error:
        raise SymloraError(_explain(error)) from None


def _check_facts(config: Config) -> None:
    """Refuse overrides of a task's facts, which decide the score."""
    path, own = CONFIG_DIR / "task" / f"{config.task.name}.yaml", config.task.name == "custom"
    if own != (config.data.source == "own") and (own or path.is_file()):
        raise SymloraError(
            f"task.name={config.task.name} with data.source={config.data.source}: a table of yours goes with "
            "task=custom and its own name (task.name=<name>). It cannot have a GLUE task's name or use protocol=demo."
        )
    if path.is_file() and not own:
        for key, value in vars(read_yaml(path, TaskConfig)).items():
            if getattr(config.task, key) != value:
                raise SymloraError(
                    f"task.{key} is a fact of {config.task.name} ({path.name}), not a setting. Do not set it, or make "
                    "a task file with another name in configs/task."
                )


def _explain(error: Exception) -> str:
    key = getattr(error, "full_key", None) or "?"
    first_line = str(error).splitlines()[0]
    if "recipe" in first_line:
        return (
            f"This protocol has no recipe for this task ({first_line}). "
            "Give train.lr, train.batch_size and train.epochs on the command line, or add the task "
            "to the protocol's YAML file."
        )
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is not set: give {key}=<value>."
    return f"{key}: {first_line}"
