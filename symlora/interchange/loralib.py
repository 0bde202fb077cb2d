"""Checkpoints of LoRA's own code (loralib, microsoft/LoRA) -> LoRA adapters of PEFT.

Such a file is a state dict: `<module>.lora_A` (r × n_in), `<module>.lora_B` (n_out × r), and every trained parameter of
the head under its own name. It does not hold α, without which ΔW = (α/r) B A is not known. For the released
RoBERTa-base MNLI checkpoint the LoRA paper's table 9 says 8, the released scripts say 16
(examples/NLU/roberta_base_mnli.sh), and users who tried both found that it works at 16 (microsoft/LoRA #37, #151).
"""

import math
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor

from symlora.errors import SymloraError
from symlora.interchange.factors import factors_of
from symlora.interchange.stored import PREFIX, check_finite, new_folder, ranks, read_tensors, write_adapter


def loralib_to_lora(file: Path, out: Path, alpha: float, base_model: str | None = None) -> list[str]:
    """Writes a LoRA adapter from a checkpoint of loralib.

    Args:
        file: `.safetensors`, or torch's own `.bin`, `.pt` (read by `torch.load(weights_only=True)`: tensors only).
        out: New folder.
        alpha: α that it was trained with.
        base_model: What `adapter_config.json` shall name as the base model.

    Returns:
        Names of the adapted modules.

    Raises:
        SymloraError: The file cannot be read, holds no such factors or other tensors of the encoder, or α is not above
            0. `out` is then not there.
    """
    if not 0 < alpha < math.inf:
        raise SymloraError(f"alpha={alpha}: give the α that the checkpoint was trained with, above 0.")
    tensors = read_checkpoint(file)
    found = factors_of({name: value.double().numpy() for name, value in tensors.items()}, file)
    by_module = {factors.module: factors.left.shape[1] for factors in found}
    adapted = tuple(f"{module}.lora_" for module in by_module)
    for name in tensors:
        if not name.startswith(adapted) and any(module.startswith(f"{name.split('.')[0]}.") for module in by_module):
            raise SymloraError(
                f"{file}: {name} is of the encoder, and no LoRA factor. A LoRA adapter has a place for the factors and "
                "the head only (biases or norms trained beside them cannot be carried over)."
            )
    head = sorted({name.split(".")[0] for name in tensors if not name.startswith(adapted)})
    renamed = {
        f"{PREFIX}{name}.weight" if name.startswith(adapted) else PREFIX + name: value
        for name, value in tensors.items()
    }
    config = LoraConfig(
        **ranks(by_module),
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]  # PEFT takes both
        target_modules=sorted({factors.projection for factors in found}),
        modules_to_save=head or None,
        task_type="SEQ_CLS" if head else None,
        base_model_name_or_path=base_model,
        inference_mode=True,
    )
    with new_folder(out) as work:
        write_adapter(work, config, renamed)
    return list(by_module)


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint; of a pickled one only if it holds nothing but tensors."""
    if file.suffix == ".safetensors":
        return read_tensors(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SymloraError(f"{file} cannot be read as a file of tensors: {error.strerror or error}") from error
    except Exception as error:  # whatever torch's unpickler trips on; its own words advise to run the file's code
        raise SymloraError(
            f"{file} cannot be read as a file of tensors: it is damaged, of another kind, or holds other objects."
        ) from error
    if not isinstance(content, dict) or not all(_plain(name, value) for name, value in content.items()):
        raise SymloraError(f"{file} is not a state dict: names with dense tensors of numbers.")
    check_finite(content, file)
    return content


def _plain(name: object, value: object) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    return isinstance(name, str) and dense
