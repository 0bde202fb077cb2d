"""Choose device and precision, and keep a CPU's memory."""

import contextlib
import ctypes
import os

import torch

from symlora.errors import SymloraError

# Of frozen weights and activations, by `precision`
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def pick_device(name: str) -> torch.device:
    """Return the device of this name, for example `cuda:1`.

    `auto` is the first that is there of cuda, mps and cpu. It follows torchrun's LOCAL_RANK.

    Raises:
        SymloraError: It does not exist here.
    """
    rank = os.environ.get("LOCAL_RANK")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name in ("auto", "cuda") and there["cuda"]:
        name = "cuda" if rank is None else f"cuda:{rank}"
    if name == "auto":  # several processes cannot share an Apple GPU
        return torch.device("mps" if there["mps"] and rank is None else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SymloraError(f"device={name}: give auto, cpu, mps, cuda or cuda:<number>.") from error
    if device.type not in there:
        raise SymloraError(f"device={name}: only cpu, cuda and mps are supported.")
    if not there[device.type]:
        raise SymloraError(f"device={name}: torch {torch.__version__} sees no {device.type.upper()} device here.")
    if device.type == "cuda" and (device.index or 0) >= (devices := torch.cuda.device_count()):
        raise SymloraError(f"device={name}: torch sees {devices} CUDA device(s) here, numbered from 0.")
    return device


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to the device, if possible without waiting."""
    source = tensor.pin_memory() if device.type == "cuda" else tensor
    return source.to(device, non_blocking=device.type != "mps")  # which may read freed memory (pytorch #189690)


def keep_memory() -> None:
    """Let glibc keep freed memory, which the next step needs again.

    By default it returns large tensors to the system at once, which then clears every page anew: 7 to 18 % of a pack's
    step (measured). The process stays as large as its largest step.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def return_memory() -> None:
    """Return the memory that `keep_memory` kept."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve `auto`: bf16 where fast, else fp16 on CUDA, else fp32.

    It is fast on GPUs that have it, and on CPUs with AMX tiles (3x, measured).
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        # Not torch.cuda.is_bf16_supported, which asks the current device.
        return "bf16" if torch.version.hip or torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "bf16" if device.type == "cpu" and has_amx is not None and has_amx() else "fp32"
