"""PRILoRA: LoRA whose rank rises with depth and whose A is pruned on the way (Benedek and Wolf, arXiv 2401.11316).

    h = W0 x + b + (α/r_l) B A x,    r_l = r_first + (l - 1)/(L - 1) · (r_last - r_first), rounded,  l = 1 … L

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W0, b  its frozen weight and bias
    A      (r_l, n_in)    `prilora_A`, trained; starts as LoRA's: uniform within ±1/√n_in
    B      (n_out, r_l)   `prilora_B`, trained; starts at 0, so that step 0 gives the base model's output
    l, L   number of the layer, number of layers; `r` is the mean rank, r_last = 2 r - r_first
    α      alpha

Every `pruning_interval` steps the `pruned_share` of each row of A with the least importance |A_ij| · m_j is set to 0,
from where training may take it up again. m (n_in), `prilora_norm`, is the moving average over the steps of the norms of
the inputs' columns: m ← β m + (1 - β) √Σ_tokens x_j², β = `norm_decay`. Only training batches count.
On encoders that do not run flat (symlora.model.encoder) Σ_tokens also has the padding of the batch in it.

Read in the abstract and in summaries: linear ranks, pruning during the whole training by the weights' magnitude and
accumulated statistics (a moving average) of the layer's input. From memory, not confirmed here: ranks 4 to 12, half of
each row, every 40 steps, β = 0.9. The paper could not be read here, and its code is an archive that is out of reach.

Trained values per matrix: (n_in + n_out) r_l, r in the mean. RoBERTa-base, query and value, 4 to 12: 294,912.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig, check_whole


@dataclass
class PriLoraConfig(LowRankConfig):
    """Configuration of PRILoRA: the fields of `LowRankConfig` and four more.

    `rank_pattern` is filled in from the model's number of layers, unless it is given. `r` is the mean rank, and that of
    modules outside of the numbered layers.

    Args:
        r_first: rank in the first layer; the last one has 2 r - r_first.
        pruned_share: share of each row of A that pruning sets to 0; 0 prunes nothing.
        pruning_interval: steps from one pruning to the next.
        norm_decay: β of the moving average of the inputs' norms.

    Raises:
        ValueError: as `LowRankConfig`; or one of these is out of range.
    """

    method: ClassVar[str] = "prilora"

    r_first: int = field(default=4, metadata={"help": "Rank in the first layer."})  # from memory: 4 to 12
    pruned_share: float = field(default=0.5, metadata={"help": "Share of each row set to 0."})  # from memory
    pruning_interval: int = field(default=40, metadata={"help": "Steps between prunings."})  # from memory
    norm_decay: float = field(default=0.9, metadata={"help": "Decay of the inputs' mean norms."})  # from memory

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.method, "r_first", self.r_first)
        check_whole(self.method, "pruning_interval", self.pruning_interval)
        if self.r_first > self.r:
            raise ValueError(f"prilora: r_first = {self.r_first} is more than r = {self.r}, the last layer's rank")
        for name in ("pruned_share", "norm_decay"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"prilora: {name} must be at least 0 and below 1, got {value!r}")

    def ranks(self, layers: int) -> list[int]:
        """The ranks of so many layers, whose mean is r."""
        rise = 2 * (self.r - self.r_first) / max(layers - 1, 1)
        return [round(self.r_first + rise * number) for number in range(layers)] if layers > 1 else [self.r]

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """In the mean over the layers."""
        return (in_features + out_features) * self.r


class PriLoraLinear(AdapterLayer):
    """A linear layer with PRILoRA adapters; see the top of this file."""

    adapter_layer_names = ("prilora_A", "prilora_B")
    frozen_layer_names = changing_layer_names = ("prilora_norm",)
    prilora_A: nn.ParameterDict
    prilora_B: nn.ParameterDict
    prilora_norm: BufferDict

    def start(self, config: PriLoraConfig, r: int) -> dict[str, Tensor]:
        B = torch.zeros(self.out_features, r) if config.init_weights else torch.randn(self.out_features, r)
        self.seen: dict[str, Tensor] = {}  # Σ x_j² of the step under way
        return {
            "prilora_A": nn.init.kaiming_uniform_(torch.empty(r, self.in_features), a=math.sqrt(5)),
            "prilora_B": B,
            "prilora_norm": torch.zeros(self.in_features),
        }

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        A, B = self.prilora_A[adapter], self.prilora_B[adapter]
        if self.training and torch.is_grad_enabled():
            squares = self._cast_input_dtype(x, A.dtype).detach().flatten(0, -2).square().sum(0)
            self.seen[adapter] = self.seen[adapter] + squares if adapter in self.seen else squares
        out: Tensor = self.scaling[adapter] * (self.adapter_input(adapter, x) @ A.T @ B.T)
        return out

    @torch.no_grad()
    def note_norms(self, adapter: str, decay: float) -> None:
        """Takes the step's inputs into the moving average."""
        norm: Tensor = self.prilora_norm[adapter]
        squares = self.seen.pop(adapter, torch.zeros_like(norm))
        if (
            torch.distributed.is_available() and torch.distributed.is_initialized()
        ):  # each process saw a part of the batch
            torch.distributed.all_reduce(squares)
        norm.lerp_(squares.sqrt().to(norm.dtype), 1 - decay)

    @torch.no_grad()
    def prune(self, adapter: str, share: float) -> None:
        """Sets the least important values of each row of A to 0."""
        A = self.prilora_A[adapter]
        count = int(share * self.in_features)
        least = (A.abs() * self.prilora_norm[adapter]).topk(count, dim=1, largest=False).indices
        A.scatter_(1, least, 0.0)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/r_l) B A, (n_out, n_in), in float32 or wider."""
        dtype = torch.promote_types(self.original_weight().dtype, torch.float32)
        delta: Tensor = self.prilora_B[adapter].to(dtype) @ self.prilora_A[adapter].to(dtype)
        return self.scaling[adapter] * delta

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class PriLoraModel(AdapterModel):
    """A model with PRILoRA on its target modules."""

    prefix = "prilora_"
    tuner_layer_cls = PriLoraLinear
    trains_alone = "its layers note the norms of their inputs"

    def parameter_count(self, adapter: str = "default") -> int:
        """By the formula, at each layer's rank."""
        layers = [layer for layer in self.tuner_layers() if adapter in layer.r]
        return sum((layer.in_features + layer.out_features) * layer.r[adapter] for layer in layers)

    def _prepare_adapter_config(self, peft_config: PriLoraConfig, model_config: dict[str, Any]) -> Any:
        if not peft_config.rank_pattern:
            layers = getattr(getattr(self.model, "config", None), "num_hidden_layers", None)
            if not layers:
                raise ValueError("prilora: the model's configuration names no number of layers; give rank_pattern")
            peft_config.rank_pattern = {
                rf".*\.{number}\..*": rank for number, rank in enumerate(peft_config.ranks(layers))
            }
        return super()._prepare_adapter_config(peft_config, model_config)

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        for adapter, config in self.peft_config.items():
            for layer in self.tuner_layers():
                if adapter in layer.r:
                    layer.note_norms(adapter, config.norm_decay)
                    if step % config.pruning_interval == 0:
                        layer.prune(adapter, config.pruned_share)
