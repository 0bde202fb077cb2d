"""What PEFT wants of every tuner, written once.

A method of our own is three small classes on the three below, in one file:

* a dataclass on `AdapterConfig`: the method's own fields, its `method` name, and how many values it trains a matrix;
* a layer on `AdapterLayer`: `start` (the parameters' first values), `change` (what the adapter adds to the output) and
  `get_delta_weight` (what it adds to the weight, for merging);
* a model on `AdapterModel`: `prefix` and `tuner_layer_cls`.

Saving, loading, merging, several adapters, switching, dtypes and devices then work as they do for PEFT's own methods.
A layer's forward is a function of its parameters and `x` alone (no state written, no branch on a value), so that
`torch.vmap` over `torch.func.functional_call` trains a stack of adapters at once.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from peft.config import PeftConfig
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import get_quantization_kwargs, resolve_quantization_backend
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from peft.utils.other import get_pattern_key
from peft.utils.peft_types import PeftType
from torch import Tensor, nn

# Query and value (LoRA §4.2 adapts these two): PEFT's own table, and the encoders it lacks.
_OF_BERT = (
    "albert big_bird camembert data2vec-text ernie megatron-bert roberta-prelayernorm roformer xlm-roberta-xl xmod"
)
QUERY_VALUE: dict[str, Any] = {
    **LORA_TARGETS,
    **{name: ["query", "value"] for name in _OF_BERT.split()},
    **{name: ["q_lin", "v_lin"] for name in ("distilbert", "flaubert", "xlm")},
    **{name: ["q_proj", "v_proj"] for name in ("eurobert", "modernbert-decoder", "nomic_bert")},
    "modernbert": ["Wqkv"],  # query, key and value in one matrix
    "mpnet": ["attn.q", "attn.v"],
}


@dataclass
class AdapterConfig(PeftConfig):
    """Fields that every method has; names and meanings are PEFT's (`LoraConfig`) wherever PEFT has one.

    Args:
        r: rank.
        alpha: the low-rank part is multiplied by alpha / r.
        target_modules: as in PEFT: names (or their ends), a regular expression, or "all-linear". None takes query
            and value of the model types in `QUERY_VALUE`.
        exclude_modules: names or a regular expression of modules to leave out.
        dropout: probability of dropping an input of the low-rank part; the base path is not dropped.
        bias: which biases of the base model train: "none", "all", or "<method>_only" (those of adapted modules).
        modules_to_save: modules trained and saved beside the adapter, for example a new head.
        init_weights: True starts at the base model's own output; False starts away from it (PEFT's tests want that).
        layers_to_transform, layers_pattern: adapt only the layers of these numbers.
        rank_pattern, alpha_pattern: module name (or regular expression) to a rank or alpha other than the default.

    Raises:
        ValueError: a field is out of range. The message names the field and the value.
    """

    method: ClassVar[str]  # lower case; the parameters' prefix and PEFT's type name come from it

    r: int = field(default=8, metadata={"help": "Rank."})  # LoRA Table 9 and PEFT's default
    alpha: float = field(default=8, metadata={"help": "The low-rank part is multiplied by alpha / r."})  # LoRA Table 9
    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Modules to adapt; None takes query and value of a known model type."}
    )
    exclude_modules: list[str] | set[str] | str | None = field(default=None, metadata={"help": "Modules to leave out."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout before the low-rank part."})  # PEFT's default
    bias: str = field(default="none", metadata={"help": "Biases to train: none, all or <method>_only."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Other modules to train and save."})
    init_weights: bool = field(default=True, metadata={"help": "Start at the base model's own output."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layer numbers to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata={"help": "Module name to its own rank."})
    alpha_pattern: dict[str, float] = field(default_factory=dict, metadata={"help": "Module name to its own alpha."})

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType(self.method.upper())
        for name, rank in {"r": self.r, **self.rank_pattern}.items():
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise ValueError(f"{self.method}: rank {name!r} must be a whole number of at least 1, got {rank!r}")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not isinstance(alpha, (int, float)) or not (0 < alpha < math.inf):
                raise ValueError(f"{self.method}: alpha {name!r} must be a finite number above 0, got {alpha!r}")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"{self.method}: dropout must be at least 0 and below 1, got {self.dropout!r}")
        choices = ("none", "all", f"{self.method}_only")
        if self.bias not in choices:
            raise ValueError(f"{self.method}: bias must be one of {', '.join(choices)}, got {self.bias!r}")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if isinstance(self.target_modules, str) and (self.layers_to_transform, self.layers_pattern) != (None, None):
            raise ValueError("`layers_to_transform` and `layers_pattern` need `target_modules` to be a list of names")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("`layers_pattern` has no effect without `layers_to_transform`")

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Rank and alpha / r of the module of this full name, after `rank_pattern` and `alpha_pattern`."""
        rank = self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), module), self.r)
        return rank, self.alpha_pattern.get(get_pattern_key(list(self.alpha_pattern), module), self.alpha) / rank

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """How many values one adapted matrix trains at rank `r`."""
        raise NotImplementedError


class AdapterLayer(nn.Module, BaseTunerLayer):
    """A linear layer (..., n_in) -> (..., n_out) and the adapters on it, keyed by name.

    A method names its containers: `adapter_layer_names` for what trains, `frozen_layer_names` for what is drawn once,
    saved, and never trained. `start` fills them; `r`, `scaling` (alpha / r) and `dropout` are filled here.

    Raises:
        ValueError: the module's shape does not suit the method or the rank. The message names module and shape.
    """

    adapter_layer_names: tuple[str, ...] = ()
    frozen_layer_names: ClassVar[tuple[str, ...]] = ()
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

    def adapter_input(self, adapter: str, x: Tensor) -> Tensor:
        """`x` in the adapter's dtype, after its dropout."""
        dtype = getattr(self, self.adapter_layer_names[0])[adapter].dtype
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
