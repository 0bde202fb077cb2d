"""Configure the Hydra launcher that runs the packs, and the GPU of each job.

    python scripts/train.py -m hydra/launcher=joblib hydra.launcher.n_jobs=3 \\
        '+hydra.job.env_set.CUDA_VISIBLE_DEVICES="${cuda_device:${hydra.job.num}}"' seed=0,1,2 ...

Hydra's launchers hand out no devices (facebookresearch/hydra #1331, #2757): without this line every job lands on the
first GPU. A process keeps the device of its first job, since CUDA reads the variable once; the workers of a launcher
begin with different jobs, and so have different devices.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigLoadError
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from symlora.errors import SymloraError

INNERS = ("auto", "basic", "joblib", "submitit_local", "submitit_slurm", "ray")


@dataclass
class PackedLauncherConf:
    """Settings of the launcher that trains several runs in one pass.

    Attributes:
        inner: What runs the packs: `basic` (this process, one after another), `joblib` (processes on this machine),
            `submitit_local`, `submitit_slurm` or `ray`; `auto` takes joblib on a CPU (a single-thread worker a core)
            and where there are several GPUs (a worker each), and this process on one GPU.
        inner_config: Settings of that launcher, under the names that it has in Hydra.
        max_tokens: Tokens a step of a pack at most, on average; unset, by the device.
        workers: Packs that run at the same time; packs are split so that none idles. Unset, by the inner launcher
            (joblib and ray: cores or GPUs; Slurm: 1, so that packs are filled; give the number of nodes to spread).
        threads: Threads of each worker; unset, 1 in joblib, submitit_local and ray on a CPU, else as they are.
    """

    _target_: str = "hydra_plugins.symlora_packed_launcher.SymloraPackedLauncher"
    inner: str = "auto"
    inner_config: dict[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    workers: int | None = None
    threads: int | None = None


_schema = OmegaConf.structured(PackedLauncherConf)
OmegaConf.set_struct(_schema.inner_config, False)  # any key of any launcher, without a + before it
ConfigStore.instance().store(group="hydra/launcher", name="packed_schema", node=_schema, provider="symlora.sweep")


VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them: numbers, or UUIDs of GPUs and MIG slices.

    Read from the variable where it is set; else torch is asked how many there are. Empty without a GPU.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def cuda_device(job: int) -> str:
    """The GPU of job number `job`, in turn; "" (none) where there is none."""
    devices = visible_devices()
    return devices[int(job) % len(devices)] if devices else ""


OmegaConf.register_new_resolver("cuda_device", cuda_device, replace=True)


_EXTRAS = {"joblib": "launchers", "submitit_local": "launchers", "submitit_slurm": "launchers", "ray": "ray"}


def installed(inner: str) -> bool:
    """Whether Hydra knows that launcher."""
    try:
        ConfigStore.instance().load(f"hydra/launcher/{inner}.yaml")
    except ConfigLoadError:
        return False
    return True


def launcher_node(inner: str, settings: Mapping[str, Any]) -> DictConfig:
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
        settings: Its settings (`launcher_node`).
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
        settings: Of the inner launcher (`launcher_node`).
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
