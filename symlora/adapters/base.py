"""What PEFT wants of every tuner, written once.

A method of our own is three small classes on the three below, in one file:

* a dataclass on `LowRankConfig` (or on `AdapterConfig`, where the method has no rank): the method's own fields, its
  `method` name, and how many values it trains a matrix;
* a layer on `AdapterLayer`: `start` (the parameters' first values), `change` (what the adapter adds to the output) and
  `get_delta_weight` (what it adds to the weight, for merging);
* a model on `AdapterModel`: `prefix` and `tuner_layer_cls`, and `before_step`, `after_step` if it acts between steps.

Saving, loading, merging, several adapters, switching, dtypes and devices then work as they do for PEFT's own methods.
A layer's forward is a function of its parameters and `x` alone (no state written, no branch on a value), so that
`torch.vmap` over `torch.func.functional_call` trains a stack of adapters at once.
"""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn

from symlora.adapters.config import QUERY_VALUE, AdapterConfig
from symlora.adapters.near_names import near_names


class AdapterLayer(nn.Module, BaseTunerLayer):
    """A linear layer (..., n_in) -> (..., n_out) and the adapters on it, keyed by name.

    A method names its containers: `adapter_layer_names` for what trains, `frozen_layer_names` for what is drawn once,
    saved, and never trained. `start` fills them; `r`, `scaling` (alpha / r) and `dropout` are filled here. Of the
    frozen ones, `changing_layer_names` are those that the method's `before_step` or `after_step` writes, in place; they
    are kept and restored with the trained ones.

    Raises:
        ValueError: the module's shape does not suit the method or the rank. The message names module and shape.
    """

    adapter_layer_names: tuple[str, ...] = ()
    frozen_layer_names: ClassVar[tuple[str, ...]] = ()
    changing_layer_names: ClassVar[tuple[str, ...]] = ()
    other_param_names: tuple[str, ...] = ("r", "scaling", "dropout")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.other_param_names = AdapterLayer.other_param_names + cls.frozen_layer_names  # so that deleting finds them

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: AdapterConfig, module: str, **quantization: Any
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **quantization)
        self.in_features, self.out_features = cast(tuple[int, int], _get_in_out_features(self.get_base_layer()))
        self.shape_text = f"{self.out_features} x {self.in_features}"  # for messages
        self.module_name = module  # within the model; a few methods start by the layer's number
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.dropout = nn.ModuleDict()
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        for name in self.frozen_layer_names:
            setattr(self, name, BufferDict(persistent=True))
        self.merged_adapters = []
        self._original_weight: Tensor | None = None  # the base weight as it was, kept while adapters are merged
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, module)

    # What a method says for itself.

    @abstractmethod
    def start(self, config: Any, r: int) -> dict[str, Tensor]:
        """First values of one adapter, by container name. Drawn from the global generator."""

    @abstractmethod
    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        """What one adapter adds to the output: (..., n_in), (..., n_out) -> (..., n_out)."""

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What one adapter adds to the original weight, (n_out, n_in): all of it, so that W0 + this is the merged one.

        Raises:
            NotImplementedError: the method has no such matrix and cannot be merged.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be merged into a weight")

    def adapted(self, adapters: Sequence[str], x: Tensor, base_out: Tensor) -> Tensor:
        """The output with these adapters at work. Override where adapters do more than add."""
        for adapter in adapters:
            base_out = base_out + self.change(adapter, x, base_out)
        return base_out

    def check_shape(self, module: str, r: int) -> None:
        """Refuse a module that the method or the rank does not suit."""
        if r > min(self.in_features, self.out_features):
            raise ValueError(f"r = {r} is more than module {module!r} allows: its weight is {self.shape_text}")

    # What is the same for all.

    def update_layer(self, adapter_name: str, config: AdapterConfig, module: str) -> None:
        """Add one adapter (or start it afresh) to the module of this full name."""
        r, scaling = config.rank_and_scale(module)
        self.check_shape(module, r)
        self.r[adapter_name], self.scaling[adapter_name] = r, scaling
        self.dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        for name, value in self.start(config, r).items():
            container = getattr(self, name)
            container[adapter_name] = nn.Parameter(value) if name in self.adapter_layer_names else value
        base = self.get_base_layer()  # any tensor of it tells the device: some quantised layers have no `weight`
        device = next((tensor.device for tensor in [*base.parameters(), *base.buffers()]), None)
        self._move_adapter_to_device_of_base_layer(adapter_name, device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT rounds to the base's dtype here and widens again afterwards (`autocast_adapter_dtype`): a start taken
        # from W0 would keep a bfloat16's digits. So float32 stays; `_cast_adapter_dtype` narrows where that is asked.
        names = self.adapter_layer_names + self.frozen_layer_names
        given = {name: getattr(self, name)[adapter_name] for name in names if adapter_name in getattr(self, name)}
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        for name, value in given.items():
            moved = getattr(self, name)[adapter_name]
            if moved.is_floating_point() and moved.dtype.itemsize < value.dtype.itemsize == 4:
                moved.data = value.detach().to(moved.device)
                moved.requires_grad_(value.requires_grad)

    def adapter_input(self, adapter: str, x: Tensor) -> Tensor:
        """`x` in the adapter's dtype, after its dropout."""
        trained = next(getattr(self, name) for name in self.adapter_layer_names if adapter in getattr(self, name))
        dtype = trained[adapter].dtype
        dropped: Tensor = self.dropout[adapter](self._cast_input_dtype(x, dtype))
        return dropped

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., n_in) -> (..., n_out), in the dtype of the base layer's output."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        base_out: Tensor = self.base_layer(x, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.r]
        if self.disable_adapters or self.merged or not active:
            return base_out
        return self.adapted(active, x, base_out).to(base_out.dtype)

    def original_weight(self) -> Tensor:
        """The base weight (n_out, n_in) without any adapter, whether or not some are merged; not to be written to."""
        weight: Tensor = self.get_base_weight() if self._original_weight is None else self._original_weight
        return weight

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put adapters (default: the active ones) into the base weight.

        The sum is taken afresh from the original weight, in float32 or wider, and rounded once: merging one after the
        other equals merging all at once, and `unmerge` restores every bit.

        Raises:
            ValueError: with `safe_merge`, the merged weight is not finite; the base is then as before.
        """
        adapter_names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.r]
        if not adapter_names:
            return
        original = self.original_weight()
        merged = original.to(torch.promote_types(original.dtype, torch.float32))
        for name in self.merged_adapters + adapter_names:
            merged = merged + self.get_delta_weight(name).to(merged.device)
        merged = merged.to(original.dtype)
        if safe_merge and not torch.isfinite(merged).all():
            raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter_names} seems to be broken")
        self._original_weight = original
        self.set_base_weight(merged)
        self.merged_adapters.extend(adapter_names)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the original base weight back."""
        if self._original_weight is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        now = self.get_base_weight()  # the model may have been moved since
        self.set_base_weight(self._original_weight.to(now.device, now.dtype))
        self._original_weight = None
        self.merged_adapters.clear()


