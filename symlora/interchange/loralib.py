"""Convert checkpoints of LoRA's own code (loralib, microsoft/LoRA) to PEFT's LoRA adapters.

Such a file is a state dict: `<module>.lora_A` (r × n_in), `<module>.lora_B` (n_out × r), and every trained parameter of
the head under its own name. The pytorch_model.bin that LoRA's scripts leave holds the frozen encoder too; its weights
may have B A merged in already, and are left out.

Neither holds α, without which ΔW = (α/r) B A is not known. For the released RoBERTa-base MNLI checkpoint the LoRA
paper's table 9 says 8, the released scripts say 16 (examples/NLU/roberta_base_mnli.sh), and users who tried both found
that it works at 16 (microsoft/LoRA #37, #151).
"""

import math
from pathlib import Path

from peft import LoraConfig

from symlora.errors import SymloraError
from symlora.interchange.write import rank_fields, write_adapter
from symlora.store.adapter_folder import CONFIG, PREFIX, find_factors, read_tensors


def loralib_to_lora(file: Path, out: Path, alpha: float, base_model: str | None = None) -> tuple[list[str], list[str]]:
    """Write a LoRA adapter from a checkpoint of loralib.

    The file is `.safetensors`, or torch's own `.bin`, `.pt` (tensors only). Returns the adapted modules' names, and
    those of the encoder's other tensors, which are taken to be the base model's and left out.

    Raises:
        SymloraError: The file cannot be read, holds no such factors or a few other tensors of the encoder (biases that
            were trained with the factors), or α is not above 0. `out` is then not there.
    """
    if not 0 < alpha < math.inf:
        raise SymloraError(f"alpha={alpha}: give the α that the checkpoint was trained with, above 0.")
    tensors = read_tensors(file)
    found = find_factors(tensors, file)
    if any(name.startswith(PREFIX) for name in tensors):
        raise SymloraError(f"{file} was saved by PEFT: give the folder that holds {CONFIG}, without an α.")
    ranks = {factors.module: factors.left.shape[1] for factors in found}
    encoders = {module.split(".")[0] for module in ranks}
    factors = {name for name in tensors if name.startswith(tuple(f"{module}.lora_" for module in ranks))}
    rest = [name for name in tensors if name not in factors and name.split(".")[0] in encoders]
    if rest and not any(f"{module}.weight" in tensors for module in ranks):  # not the whole model
        raise SymloraError(
            f"{file}: {rest[0]} belongs to the encoder and is no LoRA factor. A LoRA adapter can hold only the "
            "factors and the head (biases or norms trained with them cannot be converted)."
        )
    head = sorted({name.split(".")[0] for name in tensors} - encoders)
    config = LoraConfig(
        **rank_fields(ranks),
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]  # PEFT takes both
        target_modules=sorted(ranks),  # whole names: other modules may end in the same word
        modules_to_save=head or None,
        task_type="SEQ_CLS" if head else None,
        base_model_name_or_path=base_model,
        inference_mode=True,
    )
    kept = {name: value for name, value in tensors.items() if name not in rest}
    write_adapter(out, config, {f"{PREFIX}{name}{'.weight' * (name in factors)}": kept[name] for name in kept})
    return list(ranks), rest
