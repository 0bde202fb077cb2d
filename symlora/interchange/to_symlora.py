"""LoRA -> SymLoRA: the symmetric matrix of rank r' nearest to s B A, and how much of it that keeps.

The symmetric part (ΔW + ΔWᵀ)/2 has rank at most 2r. Beyond 2r nothing is gained: the antisymmetric part is lost in any
case, half of ΔW's energy for factors that have nothing to do with each other. Q has orthonormal columns, Λ the
eigenvalues, alpha = r', λ = 1, or what a base-scale file beside the LoRA says.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from symlora.errors import SymloraError
from symlora.interchange.base_scale import read_base_scale
from symlora.interchange.factors import CONFIG
from symlora.interchange.stored import (
    PREFIX,
    StoredAdapter,
    check_rank,
    float32,
    new_folder,
    ranks,
    shared_fields,
    write_adapter,
)
from symlora.interchange.symmetric import best_symmetric, energy

# What a LoRA may set and still be s B A with the head that is saved beside it; all else must be as PEFT has it.
_UNDERSTOOD = (
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "init_lora_weights", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "megatron_core", "runtime_config",
)  # fmt: skip
# These starts change W0 itself, so that the saved B A is not what was learned on the published base model.
_MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Kept:
    """How much of one matrix is kept.

    Attributes:
        module: Its name in the base model.
        rank: Of the SymLoRA.
        energy: ‖ΔW‖² of the LoRA, Frobenius.
        symmetric: The part of it in ΔW's symmetric part: the most that any SymLoRA could keep.
        kept: The part of it that this one keeps.
    """

    module: str
    rank: int
    energy: float
    symmetric: float
    kept: float


def lora_to_symlora(adapter: StoredAdapter, out: Path, rank: int | None = None, *, full: bool = False) -> list[Kept]:
    """Writes a SymLoRA adapter that is the best symmetric approximation of a LoRA.

    Args:
        adapter: A LoRA adapter.
        out: New folder.
        rank: r'; None keeps the LoRA's own rank, matrix by matrix.
        full: Keep the whole symmetric part, of rank 2r.

    Returns:
        One entry a matrix, by layer.

    Raises:
        SymloraError: Another method, a LoRA whose ΔW is not s B A on square linear layers, a rank that does not fit, or
            a file that is not as it should be. `out` is then not there.
    """
    from symlora import SymLoraConfig

    if rank is not None and (full or rank < 1):
        raise SymloraError(f"rank={rank}: give a whole number of at least 1, or `full`, not both.")
    _check_plain(adapter)
    scales = read_base_scale(adapter.folder)
    found = adapter.factors()
    tensors = {name: value for name, value in adapter.tensors.items() if ".lora_" not in name}
    report, chosen = [], {}
    for factors in found:
        module = factors.module.removeprefix(PREFIX)
        n, r = factors.left.shape
        check_rank(adapter, module, r, _pattern(adapter.config.rank_pattern, module, adapter.config.r))
        most = min(2 * r, n)
        wanted = most if full else min(r if rank is None else rank, n)
        if factors.right.shape[1] != n:
            raise SymloraError(
                f"{module} is not square ({n} x {factors.right.shape[1]}): SymLoRA adapts square matrices only."
            )
        if wanted > most:
            raise SymloraError(f"rank={rank} is more than the symmetric part of {module} has: at most {most}.")
        left = lora_scale(adapter.config, module, r) * factors.left
        Q, diag = best_symmetric(left, factors.right, wanted)
        everything = best_symmetric(left, factors.right, most)[1]
        report.append(
            Kept(module, wanted, energy(left, factors.right), float(everything @ everything), float(diag @ diag))
        )
        chosen[module] = wanted
        key = factors.module
        tensors[f"{key}.symlora_Q"], tensors[f"{key}.symlora_diag"] = float32(Q), float32(np.ascontiguousarray(diag))
        tensors[f"{key}.symlora_lambda"] = scales.get(module, torch.ones(1)).reshape(1)
    sizes = ranks(chosen)
    config = SymLoraConfig(
        **sizes,
        alpha=sizes["r"],
        alpha_pattern=dict(sizes["rank_pattern"]),
        dropout=adapter.config.lora_dropout,
        **shared_fields(adapter.config),
    )
    with new_folder(out) as work:
        write_adapter(work, config, tensors)
    return report


def lora_scale(config: Any, module: str, r: int) -> float:
    """alpha / r of PEFT's LoRA for the module of this full name, or alpha / √r with `use_rslora`."""
    alpha = _pattern(config.alpha_pattern, module, config.lora_alpha)
    return float(alpha / math.sqrt(r) if config.use_rslora else alpha / r)


def _pattern(pattern: dict[str, Any], module: str, default: Any) -> Any:
    return pattern.get(get_pattern_key(list(pattern), module), default)


def _check_plain(adapter: StoredAdapter) -> None:
    config = adapter.config
    if adapter.method != "LORA":
        raise SymloraError(f"{adapter.folder} is a {adapter.method} adapter, not a LoRA.")
    plain = vars(LoraConfig())
    for name, value in vars(config).items():
        if name not in _UNDERSTOOD and value != plain.get(name):
            raise SymloraError(
                f"{adapter.folder}: {name}={value!r}: what it adds to s B A would be lost, so it is not imported."
            )
    _check_numbers(adapter)
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(_MOVES_THE_BASE):
        raise SymloraError(f"{adapter.folder}: init_lora_weights={start!r} changed the base model itself.")
    saved = set(config.modules_to_save or ())
    for name in adapter.tensors:
        if not name.endswith((".lora_A.weight", ".lora_B.weight")) and not saved & set(name.split(".")):
            raise SymloraError(f"{adapter.folder}: {name} belongs to no linear layer's LoRA and to no saved module.")


def _check_numbers(adapter: StoredAdapter) -> None:
    """Refuses what PEFT's LoraConfig reads without a word and no ΔW can be made of."""
    config = adapter.config
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(getattr(config, name), dict):
            raise _bad(adapter, name, getattr(config, name), "names with numbers")
        for key in getattr(config, name):
            try:
                re.compile(key)
            except re.error as error:
                raise _bad(adapter, name, key, f"a name or a regular expression ({error})") from error
    ranks_given = {"r": config.r, **{f"rank_pattern {key}": value for key, value in config.rank_pattern.items()}}
    for name, value in ranks_given.items():
        if not _is_number(value) or value != int(value) or value < 1:
            raise _bad(adapter, name, value, "a whole number of at least 1")
    alphas = {f"alpha_pattern {key}": value for key, value in config.alpha_pattern.items()}
    for name, value in {"lora_alpha": config.lora_alpha, **alphas}.items():
        if not _is_number(value):
            raise _bad(adapter, name, value, "a finite number")
    if not _is_number(config.lora_dropout) or not 0 <= config.lora_dropout < 1:
        raise _bad(adapter, "lora_dropout", config.lora_dropout, "a probability below 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bad(adapter: StoredAdapter, name: str, value: object, wanted: str) -> SymloraError:
    return SymloraError(f"{adapter.folder / CONFIG}: {name} is {value!r}, not {wanted}.")
