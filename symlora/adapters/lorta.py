"""Share one tensor between layers, matrices and heads: LoRTA.

Hounie et al., arXiv 2410.04060.

    h = W0 x + b + (α/r) ΔW x,    ΔWᵀ = [ A diag(C_head[1] ∘ C_matrix[t] ∘ C_layer[l]) B, …, the same with C_head[H] ]

    x, h       (..., n), (..., H d)   input and output of matrix t of layer l, the heads' outputs side by side
    A          (n, r)    `lorta_A`
    B          (r, d)    `lorta_B`
    C_head     (H, r)    `lorta_C_head`
    C_matrix   (T, r)    `lorta_C_matrix`; T matrices a layer are adapted (query and value: 2)
    C_layer    (L, r)    `lorta_C_layer`
    H, d       number of heads, from the model's configuration, and their width
    r          rank of the CP form

All five train, and **the whole model has one of each**: every adapted layer holds the very same parameters, so that the
optimizer and the counts see them once, and the adapter's file holds them once, as `base_model.lorta_A` and so on.

Start, as in the authors' code (ihounie/peft, src/peft/tuners/lorta/model.py): B = 0, the others
`kaiming_uniform_(a=√5)`, whose "fan in" is r for all of them, so that they are uniform within ±1/√r; there the three C
have a = √5 · init_scale, whose default was not seen (1 here). So step 0 is the base model's.

In the authors' code all four attention matrices have a place in C_matrix, whichever are adapted; merging, deleting and
a second adapter raise NotImplementedError, and work here. Their scale was not in the code that could be read; α/r is
LoRA's. The paper could not be read here, so whether it has the output projection's heads at its inputs is not
confirmed: as in the code, they are at its outputs.

Trained values: (n + d + H + T + L) r for the whole model. RoBERTa-base, query and value: 858 r, at r = 8 6,864.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symlora.adapters.config import WHOLE, LowRankConfig, setting
from symlora.adapters.factors import FactorLayer, zeros
from symlora.adapters.tuner import AdapterModel


@dataclass
class LortaConfig(LowRankConfig, method="lorta"):
    """Configure LoRTA, which has one rank: `rank_pattern` must be empty."""

    num_heads: int | None = setting(None, "Number H of attention heads; None takes the model's.", WHOLE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank_pattern:
            raise ValueError(f"lorta: rank_pattern must be empty (one rank for all modules), got {self.rank_pattern!r}")


class LortaLinear(FactorLayer):
    """Adapt a linear layer by LoRTA; `LortaModel` gives the parameters."""

    adapter_layer_names = ("lorta_A", "lorta_B", "lorta_C_head", "lorta_C_matrix", "lorta_C_layer")
    other_dict_names = ("place",)  # numbers of layer and matrix, from 0

    def initial_values(self, config: LortaConfig, r: int) -> dict[str, Tensor]:
        return {}

    def factors(self, adapter: str) -> tuple[Tensor, ...]:
        """Return (H d, r) and (r, n), whose product is ΔW."""
        A, B, heads, matrices, layers = (getattr(self, name)[adapter] for name in self.adapter_layer_names)
        layer, matrix = self.place[adapter]
        outputs = heads.mT.unsqueeze(2) * B.unsqueeze(1)  # (r, H, d)
        return ((matrices[matrix] * layers[layer]).unsqueeze(1) * outputs.flatten(1)).mT, A.mT


class LortaModel(AdapterModel, config=LortaConfig, layer=LortaLinear):
    """Put LoRTA on a model's target modules."""

    uses_shared_state = True

    def after_injection(self, model: nn.Module, adapter_name: str) -> None:
        """Give the layers the parameters that they share."""
        config, layers = self.peft_config[adapter_name], _layers(model, adapter_name)
        shapes = sorted({(layer.in_features, layer.out_features) for layer in layers.values()})
        if len(shapes) > 1:
            raise ValueError(f"lorta: the target modules must have one shape, but have (n_in, n_out) = {shapes}")
        heads = config.num_heads or getattr(getattr(model, "config", None), "num_attention_heads", None)
        if heads is None:
            raise ValueError("lorta: set num_heads: the model's configuration has no num_attention_heads")
        if shapes[0][1] % heads:
            raise ValueError(f"lorta: num_heads = {heads} does not divide the {shapes[0][1]} outputs of a matrix")
        places = {name: _place(name) for name in layers}
        numbers = sorted({number for number, _ in places.values()})
        matrices = list(dict.fromkeys(matrix for _, matrix in places.values()))
        weight: Any = next(iter(layers.values())).get_base_layer().weight
        dtype = torch.promote_types(weight.dtype, torch.float32) if weight.dtype.is_floating_point else torch.float32
        trains = adapter_name in self.active_adapters and not config.inference_mode
        (n_in, n_out), r, bound = shapes[0], config.r, 1 / math.sqrt(config.r)
        rows = {"A": n_in, "C_head": heads, "C_matrix": len(matrices), "C_layer": len(numbers)}
        values = {f"lorta_{name}": torch.empty(number, r).uniform_(-bound, bound) for name, number in rows.items()}
        for container, value in (values | {"lorta_B": zeros(config, r, n_out // heads)}).items():
            parameter = nn.Parameter(value.to(weight.device, dtype), trains)
            for layer in layers.values():
                getattr(layer, container)[adapter_name] = parameter
        for name, layer in layers.items():
            number, matrix = places[name]
            layer.place[adapter_name] = (numbers.index(number), matrices.index(matrix))

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)  # PEFT may make a parameter for each layer
        first, *others = _layers(self.model, adapter_name).values()
        for layer in others:
            for container in layer.adapter_layer_names:
                getattr(layer, container)[adapter_name] = getattr(first, container)[adapter_name]

    # The file holds each parameter once, under a name of the model's and not of a layer's.

    @classmethod
    def _get_adapter_state_dict(cls, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        found = super()._get_adapter_state_dict(*args, **kwargs)
        return {re.sub(r"^.*\.(?=lorta_)", _ONCE, key): value for key, value in found.items()}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: Any, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        # As parameters, so that they stay shared when loading replaces the existing ones (low_cpu_mem_usage).
        start = f"{_ONCE}lorta_"
        shared = {key: nn.Parameter(value, False) for key, value in state_dict.items() if key.startswith(start)}
        own = {
            f"{name}.{key.removeprefix(_ONCE)}.{adapter_name}": value
            for name in _layers(model, adapter_name)
            for key, value in shared.items()
        }
        others = {key: value for key, value in state_dict.items() if key not in shared}
        return own | super()._remap_adapter_state_dict_for_load(model, config, adapter_name, others)


def _layers(model: nn.Module, adapter: str) -> dict[str, Any]:
    """Return the layers with this adapter, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LortaLinear) and adapter in m.r}


_ONCE = "base_model."


def _place(name: str) -> tuple[tuple[str, int], str]:
    """Split a module's name into its layer (stack, number) and matrix."""
    found = re.match(r"(?:(.*?)\.)?(\d+)\.(.*)", name)  # at the first number; T5 has further ones
    return ((found[1] or "", int(found[2])), found[3]) if found else (("", 0), name)
