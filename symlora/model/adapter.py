"""Puts an adapter on an encoder, new or started from another run's."""

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from symlora.config import Config
from symlora.errors import SymloraError
from symlora.model.encoder import head_modules
from symlora.seeds import torch_generator

if TYPE_CHECKING:
    from symlora.model.build import RunModel


def add_adapter(model: Any, config: Config) -> Any:
    """Wraps a classifier into PEFT's model of the configured method; the adapter's start comes from the run's seed.

    Raises:
        SymloraError: Unknown method or argument, a target that matches nothing, a rank that does not fit.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from symlora.adapters.base import QUERY_VALUE

    method = config.method
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING.get(method.peft_type)  # type: ignore[call-overload]
    if config_class is None:
        known = ", ".join(sorted(str(getattr(name, "value", name)) for name in PEFT_TYPE_TO_CONFIG_MAPPING))
        raise SymloraError(
            f"method.peft_type={method.peft_type}: PEFT {peft.__version__} has no such method. It has: {known}."
        )
    arguments = dict(method.peft_config)
    if arguments.get("target_modules", "") is None:
        arguments["target_modules"] = QUERY_VALUE.get(model.config.model_type)  # the same for every method
    _check_arguments(arguments)
    try:
        peft_config = config_class(task_type="SEQ_CLS", modules_to_save=head_modules(model), **arguments)
        if peft_config.is_prompt_learning:  # it works in PEFT's outer forward, which flat batches go past
            raise ValueError(f"{method.peft_type} trains inputs and not layers, which this harness does not run")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 for a name it renames
            torch.manual_seed(torch_generator(config.seed, "adapter").initial_seed())
            wrapped = peft.get_peft_model(model, peft_config)
    except (TypeError, ValueError, AttributeError, NotImplementedError, re.error) as error:
        raise SymloraError(
            f"method={method.name} does not fit model={config.model.name}: {_first_lines(error)}"
        ) from error
    _check_fit(wrapped, arguments.get("target_modules"), method.name)
    return wrapped


def _check_arguments(arguments: dict[str, Any]) -> None:
    """What PEFT would take and then train something else, or nothing."""
    for key in ("task_type", "inference_mode", "modules_to_save"):
        if key in arguments:
            raise SymloraError(f"method.peft_config.{key} is set by the harness: leave it out.")
    for key in ("alpha", "lora_alpha"):
        if key in arguments and not (_is_number(arguments[key]) and arguments[key] > 0):
            raise SymloraError(f"method.peft_config.{key}={arguments[key]}: give a number above 0.")
    for key in ("dropout", "lora_dropout"):
        if key in arguments and not (_is_number(arguments[key]) and 0 <= arguments[key] < 1):
            raise SymloraError(f"method.peft_config.{key}={arguments[key]}: give a probability below 1.")
    rank = arguments.get("r", 1)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise SymloraError(f"method.peft_config.r={rank}: give a whole number of at least 1.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_fit(wrapped: Any, targets: Any, method: str) -> None:
    """Every named target matches, and no rank is larger than the matrix it stands in for (PEFT's LoRA takes both)."""
    layers = {name: m for name, m in wrapped.named_modules() if isinstance(m, BaseTunerLayer)}
    for target in targets if isinstance(targets, (list, set, tuple)) else []:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise SymloraError(
                f"method.peft_config.target_modules: {target!r} matches nothing that {method} can adapt; it adapts "
                f"{', '.join(sorted({name.rsplit('.', 1)[-1] for name in layers}))}."
            )
    for name, layer in layers.items():
        weight = getattr(layer.get_base_layer(), "weight", None)
        ranks = getattr(layer, "r", None)
        if isinstance(ranks, dict) and weight is not None and max(ranks.values(), default=0) > min(weight.shape):
            raise SymloraError(
                f"method.peft_config.r={max(ranks.values())} is more than {name} allows: its weight is "
                f"{tuple(weight.shape)}."
            )


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:600]


def initialise_from(run_model: "RunModel", folder: Path) -> None:
    """Starts adapter and head from another run's (a run folder, or a PEFT adapter folder).

    The output layer of the head is not carried over: its classes are another task's (MNLI has three, RTE two).

    Raises:
        SymloraError: No adapter there, or one of another method, rank, alpha or encoder.
    """
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    if run_model.peft is None:
        raise SymloraError(
            f"init_from={folder}: method={run_model.method.name} has no adapter to start from; use symlora or lora."
        )
    files = ("adapter_config.json", "adapter_model.safetensors")  # PEFT would also take pickled weights; we do not
    candidates = [p for p in (folder / "adapter", folder) if all((p / file).is_file() for file in files)]
    if not candidates:
        raise SymloraError(
            f"init_from={folder}: {' and '.join(files)} are not there. Give a finished run's folder or an adapter's."
        )
    own = run_model.peft.peft_config["default"]
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
    for key in ("alpha", "lora_alpha", "use_rslora"):
        if getattr(theirs, key, None) != getattr(own, key, None):  # the same weights would make another ΔW
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


def output_layer(model: Any) -> str:
    """Name of the head's last linear layer: `classifier.out_proj` in RoBERTa, `classifier` in BERT."""
    names: list[str] = [
        name.replace(".modules_to_save.default", "")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and "original_module" not in name
    ]
    return names[-1]
