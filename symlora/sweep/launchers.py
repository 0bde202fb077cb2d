"""Configure the packs' launcher and each job's GPU.

    symlora train -m hydra/launcher=joblib hydra.launcher.n_jobs=3 \\
        '+hydra.job.env_set.CUDA_VISIBLE_DEVICES="${cuda_device:${hydra.job.num}}"' seed=0,1,2 ...

Hydra's launchers assign no devices (facebookresearch/hydra #1331, #2757): without this line every job uses the first
GPU. A process keeps the device of its first job, since CUDA reads the variable once; the workers of a launcher begin
with different jobs, and so have different devices.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from symlora.errors import SymloraError

INNERS = ("auto", "basic", "joblib", "submitit_local", "submitit_slurm", "ray")
VARIABLE = "CUDA_VISIBLE_DEVICES"
_EXTRAS = {"joblib": "launchers", "submitit_local": "launchers", "submitit_slurm": "launchers", "ray": "ray"}


@dataclass
class PackedLauncherConf:
    """Settings of the launcher that trains several runs in one pass."""

    _target_: str = "hydra_plugins.symlora_packed_launcher.SymloraPackedLauncher"
    # What runs the packs: `basic` is this process, one after another, and `joblib` processes on this machine. `auto`
    # takes joblib on a CPU (a single-thread worker per core) and on several GPUs (a worker each), else this process.
    inner: str = "auto"
    inner_config: dict[str, Any] = field(default_factory=dict)  # settings of that launcher, by their names in Hydra
    # Mean tokens per step of a pack at most. None: 8192, or 3000 in float32 on a CPU. On a CPU larger packs gain little
    # or lose (docs/bench.md). On a GPU it is an estimate.
    max_tokens: int | None = None
    # Packs that run at the same time; packs are split so that none idles. None: cores or GPUs; for Slurm 1, so that
    # packs are filled (give the number of nodes to spread them).
    workers: int | None = None
    threads: int | None = None  # of each worker; None: 1 in joblib, submitit_local and ray on a CPU, else unchanged


_schema = OmegaConf.structured(PackedLauncherConf)
OmegaConf.set_struct(_schema.inner_config, False)  # any key of any launcher, without a + before it
ConfigStore.instance().store(group="hydra/launcher", name="packed_schema", node=_schema, provider="symlora.sweep")


def visible_devices() -> list[str]:
    """List the GPUs of this process as CUDA_VISIBLE_DEVICES names them.

    Numbers, or UUIDs of GPUs and MIG slices: from the variable if it is set, else as many as torch finds.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def gpus_of(device: Any) -> list[str]:
    """List the GPUs of a torch.device: all, or the numbered one."""
    names = visible_devices() if device.type == "cuda" else ["mps"] * (device.type == "mps")
    return names if device.index is None else names[device.index : device.index + 1]


def cuda_device(job: int) -> str:
    """Return the GPU of job number `job`; empty without GPUs."""
    devices = visible_devices()
    return devices[int(job) % len(devices)] if devices else ""


OmegaConf.register_new_resolver("cuda_device", cuda_device, replace=True)


def installed(inner: str) -> bool:
    """Tell whether Hydra knows a launcher."""
    try:
        ConfigStore.instance().load(f"hydra/launcher/{inner}.yaml")
    except ConfigLoadError:
        return False
    return True


def launcher_node(inner: str, settings: Mapping[str, Any]) -> DictConfig:
    """Merge our settings of a launcher over its plugin's defaults.

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
    """Return how many packs a launcher runs at the same time.

    Slurm counts as 1, so that packs are filled. `devices` is the number of GPUs in use, 0 on a CPU.
    """
    if inner in ("basic", "submitit_slurm"):
        return 1
    if inner == "joblib" and settings.n_jobs > 0:
        return int(settings.n_jobs)
    if inner == "ray" and settings.ray.init.get("num_cpus"):
        return int(settings.ray.init.num_cpus)
    return devices or cores()


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
