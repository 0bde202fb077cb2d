"""The launcher that runs the packs: Hydra's own plugins, each with its own settings."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigLoadError
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from symlora.errors import SymloraError
from symlora.sweep.settings import INNERS

_EXTRAS = {"joblib": "launchers", "submitit_local": "launchers", "submitit_slurm": "launchers", "ray": "ray"}


def installed(inner: str) -> bool:
    """Whether Hydra knows that launcher."""
    try:
        ConfigStore.instance().load(f"hydra/launcher/{inner}.yaml")
    except ConfigLoadError:
        return False
    return True


def node(inner: str, settings: Mapping[str, Any]) -> DictConfig:
    """The launcher's settings: its plugin's defaults, and ours over them.

    Raises:
        SymloraError: The plugin is not installed, or has no such setting.
    """
    if inner not in INNERS[1:]:
        raise SymloraError(f"hydra.launcher.inner={inner}: unknown. Choose one of: {', '.join(INNERS)}.")
    if not installed(inner):
        extra = _EXTRAS[inner]
        raise SymloraError(
            f"hydra.launcher.inner={inner}: its Hydra plugin is not installed. Install the extra `{extra}` "
            f"(uv pip install -e '.[{extra}]'), or take hydra.launcher.inner=basic."
        )
    default = copy.deepcopy(ConfigStore.instance().load(f"hydra/launcher/{inner}.yaml").node)
    try:
        merged = OmegaConf.merge(default, dict(settings))
    except OmegaConfBaseException as error:
        raise SymloraError(f"hydra.launcher.inner_config: {str(error).splitlines()[0]} (launcher {inner})") from None
    assert isinstance(merged, DictConfig)
    return merged


def at_once(inner: str, settings: DictConfig, devices: int) -> int:
    """How many packs this launcher runs at the same time, on this machine; for Slurm, 1: packs are filled, not spread.

    Args:
        inner: The launcher.
        settings: Its settings (`node`).
        devices: GPUs in use; 0 on a CPU.
    """
    if inner in ("basic", "submitit_slurm"):
        return 1
    if inner == "joblib" and settings.n_jobs > 0:
        return int(settings.n_jobs)
    return devices or cores()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch(
    settings: DictConfig,
    task: TaskFunction,
    overrides: Sequence[Sequence[str]],
    *,
    context: HydraContext,
    config: DictConfig,
    wave: int | None = None,
) -> list[JobReturn]:
    """Runs one Hydra job a pack, numbered from 0, with the inner launcher.

    Args:
        settings: Of the inner launcher (`node`).
        task: Gets its pack by `hydra.job.num`.
        overrides: Of each pack's first job: what the worker composes its (unused) configuration from.
        context: Of the multirun.
        config: Of the multirun.
        wave: Launch so many at a time (submitit_local starts everything it is given at once); None launches all.
    """
    config = copy.deepcopy(config)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.launcher = settings
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    size = wave or len(overrides)
    returns: list[JobReturn] = []
    for start in range(0, len(overrides), size):
        returns += launcher.launch(overrides[start : start + size], initial_job_idx=start)
    return returns
