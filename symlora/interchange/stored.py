"""What an adapter's folder holds, and writing a folder whole or not at all."""

import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from symlora.errors import SymloraError
from symlora.interchange.factors import CONFIG, WEIGHTS, Factors, factors_of
from symlora.store import folder as results

PREFIX = "base_model.model."  # of every name in a file that PEFT saves


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as its files have it.

    Attributes:
        folder: Where they are.
        config: PEFT's configuration, of whatever method.
        tensors: By name, as PEFT saved them: the adapter's own, and those of `modules_to_save`.
        run: The content of run.json, if the folder is a run's.
    """

    folder: Path
    config: Any
    tensors: dict[str, Tensor]
    run: dict[str, Any] | None = None

    @property
    def method(self) -> str:
        """PEFT's name of the method: LORA, SYMLORA, ..."""
        return str(getattr(self.config.peft_type, "value", self.config.peft_type))

    def factors(self) -> list[Factors]:
        """Low-rank factors of every adapted matrix, in float64 whatever the file's dtype is.

        Raises:
            SymloraError: There are none, one lacks its partner, or they make no product.
        """
        path = self.folder / WEIGHTS
        return factors_of({name: value.double().numpy() for name, value in self.tensors.items()}, path)


def read_adapter(source: Path) -> StoredAdapter:
    """Reads a run folder, or an adapter's folder as `save_pretrained` leaves it. Nothing is unpickled.

    Raises:
        SymloraError: No adapter there, a method that PEFT does not know, or a file that cannot be read.
    """
    run = results.read_run(source)
    folder = source / "adapter" if run is not None else source
    if run is not None and (problems := results.find_damage(source, run)):
        raise SymloraError(f"{source} is damaged: {problems[0]}. Train that run again (force=true).")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise SymloraError(
                f"{folder}: there is no {name}. Give a finished run's folder, or an adapter's as save_pretrained "
                "leaves it (runs of the methods head and full have no adapter)."
            )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SymloraError(f"{folder / CONFIG} cannot be read as a PEFT configuration: {error}") from error
    if run is not None and run["config"]["model"]["path"] is None and config.revision is None:
        config.revision = run["config"]["model"]["revision"]  # runs of older versions did not write it there
    return StoredAdapter(folder, config, read_tensors(folder / WEIGHTS), run)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        SymloraError: It cannot be read, is cut short, is something else, or holds NaN or infinite values.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise SymloraError(f"{path} cannot be read as safetensors (cut short?): {error}") from error
    check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses NaN and infinite values, naming the first tensor that has one."""
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value.double()).all():
            raise SymloraError(f"{path}: {name} holds values that are not finite (NaN or infinite).")


def check_rank(adapter: StoredAdapter, module: str, stored: int, configured: Any) -> None:
    """Refuses factors of another rank than adapter_config.json gives their module, where alpha / r would be wrong."""
    if stored != configured:
        raise SymloraError(
            f"{adapter.folder}: {module} has factors of rank {stored}, but {CONFIG} says {configured!r}."
        )


def ranks(by_module: Mapping[str, int]) -> dict[str, Any]:
    """`r` and `rank_pattern` for modules of these ranks: the commonest rank is `r`."""
    commonest = Counter(by_module.values()).most_common(1)[0][0]
    return {"r": commonest, "rank_pattern": {name: rank for name, rank in by_module.items() if rank != commonest}}


def shared_fields(config: Any) -> dict[str, Any]:
    """Fields that mean the same in every method's configuration, for a configuration of another method."""
    names = (
        "task_type base_model_name_or_path revision target_modules exclude_modules layers_to_transform layers_pattern"
    )
    return {name: getattr(config, name, None) for name in [*names.split(), "modules_to_save"]} | {
        "inference_mode": True
    }


def write_adapter(out: Path, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` into a folder that is there.

    Raises:
        SymloraError: A tensor holds NaN or infinite values, as a product of finite factors may.
    """
    check_finite(tensors, out / WEIGHTS)
    config.save_pretrained(str(out))
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, out / WEIGHTS, metadata={"format": "pt"})


def float32(array: Any) -> Tensor:
    """A float64 array as a float32 tensor, rounded once."""
    return torch.from_numpy(array).float().contiguous()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, renamed to `out` at the end; on an error nothing of it stays.

    Raises:
        SymloraError: Something is at `out` already, or it cannot be written.
    """
    out = out.absolute()  # "." has no name to put a folder beside
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
