"""Record the origin and cost of a result."""

import functools
import gc
import math
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from symlora.config.identity import files_sha256
from symlora.model.device import return_memory

PACKAGES = ("symlora", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy", "safetensors", "hydra-core")
_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


def provenance(device: torch.device) -> dict[str, Any]:
    """Return commit, versions and device; no host or user names."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if (changes := _git("status", "--porcelain", "--untracked-files=no")) is None else bool(changes),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def code_sha256() -> str:
    """Hash the source code of training and scoring."""
    root = Path(__file__).parents[1]
    parts = ("adapters", "data", "metrics", "model", "training")
    return files_sha256(root, [root / "seeds.py", *(path for part in parts for path in (root / part).glob("*.py"))])


def without_places(text: str) -> str:
    """Remove folders of this machine, which may name a user."""
    places = [Path(__file__).parents[2], Path(sys.prefix), Path(sys.base_prefix), Path.home()]
    for place in sorted({str(place) for place in places} - {os.sep}, key=len, reverse=True):
        text = text.replace(place + os.sep, "")
    return text


def device_name(device: torch.device) -> str:
    """Return the device's name, such as `NVIDIA H100 80GB HBM3`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return (platform.processor() or platform.machine()) + (" GPU (MPS)" if device.type == "mps" else "")


def reset_peak_memory(device: torch.device) -> None:
    """Start the peak anew, so that it is not an earlier pack's."""
    if device.type == "cuda":
        gc.collect()  # an adapted model holds itself, and its memory
        torch.cuda.init()  # type: ignore[no-untyped-call] # without it torch refuses a device with a number
        torch.cuda.reset_peak_memory_stats(device)
        return
    return_memory()
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Return peak memory: tensors' on CUDA, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS


def joules(device: torch.device) -> float:
    """Read the device's energy counter, NVML's or RAPL's; NaN without one."""
    try:
        if device.type != "cuda":
            return int(_RAPL.read_text()) / 1e6
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except Exception:  # no pynvml, an old card, no permission: then there is no figure
        return math.nan


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed as a package, perhaps inside some other repository
        return None
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
