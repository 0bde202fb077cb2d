"""Start a run's adapter and head from a saved adapter (`init_from`)."""

import json
from pathlib import Path
from typing import Any

from symlora.errors import SymloraError
from symlora.model.adapter import _first_lines
from symlora.model.run_model import RunModel, output_layer
from symlora.store.folder import find_damage, read_run

# Fields of a PEFT configuration that leave alone what given weights compute. Targets and ranks show in the weights'
# names and shapes.
_NOT_OF_THE_FUNCTION = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"),
    *("runtime_config", "save_projection", "task_type"),
    # Which modules, and of what shape; PEFT sets fan_in_fan_out by the layer's type.
    *("exclude_modules", "fan_in_fan_out", "layers_pattern", "layers_to_transform", "modules_to_save"),
    *("r", "target_modules"),
    # How training goes: AdaLoRA and LoRA², PRILoRA; and VeRA's start.
    *("beta1", "beta2", "deltaT", "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step"),
    *("norm_decay", "pruned_share", "pruning_interval"),
    "d_initial",
}


def initialise_from(run_model: RunModel, folder: Path) -> None:
    """Starts adapter and head from another run's (a run folder, or a PEFT adapter folder).

    The output layer of the head is not carried over: its classes are another task's (MNLI has three, RTE two).

    Raises:
        SymloraError: No adapter there; one of another method, rank, scale, structure or encoder; one that AdaLoRA has
            pruned; or the method is XGBLoRA.
    """
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    if run_model.peft is None:
        raise SymloraError(
            f"init_from={folder}: method={run_model.method.name} has no adapter to start from; use symlora or lora."
        )
    own = run_model.peft.peft_config["default"]
    if own.peft_type == "XGBLORA":
        raise SymloraError(
            f"init_from={folder}: xgblora cannot start from an adapter: its boosters are those of one whole training, "
            "and the first restart would overwrite booster 0. Leave init_from out."
        )
    files = ("adapter_config.json", "adapter_model.safetensors")  # PEFT would also take pickled weights; we do not
    candidates = [p for p in (folder / "adapter", folder) if all((p / file).is_file() for file in files)]
    if not candidates:
        raise SymloraError(
            f"init_from={folder}: {' and '.join(files)} are not there. Give a finished run's folder or an adapter's."
        )
    for run_folder in (folder, folder.parent):  # a run's files have checksums
        record = read_run(run_folder)
        if record is not None and (problems := find_damage(run_folder, record)):
            raise SymloraError(f"init_from={folder} is damaged: {problems[0]}. Train that run again (force=true).")
    try:
        theirs = type(own).from_pretrained(str(candidates[0]))
        weights = load_peft_weights(str(candidates[0]), device="cpu")
    except Exception as error:  # TypeError for another method's file, safetensors' own error for a truncated one
        raise SymloraError(
            f"init_from={candidates[0]}: not a readable {own.peft_type} adapter: {_first_lines(error)}"
        ) from error
    if theirs.peft_type != own.peft_type:
        raise SymloraError(
            f"init_from={candidates[0]} is a {theirs.peft_type} adapter; this run trains {own.peft_type}."
        )
    if own.peft_type == "ADALORA" and theirs.rank_pattern:
        raise SymloraError(
            f"init_from={candidates[0]}: AdaLoRA has pruned this adapter; it has fewer triplets than "
            f"init_r={own.init_r}. Start from an adapter that is not pruned yet."
        )
    key = _other_function(own, theirs)
    if key is not None:  # the same weights would make another ΔW
        raise SymloraError(
            f"init_from={candidates[0]} has {key}={getattr(theirs, key)}, this run {getattr(own, key)}. "
            f"Set (or, for a key not in the YAML, +) method.peft_config.{key}={getattr(theirs, key)}."
        )
    # PEFT wants every tensor of the saved format, so the output layer's are this run's own.
    start = get_peft_model_state_dict(run_model.peft, save_embedding_layers=False)
    output = tuple(f".{output_layer(run_model.encoder.model)}.{kind}" for kind in ("weight", "bias"))
    weights = {key: value for key, value in weights.items() if not key.endswith(output)}
    weights |= {key: value for key, value in start.items() if key.endswith(output)}
    odd = sorted(weights.keys() ^ start.keys())
    if odd:
        raise SymloraError(
            f"init_from={candidates[0]} was made for another encoder or other targets: {odd[0]} has no counterpart."
        )
    try:
        set_peft_model_state_dict(run_model.peft, weights)
    except RuntimeError as error:  # another shape: another rank or another encoder
        raise SymloraError(
            f"init_from={candidates[0]} does not fit this run's adapter: {_first_lines(error)}"
        ) from error


def _other_function(own: Any, theirs: Any) -> str | None:
    """The first field in which two configurations of a method differ so that the same weights compute another ΔW."""
    # As JSON has them: a saved tuple is a list, a set has no order.
    ours, saved = (json.loads(json.dumps(config.to_dict(), default=_plain)) for config in (own, theirs))
    differing = [key for key in ours if ours[key] != saved.get(key) and key not in _NOT_OF_THE_FUNCTION]
    differing.sort(key="rank_pattern".__eq__)  # last: PRILoRA and SARA make it from other fields, which say more
    for key in differing:
        # A start is over once weights are loaded, unless its name changes more: W0 in PiSSA, the forward in MiSS's bat.
        start = key.startswith("init_") and not any(isinstance(config[key], str) for config in (ours, saved))
        # SymLoRA's orthonormal Q is put back to the length that init_std gives, step after step.
        if key == "init_std" and own.peft_type == "SYMLORAORTHONORMAL":
            start = False
        if not start and "dropout" not in key:
            return str(key)
    return None


def _plain(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else str(value)