class AdapterModel(BaseTuner):
    """A model whose target modules are replaced by the method's layers."""

    tuner_layer_cls: type[AdapterLayer]
    target_module_mapping = QUERY_VALUE
    trains_alone: ClassVar[str] = ""  # why its runs cannot share a pass over the encoder; empty: they can

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        """Called before each training step, for methods that act between steps.

        Args:
            step: number of the step to come, from 1.
            steps: number of steps of the whole training.
            generator: a CPU generator for this step alone: what is drawn follows from the run's seed and the step.
        """

    def penalty(self) -> Tensor | None:
        """A scalar to train on beside the loss, computed anew at every step; None: the loss alone."""
        return None

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Called after each step of the optimizer, before the gradients are cleared.

        Args:
            step: number of the step just done, from 1.
            steps: number of steps of the whole training.
            optimizer: its `state` may be cleared for parameters that start afresh.
        """

    def in_place(self, model: nn.Module, adapter_name: str) -> None:
        """Called when an adapter's layers are all in place, for methods whose layers share parameters."""

    def parameter_count(self, adapter: str = "default") -> int:
        """How many values one adapter trains, by its method's formula (`AdapterConfig.parameter_count`)."""
        config, layers = self.peft_config[adapter], [layer for layer in self.tuner_layers() if adapter in layer.r]
        return sum(config.parameter_count(layer.in_features, layer.out_features) for layer in layers)

    def tuner_layers(self) -> Iterator[Any]:
        """The adapted layers (each a `tuner_layer_cls`), in the model's order."""
        return (layer for _, layer in self._named_layers(self.model))

    def _named_layers(self, model: nn.Module) -> Iterator[tuple[str, Any]]:
        return ((name, module) for name, module in model.named_modules() if isinstance(module, self.tuner_layer_cls))

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()  # type: ignore[no-untyped-call]
        holders: dict[int, str] = {}  # by the address of the base weight
        for name, layer in self._named_layers(self.model):
            other = holders.setdefault(id(getattr(layer.get_base_layer(), "weight", layer)), name)
            if other != name:
                raise ValueError(f"{other} and {name} share one weight: two changes of it cannot be merged")

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:  # PEFT would drop it, and give every row the active adapter
            raise ValueError(
                "adapter_names: an adapter for each row of a batch is LoRA's alone in PEFT. Call the model once for "
                "each adapter (set_adapter)"
            )
        yield

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype:
            return
        for layer in self.tuner_layers():
            dtype = layer._get_base_layer_device_and_dtype(layer.get_base_layer())[1]
            containers = [getattr(layer, name) for name in layer.adapter_layer_names + layer.frozen_layer_names]
            for value in (container[adapter_name] for container in containers if adapter_name in container):
                if value.is_floating_point() and dtype is not None and dtype.is_floating_point:
                    value.data = value.data.to(dtype)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As PEFT's; but an error leaves the model as it was, so that a corrected call starts from there.

        Where no target matched, the error also lists modules with names near to what was asked for.
        """
        before = {name: adapter_name in layer.r for name, layer in self._named_layers(model)}
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            self.in_place(model, adapter_name)
        except Exception as error:
            for name, layer in list(self._named_layers(model)):
                if name not in before:
                    parent, _, child = name.rpartition(".")
                    setattr(model.get_submodule(parent), child, layer.base_layer)
                elif not before[name] and adapter_name in layer.r:
                    layer.delete_adapter(adapter_name)
            if "not found in the base model" not in str(error) and "No modules were targeted" not in str(error):
                raise
            targets = self.peft_config[adapter_name].target_modules
            raise type(error)(f"{error} {near_names(model, targets)}") from None

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        kind = model_config.get("model_type")
        if peft_config.target_modules is None and kind not in self.target_module_mapping:
            raise ValueError(
                f"Please specify `target_modules`: {peft_config.method} has no default for model type {kind!r}"
            )
        return super()._prepare_adapter_config(peft_config, model_config)

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
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
        layer = self.tuner_layer_cls(target, adapter_name, peft_config, current_key, **quantization)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter waits until it is switched to
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version goes on to read `child.weight`, and so fails on unloading RobertaForSequenceClassification,
        # whose head (saved beside the adapter) is a module of modules. Our layers are on their device already.
        setattr(parent, child_name, new_module)
