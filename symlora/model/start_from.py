"""Start a run's adapter and head from a saved adapter (`init_from`)."""

import json
from pathlib import Path
from typing import Any

from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from symlora.errors import SymloraError
from symlora.model.head import output_layer
from symlora.model.run_model import RunModel
from symlora.store.adapter_folder import BASE_SCALE, PREFIX, StoredAdapter, read_adapter

# Fields of a PEFT configuration that do not change what given weights compute. Targets and ranks show in the weights'
# names and shapes.
BOOKKEEPING = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
_NOT_OF_THE_FUNCTION = BOOKKEEPING | {
    *("peft_type", "runtime_config", "save_projection"),
    # Which modules, and of what shape; PEFT sets fan_in_fan_out by the layer's type.
    *("exclude_modules", "fan_in_fan_out", "layers_pattern", "layers_to_transform", "modules_to_save"),
    *("r", "target_modules"),
    # How training goes: AdaLoRA and LoRA², PRILoRA; and VeRA's start.
    *("beta1", "beta2", "deltaT", "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step"),
    *("norm_decay", "pruned_share", "pruning_interval"),
    *("d_initial", "ramp"),  # and SingLoRA's, whose u is stored
}


def initialise_from(run_model: RunModel, source: Path) -> None:
    """Load a saved adapter and the matching parts of its head.

    The output layer is never taken: its classes are another task's (MNLI has three, RTE two). It and any other part of
    the head that the adapter lacks keep this run's start: drawn from the seed, or as in the encoder's files.

    Args:
        run_model: Its adapter and head are changed in place, and what is known of the head's start (`model.loaded`).
        source: A run folder or a PEFT adapter folder.

    Raises:
        SymloraError: No adapter there; one of another method, rank, scale, structure or encoder; one that AdaLoRA has
            pruned; or the method is XGBLoRA.
    """
    if run_model.peft is None:
        raise SymloraError(f"init_from={source}: method={run_model.method.name} has no adapter; use symlora or lora.")
    try:
        adapter = read_adapter(source)
    except SymloraError as error:
        raise SymloraError(f"init_from={error}") from error
    if (adapter.folder / BASE_SCALE).is_file():
        raise SymloraError(
            f"init_from={adapter.folder} is a LoRA on scaled weights ({BASE_SCALE}), and this run's are not scaled. "
            "Start method=symlora from the SymLoRA that it was exported from."
        )
    _check_method(run_model.peft.peft_config["default"], adapter)
    model, own = run_model.encoder.model, get_peft_model_state_dict(run_model.peft, save_embedding_layers=False)
    encoder = f"{PREFIX}{model.base_model_prefix}."
    tensors = adapter.tensors
    if not any(name.startswith(encoder) for name in tensors):  # trained on the bare encoder (AutoModel)
        tensors = {encoder + name.removeprefix(PREFIX): value for name, value in tensors.items()}
    in_head = {name for name in own if run_model.in_head(name) and run_model.peft.base_model.prefix not in name}
    output = {name for name in in_head if name.startswith(f"{PREFIX}{output_layer(model)}.")}
    saved = set(adapter.config.modules_to_save or ())
    other_head = {
        name for name in tensors.keys() - own.keys() if saved & set(name.split(".")) and not name.startswith(encoder)
    }
    odd = sorted((own.keys() ^ tensors.keys()) - in_head - other_head)
    if odd:
        raise SymloraError(
            f"init_from={adapter.folder} was made for another encoder or other targets: {odd[0]} has no counterpart."
        )
    taken = (tensors.keys() & own.keys()) - output
    try:  # PEFT wants every tensor of the saved format: those that are not taken are this run's own
        set_peft_model_state_dict(run_model.peft, {name: (tensors if name in taken else own)[name] for name in own})
    except RuntimeError as error:  # another shape: another rank or another encoder
        reason = " ".join(str(error).split())[:600]
        raise SymloraError(f"init_from={adapter.folder} does not fit this run's adapter: {reason}") from error
    brought, left_out = _modules(in_head & taken), ", ".join(_modules(other_head))
    head = {how: [name for name in names if name not in brought] for how, names in model.loaded["head"].items()}
    notes = [f"init_from: {left_out} of that adapter left out: this classifier has none"] if left_out else []
    model.loaded = {"head": {**head, "taken": brought}, "notes": [*model.loaded["notes"], *notes]}


def _modules(names: set[str]) -> list[str]:
    return sorted({name.removeprefix(PREFIX).rpartition(".")[0] for name in names})


def _check_method(own: Any, adapter: StoredAdapter) -> None:
    """Refuse an adapter whose weights would give another ΔW here."""
    theirs, where = adapter.config, f"init_from={adapter.folder}"
    if own.peft_type == "XGBLORA":
        raise SymloraError(
            f"{where}: xgblora cannot start from an adapter: its boosters are those of one whole training, and the "
            "first restart would overwrite booster 0. Leave init_from out."
        )
    if theirs.peft_type != own.peft_type:
        raise SymloraError(f"{where} is a {adapter.method} adapter; this run trains {own.peft_type.value}.")
    if own.peft_type == "ADALORA" and theirs.rank_pattern:
        raise SymloraError(
            f"{where}: AdaLoRA has pruned this adapter; it has fewer triplets than init_r={own.init_r}. Start from an "
            "adapter that is not pruned yet."
        )
    key = _other_function(own, theirs)
    if key is not None:
        value = getattr(theirs, key)
        raise SymloraError(
            f"{where} has {key}={value}, this run {getattr(own, key)}. Set method.peft_config.{key}={value} "
            f"(with a + in front if the key is not in the YAML)."
        )


def _other_function(own: Any, theirs: Any) -> str | None:
    """Return the first field that would change ΔW."""
    # As JSON has them: a saved tuple is a list, a set has no order.
    ours, saved = (json.loads(json.dumps(config.to_dict(), default=_plain)) for config in (own, theirs))
    shown = _NOT_OF_THE_FUNCTION - {*["r"] * (own.peft_type == "LOKR")}  # LoKr's large ranks all have one shape
    differing = [key for key in ours if ours[key] != saved.get(key) and key not in shown]
    differing.sort(key="rank_pattern".__eq__)  # last: PRILoRA and SARA make it from other fields, which say more
    for key in differing:
        # Loaded weights replace a start, unless it changes more: W0 in PiSSA, the forward in MiSS's bat.
        start = key.startswith("init_") and not any(isinstance(config[key], str) for config in (ours, saved))
        # SymLoRA's orthonormal Q is put back to the length that init_std gives, step after step.
        if key == "init_std" and own.peft_type == "SYMLORAORTHONORMAL":
            start = False
        if key == "rank_pattern" and own.peft_type == "PRILORA":  # made from the ranks, in words that have changed
            continue
        if not start and "dropout" not in key:
            return str(key)
    return None


def _plain(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else str(value)
