"""Implement PEFT's interface of a tuner layer."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from symlora.adapters.config import AdapterConfig


class AdapterLayer(nn.Module, BaseTunerLayer):
    """Wrap a linear layer (..., n_in) -> (..., n_out) with adapters, keyed by name.

    A method names its containers: `adapter_layer_names` for what trains, `frozen_layer_names` for what is drawn once,
    saved, and never trained. `initial_values` fills them; `r`, `scaling` (alpha / r) and `dropout` are filled here. Of
    the frozen ones, `changing_layer_names` are those that the method's `before_step` or `after_step` writes, in place;
    they are kept and restored with the trained ones.
    """

    adapter_layer_names: tuple[str, ...] = ()
    frozen_layer_names: ClassVar[tuple[str, ...]] = ()
    changing_layer_names: ClassVar[tuple[str, ...]] = ()
    other_dict_names: ClassVar[tuple[str, ...]] = ()  # plain dictionaries by adapter name
    other_param_names: tuple[str, ...] = ("r", "scaling", "dropout")
    needs_square: ClassVar[bool] = False  # the method adapts square matrices alone
    converts_to_lora: ClassVar[bool] = False  # ΔW is a matrix that contains no multiple of W0

    if TYPE_CHECKING:  # the containers are attributes: `self.symlora_Q[adapter]`

        def __getattr__(self, name: str) -> Any: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # PEFT deletes an adapter from these.
        cls.other_param_names = AdapterLayer.other_param_names + cls.frozen_layer_names + cls.other_dict_names

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: AdapterConfig, module: str, **quantization: Any
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **quantization)
        self.in_features, self.out_features = cast(tuple[int, int], _get_in_out_features(self.get_base_layer()))
        self.module_name = module  # within the model
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.dropout = nn.ModuleDict()
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        for name in self.frozen_layer_names:
            setattr(self, name, BufferDict(persistent=True))
        for name in self.other_dict_names:
            setattr(self, name, {})
        self.merged_adapters = []
        self._original_weight: Tensor | None = None  # the base weight as it was, kept while adapters are merged
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, module)

    # A method implements these.

    @abstractmethod
    def initial_values(self, config: Any, r: int) -> dict[str, Tensor]:
        """Draw one adapter's first values, by container name."""

    @abstractmethod
    def adapter_output(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        """Compute what one adapter adds to the output: (..., n_in), (..., n_out) -> (..., n_out)."""

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Compute what one adapter adds to W0, (n_out, n_in), in `merge_dtype`.

        Raises:
            NotImplementedError: The method has no such matrix.
        """
        raise NotImplementedError(f"{type(self).__name__} adds no matrix to the weight, so it cannot be merged")

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Answer `peft.convert_to_lora`."""
        return self.converts_to_lora

    def combine(self, adapters: Sequence[str], x: Tensor, base_out: Tensor) -> Tensor:
        """Add each adapter's output to the base layer's."""
        out = base_out
        for adapter in adapters:
            out = out + self.adapter_output(adapter, x, base_out)
        return out

    def require(self, suits: bool, problem: str, advice: str = "") -> None:
        """Refuse a module that does not suit the settings."""
        if not suits:
            shape = f"{self.out_features} x {self.in_features}"
            raise ValueError(f"{problem}: the weight of module {self.module_name!r} is {shape}{advice}")

    # These are the same for all methods.

    def update_layer(self, adapter_name: str, config: AdapterConfig, module: str) -> None:
        """Add one adapter to the module of this full name."""
        r, scaling = config.rank_and_scale(module, self)
        self.require(
            not self.needs_square or self.in_features == self.out_features,
            f"{config.method} needs a square matrix",
            "; choose `target_modules` that map a width to itself, or name this one in `exclude_modules`",
        )
        least = min(self.in_features, self.out_features)
        self.require(r <= least, f"r = {r} is more than {least}, the smaller side of the matrix")
        self.r[adapter_name], self.scaling[adapter_name] = r, scaling
        self.dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        for name, value in self.initial_values(config, r).items():
            container = getattr(self, name)
            container[adapter_name] = nn.Parameter(value) if name in self.adapter_layer_names else value
        base = self.get_base_layer()  # any tensor shows the device; some quantised layers have no `weight`
        device = next((tensor.device for tensor in [*base.parameters(), *base.buffers()]), None)
        self._move_adapter_to_device_of_base_layer(adapter_name, device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT rounds to the base's dtype here and casts back later (`autocast_adapter_dtype`), so that a start taken
        # from W0 would lose digits. So float32 is kept here; `_cast_adapter_dtype` narrows it if asked.
        given = self.values(adapter_name)
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        for moved, value in zip(self.values(adapter_name), given, strict=True):
            if moved.is_floating_point() and moved.dtype.itemsize < value.dtype.itemsize == 4:
                moved.data = value.detach().to(moved.device)

    def values(self, adapter: str) -> list[Tensor]:
        """Return one adapter's tensors, the trained ones first."""
        containers = [getattr(self, name) for name in self.adapter_layer_names + self.frozen_layer_names]
        return [container[adapter] for container in containers if adapter in container]

    def adapter_input(self, adapter: str, x: Tensor) -> Tensor:
        """Return `x` in the adapter's dtype, after its dropout."""
        dropped: Tensor = self.dropout[adapter](self._cast_input_dtype(x, self.values(adapter)[0].dtype))
        return dropped

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., n_in) to (..., n_out), in the dtype of the base layer's output."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        base_out: Tensor = self.base_layer(x, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.r]
        if self.disable_adapters or self.merged or not active:
            return base_out
        return self.combine(active, x, base_out).to(base_out.dtype)

    def original_weight(self) -> Tensor:
        """Return W0, (n_out, n_in), also while adapters are merged."""
        weight: Tensor = self.get_base_weight() if self._original_weight is None else self._original_weight
        return weight

    @property
    def merge_dtype(self) -> torch.dtype:
        """Return float32, or the dtype of W0 where that is wider."""
        return torch.promote_types(self.original_weight().dtype, torch.float32)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put adapters (default: the active ones) into the base weight.

        The sum is taken afresh from the original weight, in float32 or wider, and rounded once: merging one after the
        other equals merging all at once, and `unmerge` restores every bit. `safe_merge` refuses what is not finite.
        """
        adapter_names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.r]
        if not adapter_names:
            return
        if self.base_layer is not self.get_base_layer():
            raise ValueError("this adapter lies on another method's: merge that one before this one is added")
        original = self.original_weight()
        merged = original.to(self.merge_dtype)
        for name in self.merged_adapters + adapter_names:
            merged = merged + self.get_delta_weight(name).to(merged.device)
        # The model may have been moved since an earlier merge.
        now = original if self._original_weight is None else self.get_base_weight()
        merged = merged.to(now.device, now.dtype)
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
