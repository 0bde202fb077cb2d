"""Put a new adapter on an encoder."""

import re
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.vera import VeraLayer
from peft.utils import ModulesToSaveWrapper

from symlora.adapters.config import BELOW_ONE, POSITIVE, QUERY_VALUE, WHOLE
from symlora.adapters.tuner import AdapterModel
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.model.head import head_modules
from symlora.seeds import torch_generator

_RULES = {
    **dict.fromkeys(("alpha", "lora_alpha"), POSITIVE),
    **dict.fromkeys(("dropout", "lora_dropout"), BELOW_ONE),
    **dict.fromkeys(("r", "init_r"), WHOLE),
}


def add_adapter(model: Any, config: Config) -> Any:
    """Wrap a classifier into PEFT's model of the configured method.

    Raises:
        SymloraError: Unknown method or argument, a target that matches nothing, a rank that does not fit.
    """
    method = config.method
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING.get(method.peft_type)  # type: ignore[call-overload]
    if config_class is None:
        known = ", ".join(sorted(str(getattr(name, "value", name)) for name in PEFT_TYPE_TO_CONFIG_MAPPING))
        raise SymloraError(
            f"method.peft_type={method.peft_type}: PEFT {peft.__version__} has no such method. It has: {known}."
        )
    arguments = dict(method.peft_config)
    if arguments.get("target_modules", "") is None:
        tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING.get(method.peft_type, object)  # type: ignore[call-overload]
        # Query and value, unless a method of ours has other default targets.
        targets = tuner.target_module_mapping if issubclass(tuner, AdapterModel) else QUERY_VALUE
        arguments["target_modules"] = targets.get(model.config.model_type)
    _check_arguments(arguments)
    if method.peft_type == "ADALORA":  # PEFT requires a value; training sets the run's own (symlora.training.hooks)
        arguments["total_step"] = sys.maxsize
    beside = _trained_beside(arguments.pop("modules_to_save", None), model)
    try:
        peft_config = config_class(task_type="SEQ_CLS", modules_to_save=[*head_modules(model), *beside], **arguments)
        if peft_config.is_prompt_learning:  # it works in PEFT's outer forward, which flat batches do not call
            raise ValueError(f"{method.peft_type} trains prompts, not layers; this harness does not support that")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 uses a name that transformers 5.23 has renamed
            torch.manual_seed(torch_generator(config.seed, "adapter").initial_seed())
            wrapped = peft.get_peft_model(model, peft_config)
    except (TypeError, ValueError, AttributeError, NotImplementedError, re.error) as error:
        raise SymloraError(
            f"method={method.name} does not fit model={config.model.name}: {' '.join(str(error).split())[:600]}"
        ) from error
    for name, value in wrapped.named_parameters():
        if ".ranknum." in name:  # AdaLoRA's: PEFT makes it trainable where it casts it to 16 bits
            value.requires_grad_(False)
    _check_fit(wrapped, arguments.get("target_modules"), method.name)
    train_in_float32(wrapped, beside)
    return wrapped


def _trained_beside(names: Any, model: Any) -> list[str]:
    """Check the encoder's modules that train with the adapter: Houlsby's LayerNorms."""
    if names is None:
        return []
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise SymloraError(f"method.peft_config.modules_to_save={names}: give a list of names, such as [LayerNorm].")
    modules = [name for name, _ in model.named_modules()]
    for name in names:
        if name in head_modules(model):
            raise SymloraError(f"method.peft_config.modules_to_save: {name} is in the head, which is always trained.")
        if not any(f".{module}".endswith(f".{name}") for module in modules):
            raise SymloraError(f"method.peft_config.modules_to_save: {name!r} matches nothing in this encoder.")
    return list(names)


def train_in_float32(wrapped: Any, names: Iterable[str]) -> None:
    """Train these modules' copies in float32, as adapters and head do."""
    for name, module in wrapped.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and any(f".{name}".endswith(f".{part}") for part in names):
            dtype = next(module.original_module.parameters()).dtype
            if dtype in (torch.bfloat16, torch.float16):
                own = module.modules_to_save["default"].float()
                own.register_forward_pre_hook(lambda _, args: tuple(_as(torch.float32, arg) for arg in args))
                own.register_forward_hook(lambda module, args, output, dtype=dtype: _as(dtype, output))


def _as(dtype: torch.dtype, value: Any) -> Any:
    """Cast a tensor of real numbers."""
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _check_arguments(arguments: dict[str, Any]) -> None:
    """Check arguments that PEFT would silently misuse."""
    for key in ("task_type", "inference_mode", "total_step"):
        if key in arguments:
            raise SymloraError(f"method.peft_config.{key} is set by the harness: leave it out.")
    for key, (words, keeps) in _RULES.items():
        if key in arguments and not keeps(arguments[key]):
            raise SymloraError(f"method.peft_config.{key}={arguments[key]}: must be {words}.")


def _check_fit(wrapped: Any, targets: Any, method: str) -> None:
    """Check that targets match and ranks fit, which PEFT's LoRA does not."""
    layers = {name: m for name, m in wrapped.named_modules() if isinstance(m, BaseTunerLayer)}
    for target in targets if isinstance(targets, (list, set, tuple)) else []:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise SymloraError(
                f"method.peft_config.target_modules: {target!r} matches nothing that {method} can adapt; it adapts "
                f"{', '.join(sorted({name.rsplit('.', 1)[-1] for name in layers}))}."
            )
    for name, layer in layers.items():
        if isinstance(layer, VeraLayer):  # its r may exceed the width: 1024 for 768 in the paper
            continue
        shape: Any = (getattr(layer, "out_features", None), getattr(layer, "in_features", None))  # 4 bits are packed
        ranks = getattr(layer, "r", None)
        if isinstance(ranks, dict) and None not in shape and max(ranks.values(), default=0) > min(shape):
            raise SymloraError(
                f"method.peft_config.r={max(ranks.values())} is more than {name} allows: its weight is {shape}."
            )
