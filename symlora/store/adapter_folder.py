"""Read adapter folders and tensor files; nothing is unpickled.

PEFT's `save_pretrained` leaves a folder with adapter_config.json and adapter_model.safetensors (old versions:
adapter_model.bin). A run folder holds one in adapter/. LoRA's own code (loralib) leaves a single file with
`….query.lora_A` and `….query.lora_B`, alone or among all weights of the model.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from symlora.errors import SymloraError
from symlora.store.folder import RUN_FILE, find_damage, read_run

Array = npt.NDArray[np.float64]

CONFIG = "adapter_config.json"
WEIGHTS, OLD_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"
BASE_SCALE = "base_scale.safetensors"  # λ beside a LoRA that was a SymLoRA (symlora.interchange.base_scale)
PREFIX = "base_model.model."  # of every name in a file that PEFT saves
_PRODUCTS = ("LORA", "SYMLORA", "SYMLORAORTHONORMAL")  # methods whose ΔW is a product of two factors
_FACTOR = re.compile(r"^(?P<module>.+)\.(?P<part>lora_A|lora_B|symlora_(?:start_)?(?:Q|diag))(?:\.weight)?$")
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Factors:
    """ΔW = left @ right of one adapted matrix, but for its scale α/r."""

    module: str  # full name, as the file has it
    left: Array  # n_out × r: LoRA's B, SymLoRA's Q diag(Λ)
    right: Array  # r × n_in: LoRA's A, SymLoRA's Qᵀ

    @property
    def layer(self) -> int:
        """Return the layer's number from 1; 0 where there is none."""
        number = _LAYER.search(self.module)
        return int(number[1]) + 1 if number else 0

    @property
    def projection(self) -> str:
        """Last part of the module's name."""
        return self.module.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as its files have it."""

    folder: Path
    config: Any  # PEFT's, of whatever method
    tensors: dict[str, Tensor]  # by name, as PEFT saved them: the adapter's own, and those of `modules_to_save`
    run: dict[str, Any] | None = None  # the content of run.json, if the adapter is a run's

    @property
    def method(self) -> str:
        """PEFT's name of the method: LORA, SYMLORA, ..."""
        return str(getattr(self.config.peft_type, "value", self.config.peft_type))

    def factors(self) -> list[Factors]:
        """Return the low-rank factors of every adapted matrix, in float64.

        Raises:
            SymloraError: ΔW is no product of two factors, or a factor lacks its partner.
        """
        if self.method not in _PRODUCTS or getattr(self.config, "use_dora", False):
            name = "DoRA" if self.method in _PRODUCTS else self.method
            raise SymloraError(
                f"{self.folder} is a {name} adapter: its ΔW is not a product of two factors, as in LoRA and SymLoRA."
            )
        return find_factors(self.tensors, self.folder / WEIGHTS)


def read_adapter(source: Path) -> StoredAdapter:
    """Read the adapter in a run folder, or one that PEFT saved.

    Raises:
        SymloraError: No adapter there, a method that PEFT does not know, or a file that cannot be read or was changed
            since the run.
    """
    # PEFT saves an adapter that is called "adapter" below the default one.
    places = (source / "adapter", source) if (source / RUN_FILE).is_file() else (source, source / "adapter")
    folder = next((place for place in places if (place / CONFIG).is_file()), None)
    if folder is None:
        raise SymloraError(
            f"{source} does not exist."
            if not source.exists()
            else f"{source}: there is no {CONFIG}. {_other_files(source)}"
        )
    weights = next((folder / name for name in (WEIGHTS, OLD_WEIGHTS) if (folder / name).is_file()), None)
    if weights is None:
        raise SymloraError(f"{folder}: there is no {WEIGHTS} (and no {OLD_WEIGHTS}).")
    run = read_run(folder.parent) if folder.name == "adapter" else None
    if run is not None and (problems := find_damage(folder.parent, run)):
        raise SymloraError(f"{folder.parent} is damaged: {problems[0]}. Train that run again (force=true).")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SymloraError(f"{folder / CONFIG} cannot be read as a PEFT configuration: {error}") from error
    if run is not None and run["config"]["model"]["path"] is None and config.revision is None:
        config.revision = run["config"]["model"]["revision"]  # runs of older versions did not write it there
    return StoredAdapter(folder, config, read_tensors(weights), run)


def _other_files(source: Path) -> str:
    """Say what to do with a folder that is no adapter."""
    checkpoint = source if source.is_file() else source / "pytorch_model.bin"
    if checkpoint.is_file():
        return (
            f"If {checkpoint.name} is a checkpoint of LoRA's own code, make an adapter of it: symlora export "
            f"{checkpoint} FOLDER --to lora --alpha ALPHA (the α of its training)."
        )
    return (
        "Give a finished run's folder, or an adapter's as save_pretrained leaves it (runs of the methods head and full "
        "have no adapter)."
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors: safetensors, or torch's own format.

    Torch files must hold nothing but tensors.

    Raises:
        SymloraError: It cannot be read, is cut short, holds other objects, or values that are NaN or infinite.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SymloraError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise SymloraError(f"{path} cannot be read as safetensors (cut short?): {error}") from error
    except Exception as error:  # whatever torch's unpickler raises; its own words advise to run the file's code
        raise SymloraError(
            f"{path} cannot be read as a file of tensors: it is damaged, of another kind, or holds other objects."
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
        for name, value in tensors.items()
    ):
        raise SymloraError(f"{path} is not a state dict: names with dense tensors of numbers.")
    check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse NaN and infinite values, naming the first tensor that has one."""
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value.double()).all():
            raise SymloraError(f"{path}: {name} holds values that are not finite (NaN or infinite).")


def find_factors(tensors: Mapping[str, Tensor], path: Path) -> list[Factors]:
    """Pair the factors among named tensors, in float64, by layer and projection.

    Args:
        tensors: Names that are no factor's are passed over.
        path: Where they came from, for messages.

    Raises:
        SymloraError: There are none, one lacks its partner, or they make no product.
    """
    parts: dict[str, dict[str, Array]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if key := _FACTOR.match(name):
            parts[key["module"]][key["part"]] = tensor.double().numpy()
    if not parts:
        raise SymloraError(f"{path} holds no LoRA or SymLoRA factors (lora_A, lora_B; symlora_Q, symlora_diag).")
    found = [_pair(path, module, pair) for module, pair in parts.items()]
    return sorted(found, key=lambda factors: (factors.layer, factors.projection))


def _pair(path: Path, module: str, parts: dict[str, Array]) -> Factors:
    if parts.keys() == {"lora_A", "lora_B"}:
        left, right = parts["lora_B"], parts["lora_A"]
    elif parts.keys() - {"symlora_start_Q", "symlora_start_diag"} == {"symlora_Q", "symlora_diag"}:
        Q, diag = parts["symlora_Q"], parts["symlora_diag"]
        if "symlora_start_Q" in parts and "symlora_start_diag" in parts:  # a start that is subtracted
            Q = np.concatenate([Q, parts["symlora_start_Q"]], axis=1)
            diag = np.concatenate([diag, -parts["symlora_start_diag"]])
        if Q.shape[1:] != diag.shape:
            raise SymloraError(f"{path}: {module} has Q of {Q.shape} and Λ of {diag.shape}.")
        left, right = Q * diag, Q.T
    else:
        raise SymloraError(f"{path}: {module} has only {', '.join(sorted(parts))}.")
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise SymloraError(f"{path}: {module} has factors of {left.shape} and {right.shape}, which make no product.")
    return Factors(module, left, right)
