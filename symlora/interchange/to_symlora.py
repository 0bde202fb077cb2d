"""Convert LoRA to SymLoRA.

The result is the symmetric matrix of rank r' that is nearest to s B A, in Frobenius's norm.

The symmetric part (ΔW + ΔWᵀ)/2 has rank at most 2r. Beyond 2r nothing is gained: the antisymmetric part is lost in any
case, half of ΔW's energy for factors that have nothing to do with each other. Q has orthonormal columns, Λ the
eigenvalues, alpha = r', λ = 1, or what a base-scale file next to the LoRA says.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from symlora import SymLoraConfig
from symlora.errors import SymloraError
from symlora.interchange.base_scale import read_base_scale
from symlora.interchange.symmetric import energy, symmetric_part
from symlora.interchange.write import check_rank, shared_fields, to_float32, unscaled, write_adapter
from symlora.store.adapter_folder import PREFIX, StoredAdapter

# Fields with which ΔW is not s B A. (Other variants are recognised by their extra tensors.)
_OTHER_FUNCTION = (
    *("alora_invocation_tokens", "arrow_config", "fan_in_fan_out", "layer_replication", "target_parameters"),
    *("use_bdlora", "use_dora", "use_qalora"),
)
# These starts change W0 itself, so that the saved B A is not what was learned on the published base model.
_MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Kept:
    """How much of one matrix is kept."""

    module: str  # its name in the base model
    rank: int  # of the SymLoRA
    energy: float  # ‖ΔW‖² of the LoRA, Frobenius
    symmetric: float  # the part of it in ΔW's symmetric part: the most that any SymLoRA could keep
    kept: float  # the part of it that this one keeps


def lora_to_symlora(adapter: StoredAdapter, out: Path, rank: int | None = None, *, full: bool = False) -> list[Kept]:
    """Write the SymLoRA adapter that approximates a LoRA best.

    `rank` None keeps the LoRA's own, matrix by matrix; `full` keeps the whole symmetric part, of rank 2r. Returns one
    entry a matrix, by layer.

    Raises:
        SymloraError: Another method, a LoRA whose ΔW is not s B A on square linear layers, a rank that does not fit, or
            a file that is not as it should be. `out` is then not there.
    """
    if rank is not None and (full or rank < 1):
        raise SymloraError(f"rank={rank}: give either a whole number of at least 1, or `full`.")
    _check_plain(adapter)
    scales = read_base_scale(adapter.folder)
    tensors = {name: value for name, value in adapter.tensors.items() if ".lora_" not in name}
    report = []
    for factors in adapter.factors():
        module = factors.module.removeprefix(PREFIX)
        n, r = factors.left.shape
        check_rank(adapter, module, r, _pattern(adapter.config.rank_pattern, module, adapter.config.r))
        if factors.right.shape[1] != n:
            raise SymloraError(
                f"{module} is not square ({n} x {factors.right.shape[1]}): SymLoRA adapts square matrices only."
            )
        most = min(2 * r, n)
        wanted = most if full else min(r if rank is None else rank, n)
        if wanted > most:
            raise SymloraError(f"rank={rank} is more than the symmetric part of {module} has: at most {most}.")
        alpha = _pattern(adapter.config.alpha_pattern, module, adapter.config.lora_alpha)
        left = alpha / (math.sqrt(r) if adapter.config.use_rslora else r) * factors.left
        Q, diag = symmetric_part(left, factors.right)  # by falling magnitude: the first are the best
        everything, kept = float(diag @ diag), float(diag[:wanted] @ diag[:wanted])
        report.append(Kept(module, wanted, energy(left, factors.right), everything, kept))
        tensors[f"{factors.module}.symlora_Q"] = to_float32(Q[:, :wanted])
        tensors[f"{factors.module}.symlora_diag"] = to_float32(diag[:wanted])
        tensors[f"{factors.module}.symlora_lambda"] = scales.get(module, torch.ones(1)).reshape(1)
    ranks = unscaled({row.module: row.rank for row in report}, "alpha")
    config = SymLoraConfig(**ranks, dropout=adapter.config.lora_dropout, **shared_fields(adapter.config))
    write_adapter(out, config, tensors)
    return report


def _pattern(pattern: dict[str, Any], module: str, default: Any) -> Any:
    return pattern.get(get_pattern_key(list(pattern), module), default)


def _check_plain(adapter: StoredAdapter) -> None:
    config, plain = adapter.config, LoraConfig()
    if adapter.method != "LORA":
        raise SymloraError(f"{adapter.folder} is a {adapter.method} adapter, not a LoRA.")
    for name in _OTHER_FUNCTION:
        if getattr(config, name, None) != getattr(plain, name, None):
            value = getattr(config, name)
            raise SymloraError(f"{adapter.folder}: {name}={value!r} makes ΔW something other than s B A: not imported.")
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(_MOVES_THE_BASE):
        raise SymloraError(f"{adapter.folder}: init_lora_weights={start!r} changed the base model; B A is not ΔW.")
    saved = set(config.modules_to_save or ())
    for name in adapter.tensors:
        if not name.endswith((".lora_A.weight", ".lora_B.weight")) and not saved & set(name.split(".")):
            raise SymloraError(f"{adapter.folder}: {name} belongs to no linear layer's LoRA and to no saved module.")
