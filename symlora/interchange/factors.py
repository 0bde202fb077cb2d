"""The low-rank factors of stored adapters, as plain arrays: no model is built, PEFT is not imported.

Reads PEFT's LoRA and this package's SymLoRA as `save_pretrained` writes them (adapter_config.json,
adapter_model.safetensors), and the naming of LoRA's own code (a file with `….query.lora_A` and `….query.lora_B`).
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from symlora.errors import SymloraError

Array = npt.NDArray[np.float64]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"^(?P<module>.+)\.(?P<part>lora_A|lora_B|symlora_Q|symlora_diag)(?:\.weight)?$")
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Factors:
    """ΔW = left @ right, but for its scale α/r, of one adapted matrix.

    Attributes:
        layer: From 1, at the embeddings; 0 where the module's name has no number.
        projection: Last part of the module's name.
        left: n_out × r: LoRA's B, SymLoRA's Q diag(Λ).
        right: r × n_in: LoRA's A, SymLoRA's Qᵀ.
        module: Its full name, as the file has it.
    """

    layer: int
    projection: str
    left: Array
    right: Array
    module: str


def read_factors(path: Path) -> list[Factors]:
    """Factors of every adapted matrix, by layer and projection.

    Args:
        path: A folder as `save_pretrained` leaves it, or a safetensors file.

    Raises:
        SymloraError: Nothing readable there, a method whose ΔW is no product of two factors, a factor without its
            partner, or values that are not finite.
    """
    if path.is_dir():
        _check_config(path / CONFIG)
        path = path / WEIGHTS
    return factors_of(_tensors(path), path)


def factors_of(tensors: Mapping[str, Array], path: Path) -> list[Factors]:
    """The same, of tensors that were read from this file; names that are no factor's are passed over."""
    parts: dict[str, dict[str, Array]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if key := _KEY.match(name):
            if not np.isfinite(tensor).all():
                raise SymloraError(f"{path}: {name} holds values that are not finite.")
            parts[key["module"]][key["part"]] = tensor
    if not parts:
        raise SymloraError(f"{path} holds no LoRA or SymLoRA factors (lora_A, lora_B; symlora_Q, symlora_diag).")
    found = [_factors(path, module, tensors) for module, tensors in parts.items()]
    return sorted(found, key=lambda factors: (factors.layer, factors.projection))


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SymloraError(f"{path} cannot be read: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in ("LORA", "SYMLORA", "SYMLORAORTHONORMAL"):
        raise SymloraError(f"{path}: peft_type is {kind!r}; LORA and SYMLORA have factors that can be read here.")
    if config.get("use_dora"):
        raise SymloraError(f"{path}: use_dora is set; DoRA's change of W0 is more than B A.")


def _tensors(path: Path) -> dict[str, Array]:
    try:
        with safe_open(path, "np") as file:
            names = [name for name in list(file.keys()) if _KEY.match(name)]
            return {name: file.get_tensor(name).astype(np.float64) for name in names}
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise SymloraError(f"{path} cannot be read as safetensors of numbers: {error}") from error


def _factors(path: Path, module: str, tensors: dict[str, Array]) -> Factors:
    if tensors.keys() == {"lora_A", "lora_B"}:
        left, right = tensors["lora_B"], tensors["lora_A"]
    elif tensors.keys() == {"symlora_Q", "symlora_diag"} and tensors["symlora_diag"].ndim == 1:
        q, diagonal = tensors["symlora_Q"], tensors["symlora_diag"]
        if q.shape[-1] != len(diagonal):
            raise SymloraError(f"{path}: {module} has Q of {q.shape} and Λ of {diagonal.shape}.")
        left, right = q * diagonal, q.T
    else:
        raise SymloraError(f"{path}: {module} has only {', '.join(sorted(tensors))}.")
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise SymloraError(f"{path}: {module} has factors of {left.shape} and {right.shape}, which make no product.")
    number = _LAYER.search(module)
    return Factors(int(number[1]) + 1 if number else 0, module.rsplit(".", 1)[-1], left, right, module)
