"""Which GPU a job gets, where a machine has several.

    python scripts/train.py -m hydra/launcher=joblib hydra.launcher.n_jobs=3 \\
        '+hydra.job.env_set.CUDA_VISIBLE_DEVICES="${cuda_device:${hydra.job.num}}"' seed=0,1,2 ...

Hydra's launchers hand out no devices (facebookresearch/hydra #1331, #2757): without this line every job lands on the
first GPU. A process keeps the device of its first job, since CUDA reads the variable once; the workers of a launcher
begin with different jobs, and so have different devices.
"""

import os

from omegaconf import OmegaConf

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
