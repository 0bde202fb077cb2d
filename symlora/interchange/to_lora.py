"""Convert SymLoRA to LoRA.

    s Q diag(Λ) Qᵀ = B A    with B = s Q diag(Λ), A = Qᵀ, lora_alpha = r

is exact but for the rounding of B to float32. (λ - 1) W0 is of full rank and no LoRA: λ goes into the base-scale file.
PEFT's own `convert_to_lora` is no help here: it decomposes the whole ΔW in float32, refuses λ, and (0.21) gives the two
layers of RoBERTa's head one name, so that one is lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peft import LoraConfig
from torch import Tensor

from symlora.errors import SymloraError
from symlora.interchange.write import check_rank, shared_fields, to_float32, unscaled, write_adapter
from symlora.store.adapter_folder import CONFIG, PREFIX, Factors, StoredAdapter


@dataclass(frozen=True)
class Reconstruction:
    """How near one exported matrix is to the SymLoRA's, in Frobenius's norm."""

    module: str  # its name in the base model
    rank: int
    base_scale: float  # λ
    change: float  # ‖ΔW‖, ΔW all that SymLoRA adds to W0; nan without W0 where λ is not 1
    error: float  # ‖ΔW of the LoRA on the scaled base - ΔW‖: rounding to float32
    error_unscaled: float  # the same of the LoRA alone: about |λ - 1| ‖W0‖; nan without W0


def symlora_to_lora(
    adapter: StoredAdapter, out: Path, base_weights: Mapping[str, Tensor] | None = None
) -> list[Reconstruction]:
    """Write a SymLoRA as LoRA, and its λ as a base-scale file.

    `base_weights` are W0 by parameter name (`model.state_dict()` of the base model), for the error without the scale.
    Returns one entry a matrix, by layer.

    Raises:
        SymloraError: Another method, trained biases, a malformed file, or weights of another model.
            `out` is then not there.
    """
    config = adapter.config
    if adapter.method != "SYMLORA":
        raise SymloraError(
            f"{adapter.folder} is a {adapter.method} adapter, not a SymLoRA. Other adapters: --to adapter."
        )
    if config.bias != "none":
        raise SymloraError(f"{adapter.folder}: bias={config.bias!r}; adapters with trained biases cannot be exported.")
    tensors = {name: value for name, value in adapter.tensors.items() if ".symlora_" not in name}
    found = adapter.factors()
    scales = base_scales(adapter, found)
    if base_weights is not None:
        check_base(adapter, found, base_weights)
    report = []
    for factors in found:
        module = factors.module.removeprefix(PREFIX)
        rank, s = config.rank_and_scale(module)
        if f"{factors.module}.symlora_start_Q" in adapter.tensors:  # a subtracted start doubles the columns
            rank *= 2
        check_rank(adapter, module, len(factors.right), rank)
        B, A = to_float32(s * factors.left), to_float32(factors.right)
        tensors[f"{factors.module}.lora_A.weight"], tensors[f"{factors.module}.lora_B.weight"] = A, B
        low_rank = s * factors.left @ factors.right
        rounding = B.double().numpy() @ A.double().numpy() - low_rank
        scale = float(scales.get(module, 1.0))
        W0 = np.nan if base_weights is None else base_weights[f"{module}.weight"].double().cpu().numpy()
        from_scale = (scale - 1) * W0 if scale != 1.0 else 0.0  # what λ adds to W0
        norms = (float(np.linalg.norm(each)) for each in (from_scale + low_rank, rounding, rounding - from_scale))
        report.append(Reconstruction(module, rank, scale, *norms))
    ranks = unscaled({row.module: row.rank for row in report}, "lora_alpha")  # B already includes s
    write_adapter(out, LoraConfig(**ranks, lora_dropout=config.dropout, **shared_fields(config)), tensors, scales)
    return report


def base_scales(adapter: StoredAdapter, found: Sequence[Factors]) -> dict[str, Tensor]:
    """Return λ by module name; empty if `train_lambda=False`."""
    end = ".symlora_lambda"
    stored = {name.removesuffix(end): value for name, value in adapter.tensors.items() if name.endswith(end)}
    expected = {factors.module for factors in found} if adapter.config.train_lambda else set()
    for module in sorted(stored.keys() ^ expected):
        there = "is there" if module in stored else "is missing"
        raise SymloraError(
            f"{adapter.folder}: {module}{end} {there}, but {CONFIG} says train_lambda={adapter.config.train_lambda!r} "
            "(a λ for every adapted matrix if true, none if false)."
        )
    for module, value in stored.items():
        if value.numel() != 1:
            raise SymloraError(f"{adapter.folder}: {module}{end} is not one number.")
    return {module.removeprefix(PREFIX): value.reshape(1).float() for module, value in stored.items()}


def check_base(adapter: StoredAdapter, found: Sequence[Factors], weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of another base model: a missing name, or another shape."""
    for factors in found:
        name = f"{factors.module.removeprefix(PREFIX)}.weight"
        shape = (len(factors.left), factors.right.shape[1])
        if name not in weights:
            raise SymloraError(f"{adapter.folder} was made for another base model: this one has no {name}.")
        if tuple(weights[name].shape) != shape:
            raise SymloraError(
                f"{adapter.folder} was made for another base model: {name} is {tuple(weights[name].shape)} there, the "
                f"adapter's is {shape}."
            )
