"""Write adapter folders atomically."""

import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from symlora.errors import SymloraError
from symlora.interchange.base_scale import write_base_scale
from symlora.store.adapter_folder import CONFIG, WEIGHTS, StoredAdapter, check_finite

_SHARED = (
    *("task_type", "base_model_name_or_path", "revision", "modules_to_save"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` on success.

    Raises:
        SymloraError: `out` is a file or a folder that is not empty, or it cannot be written.
    """
    out = out.absolute()  # "." has no name to put a folder next to
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SymloraError(f"{out} is there already. Give a new folder, or move it away.")
    work = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        work.mkdir(parents=True)
        yield work
        if out.exists():
            out.rmdir()
        work.rename(out)
    except OSError as error:
        raise SymloraError(f"{out} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_adapter(
    out: Path, config: Any, tensors: Mapping[str, Tensor], scales: Mapping[str, Tensor] | None = None
) -> None:
    """Write an adapter's folder, with λ by module name in it.

    Raises:
        SymloraError: As `new_folder`, or a tensor is not finite (products of finite factors can overflow).
    """
    with new_folder(out) as work:
        check_finite(tensors, work / WEIGHTS)
        config.save_pretrained(str(work))
        own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}  # none shared
        save_file(own, work / WEIGHTS, metadata={"format": "pt"})
        write_base_scale(work, scales or {})


def shared_fields(config: Any) -> dict[str, Any]:
    """Return the fields that mean the same in every method's configuration."""
    return {name: getattr(config, name, None) for name in _SHARED} | {"inference_mode": True}


def rank_fields(by_module: Mapping[str, int]) -> dict[str, Any]:
    """Return `r`, the commonest rank, and the `rank_pattern` of others."""
    commonest = Counter(by_module.values()).most_common(1)[0][0]
    return {"r": commonest, "rank_pattern": {name: rank for name, rank in by_module.items() if rank != commonest}}


def unscaled(by_module: Mapping[str, int], alpha: str) -> dict[str, Any]:
    """Return ranks and an equal `alpha`, for a scale of 1."""
    fields = rank_fields(by_module)
    return {**fields, alpha: fields["r"], "alpha_pattern": dict(fields["rank_pattern"])}


def check_rank(adapter: StoredAdapter, module: str, stored: int, configured: Any) -> None:
    """Refuse factors of another rank: alpha / r would be wrong."""
    if stored != configured:
        raise SymloraError(
            f"{adapter.folder}: {module} has factors of rank {stored}, but {CONFIG} says {configured!r}."
        )


def to_float32(array: Any) -> Tensor:
    """Round a float64 array to a float32 tensor."""
    return torch.from_numpy(array).float().contiguous()
