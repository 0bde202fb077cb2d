"""Implement PEFT's interface of a tuner."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn

from symlora.adapters.config import QUERY_VALUE, AdapterConfig
from symlora.adapters.layer import AdapterLayer
from symlora.adapters.registry import register


class StepHook:
    """Act between the steps of training; here, do nothing."""

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        """Prepare training step `step` (from 1) of `steps`.

        `generator` is a CPU generator for this step alone: what is drawn follows from the run's seed and the step.
        """

    def penalty(self) -> Tensor | None:
        """Compute a term to add to the loss, or None."""
        return None

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Finish step `step` (from 1) of `steps`, before the gradients are cleared.

        The optimizer's `state` may be cleared for parameters that start afresh.
        """

    def hook_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep besides parameters and containers."""
        return {}

    def load_hook_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `hook_state` returned."""


class AdapterModel(StepHook, BaseTuner):
    """Replace a model's target modules by the method's layers.

    A method names its two other classes: `class LoraXsModel(AdapterModel, config=LoraXsConfig, layer=LoraXsLinear)`.
    PEFT knows the method as soon as this class is defined.
    """

    config_class: ClassVar[type[AdapterConfig]]
    tuner_layer_cls: type[AdapterLayer]
    prefix: str  # of the containers' names; default: the method's name and an underscore
    target_module_mapping = QUERY_VALUE
    trains_alone: ClassVar[str] = ""  # why its runs cannot share a pass over the encoder; empty if they can

    def __init_subclass__(
        cls, config: type[AdapterConfig] | None = None, layer: type[AdapterLayer] | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        if config is not None and layer is not None:
            cls.config_class, cls.tuner_layer_cls = config, layer
            if "prefix" not in cls.__dict__:
                cls.prefix = f"{config.method}_"
            register(cls)

    def after_injection(self, model: nn.Module, adapter_name: str) -> None:
        """Finish an adapter whose layers are all in place."""

    def tuner_layers(self) -> Iterator[Any]:
        """Iterate over the adapted layers (each a `tuner_layer_cls`), in the model's order."""
        return (layer for _, layer in self._named_layers(self.model))

    def adapted(self) -> Iterator[tuple[Any, str, Any]]:
        """Iterate over every layer's active adapters: layer, adapter's name, its configuration."""
        for layer in self.tuner_layers():
            for adapter in layer.active_adapters:
                if adapter in layer.r:
                    yield layer, adapter, self.peft_config[adapter]

    def _named_layers(self, model: nn.Module) -> Iterator[tuple[str, Any]]:
        return ((name, module) for name, module in model.named_modules() if isinstance(module, self.tuner_layer_cls))

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()  # type: ignore[no-untyped-call]
        owners: dict[int, tuple[str, nn.Module]] = {}  # who alone may hold a base layer and its weight
        for name, layer in self._named_layers(self.model):
            base, owner = layer.get_base_layer(), layer
            while owner.base_layer is not base:  # another method's adapter lies between
                owner = owner.base_layer
            owners.setdefault(id(base), (name, owner))
            owners.setdefault(id(getattr(base, "weight", base)), (name, base))
        for name, module in self.model.named_modules():
            for held in (*module.parameters(recurse=False), *module.children()):
                holder, owner = owners.get(id(held), ("", module))
                if module is not owner:
                    place = next((child for child, part in module.named_children() if part is held), "")
                    other = f"{name}.{place}".strip(".").removesuffix(".base_layer")
                    raise ValueError(f"{holder} and {other} share one weight: merging would change both")

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:  # PEFT would drop it, and give every row the active adapter
            raise ValueError(
                "adapter_names: PEFT supports an adapter for each row of a batch with LoRA only. Call the model once "
                "for each adapter (set_adapter)"
            )
        yield

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype:
            return
        for layer in self.tuner_layers():
            dtype = layer._get_base_layer_device_and_dtype(layer.get_base_layer())[1]
            for value in layer.values(adapter_name):
                if value.is_floating_point() and dtype is not None and dtype.is_floating_point:
                    value.data = value.data.to(dtype)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter as PEFT does; undo it after an error.

        Otherwise a second, corrected call would start from a model that is wrapped in part. Where no target matched,
        the error also lists modules with similar names.
        """
        before = {name: adapter_name in layer.r for name, layer in self._named_layers(model)}
        trained = [value for value in model.parameters() if value.requires_grad]  # PEFT freezes them first
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            self.after_injection(model, adapter_name)
        except Exception as error:
            for name, layer in list(self._named_layers(model)):
                if name not in before:
                    parent, _, child = name.rpartition(".")
                    setattr(model.get_submodule(parent), child, layer.base_layer)
                elif not before[name] and adapter_name in layer.r:
                    layer.delete_adapter(adapter_name)
            for value in trained:
                value.requires_grad_(True)
            if "not found in the base model" not in str(error) and "No modules were targeted" not in str(error):
                raise
            targets = self.peft_config[adapter_name].target_modules
            raise type(error)(f"{error} {_similar_names(model, targets)}") from None

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        kind = model_config.get("model_type")
        if peft_config.target_modules is None and kind not in self.target_module_mapping:
            raise ValueError(
                f"Please specify `target_modules`: {peft_config.method} has no default for model type {kind!r}"
            )
        return super()._prepare_adapter_config(peft_config, model_config)

    def _create_and_replace(  # type: ignore[override]
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, current_key: str
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config, current_key)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        quantization = get_quantization_kwargs(self)
        backend = resolve_quantization_backend(base, **quantization)
        if not (isinstance(base, nn.Linear) or (backend is not None and backend.layer_type == "linear")):
            raise TypeError(
                f"{peft_config.method} adapts linear layers (torch.nn.Linear, also quantised); "
                f"module {current_key!r} is a {type(base).__name__}"
            )
        # These read the weight and call no forward; the second does so in eval mode alone.
        if isinstance(parent, (nn.MultiheadAttention, nn.TransformerEncoderLayer)):
            raise TypeError(
                f"{peft_config.method} cannot adapt {current_key!r}: nn.{type(parent).__name__} does not call it"
            )
        layer = self.tuner_layer_cls(target, adapter_name, peft_config, current_key, **quantization)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter is inactive until it is selected
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version goes on to read `child.weight`, and so fails on unloading RobertaForSequenceClassification,
        # whose head (saved with the adapter) is a module of modules. Our layers are on their device already.
        setattr(parent, child_name, new_module)


def _similar_names(model: nn.Module, targets: Any) -> str:
    """List linear layers of similar names, or the ends of all."""
    linear = [name.split(".") for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    near: list[str] = []
    for target in [targets] if isinstance(targets, str) else sorted(targets or ()):
        near += get_close_matches(target, {".".join(parts[-target.count(".") - 1 :]) for parts in linear}, n=3)
    if near:
        return f"Did you mean {', '.join(dict.fromkeys(near))}?"
    ends = sorted({parts[-1] for parts in linear})
    return f"Its linear layers end in {', '.join(ends[:8])}." if ends else "This model has no linear layers."
