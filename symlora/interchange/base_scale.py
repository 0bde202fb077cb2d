"""Store λ next to a LoRA adapter: the base-scale file.

λ W0 + s Q diag(Λ) Qᵀ is a LoRA on λ W0. A LoRA adapter has no place for λ, so `base_scale.safetensors` next to it holds
one float32 value per adapted matrix, named as the parameter of the base model that it multiplies:

    roberta.encoder.layer.0.attention.self.query.weight    [1]    λ

`apply_base_scale(base, folder)` multiplies; then PEFT loads the LoRA adapter from the same folder as it does any other.
Matrices with λ = 1 are left out; without the file every λ is 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from symlora.errors import SymloraError
from symlora.store.adapter_folder import BASE_SCALE, read_tensors

_MARK = "_symlora_base_scale"


def write_base_scale(folder: Path, scales: Mapping[str, Tensor]) -> None:
    """Write λ by module name; no file if every λ is 1."""
    tensors = {f"{module}.weight": value for module, value in scales.items() if float(value) != 1.0}
    if tensors:
        about = "multiply each base weight by its value, then load the LoRA adapter"
        save_file(tensors, folder / BASE_SCALE, metadata={"format": "pt", "about": about})


def read_base_scale(folder: Path) -> dict[str, Tensor]:
    """Read λ by module name; empty if there is no file.

    Raises:
        SymloraError: The file cannot be read, or holds something else.
    """
    if not (folder / BASE_SCALE).is_file():
        return {}
    found = read_tensors(folder / BASE_SCALE)
    for name, value in found.items():
        if not name.endswith(".weight") or value.numel() != 1:
            raise SymloraError(f"{folder / BASE_SCALE}: {name} is not one number for a weight.")
    return {name.removesuffix(".weight"): value for name, value in found.items()}


@torch.no_grad()
def apply_base_scale(model: Any, folder: str | Path) -> None:
    """Multiply base weights, in place, by the λ of an exported adapter.

    Call it on the plain model, before `PeftModel.from_pretrained(model, folder)`. Without a base-scale file in the
    folder it does nothing.

    Raises:
        SymloraError: The file cannot be read, names a weight that the model does not have, or the model was scaled
            before. The model is then as it was.
    """
    scales = read_base_scale(Path(folder))
    if getattr(model, _MARK, False):
        raise SymloraError("apply_base_scale: this model's weights were scaled already; load the base model afresh.")
    parameters = dict(model.named_parameters())
    unknown = [name for name in scales if f"{name}.weight" not in parameters]
    if unknown:
        raise SymloraError(
            f"{Path(folder) / BASE_SCALE}: the model has no weight {unknown[0]}.weight. It must be the plain base "
            "model, before PEFT wraps it."
        )
    for name, value in scales.items():
        weight = parameters[f"{name}.weight"]
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(wide) * value.to(weight.device, wide))
    if scales:
        setattr(model, _MARK, True)
