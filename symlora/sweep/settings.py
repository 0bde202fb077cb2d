"""What `hydra/launcher=packed` can be told (configs/hydra/launcher/packed.yaml sets it)."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

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


_node = OmegaConf.structured(PackedLauncherConf)
OmegaConf.set_struct(_node.inner_config, False)  # any key of any launcher, without a + before it
ConfigStore.instance().store(group="hydra/launcher", name="packed_schema", node=_node, provider="symlora.sweep")
