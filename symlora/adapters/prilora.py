"""Raise LoRA's rank with depth and prune its A: PRILoRA.

Benedek and Wolf, arXiv 2401.11316.

    h = W0 x + b + (α/r_l) B A x,    r_l = r_first + (l - 1)/(L - 1) · (r_last - r_first), rounded,  l = 1 … L

    A      (r_l, n_in)    `prilora_A`, trained; starts as LoRA's: uniform within ±1/√n_in
    B      (n_out, r_l)   `prilora_B`, trained; starts at 0, so that step 0 gives the base model's output
    l, L   number of the layer, number of layers; `r` is the mean rank, r_last = 2 r - r_first

Every `pruning_interval` steps the `pruned_share` of each row of A with the least importance |A_ij| · m_j is set to 0,
from where training may take it up again. m (n_in), `prilora_norm`, is the moving average over the steps of the norms of
the inputs' columns: m ← β m + (1 - β) √Σ_tokens x_j², β = `norm_decay`. Only training batches count.
Σ_tokens also includes the batch's padding on encoders that do not run flat (symlora.model.encoder), and in bfloat16 the
few tokens that fill a flat batch up.

Trained values per matrix: (n_in + n_out) r_l, r in the mean. RoBERTa-base, query and value, 4 to 12: 294,912.

Read in the abstract and in summaries: linear ranks, pruning during the whole training by the weights' magnitude and a
moving average over the layer's input. From memory, not confirmed here: ranks 4 to 12, half of each row, every 40 steps,
β = 0.9. Neither the paper nor its code could be read here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symlora.adapters.config import BELOW_ONE, WHOLE, LowRankConfig, setting
from symlora.adapters.factors import FactorLayer, kaiming, zeros
from symlora.adapters.tuner import AdapterModel


@dataclass
class PriLoraConfig(LowRankConfig, method="prilora"):
    """Configure PRILoRA.

    `rank_pattern` is filled in from the model's number of layers, unless it is given: make a new one for each model.
    `r` is the mean rank, and that of modules outside of the numbered layers.
    """

    # All four from memory; see the top of this file.
    r_first: int = setting(4, "Rank in the first layer; the last one has 2 r - r_first.", WHOLE)
    pruned_share: float = setting(0.5, "Share of each row of A that pruning sets to 0; 0 prunes nothing.", BELOW_ONE)
    pruning_interval: int = setting(40, "Steps from one pruning to the next.", WHOLE)
    norm_decay: float = setting(0.9, "β of the moving average of the inputs' norms.", BELOW_ONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r_first > self.r:
            raise ValueError(f"prilora: r_first = {self.r_first} is more than r = {self.r}, the mean rank")

    def ranks(self, layers: int) -> list[int]:
        """Compute the rank of each layer; their mean is r."""
        rise = 2 * (self.r - self.r_first) / max(layers - 1, 1)
        return [round(self.r_first + rise * number) for number in range(layers)] if layers > 1 else [self.r]


class PriLoraLinear(FactorLayer):
    """Adapt a linear layer by PRILoRA."""

    adapter_layer_names = ("prilora_A", "prilora_B")
    frozen_layer_names = changing_layer_names = ("prilora_norm",)
    other_dict_names = ("seen",)  # Σ x_j² of the step under way

    def initial_values(self, config: PriLoraConfig, r: int) -> dict[str, Tensor]:
        B, A = zeros(config, self.out_features, r), kaiming(r, self.in_features)
        return {"prilora_A": A, "prilora_B": B, "prilora_norm": torch.zeros(self.in_features)}

    factor_names = ("prilora_B", "prilora_A")

    def adapter_output(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        """Compute (α/r_l) B A x, and note the inputs' squares."""
        if self.training and torch.is_grad_enabled():
            dtype = self.prilora_A[adapter].dtype
            squares = self._cast_input_dtype(x, dtype).detach().flatten(0, -2).square().sum(0)
            self.seen[adapter] = self.seen[adapter] + squares if adapter in self.seen else squares
        return super().adapter_output(adapter, x, base_out)

    @torch.no_grad()
    def note_norms(self, adapter: str, decay: float) -> None:
        """Update the moving average with this step's inputs."""
        norm: Tensor = self.prilora_norm[adapter]
        squares = self.seen.pop(adapter, torch.zeros_like(norm))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(squares)  # each process saw a part of the batch
        norm.lerp_(squares.sqrt().to(norm.dtype), 1 - decay)

    @torch.no_grad()
    def prune(self, adapter: str, share: float) -> None:
        """Set the least important values of each row of A to 0."""
        A = self.prilora_A[adapter]
        count = int(share * self.in_features)
        least = (A.abs() * self.prilora_norm[adapter]).topk(count, dim=1, largest=False).indices
        A.scatter_(1, least, 0.0)


class PriLoraModel(AdapterModel, config=PriLoraConfig, layer=PriLoraLinear):
    """Put PRILoRA on a model's target modules."""

    trains_alone = "its layers note the norms of their inputs"

    def _prepare_adapter_config(self, peft_config: PriLoraConfig, model_config: dict[str, Any]) -> Any:
        if not peft_config.rank_pattern:
            config = getattr(self.model, "config", None)
            # ALBERT's layers share the modules of a group.
            layers = getattr(config, "num_hidden_groups", None) or getattr(config, "num_hidden_layers", None)
            if not layers:
                raise ValueError("prilora: the model's configuration has no num_hidden_layers; set rank_pattern")
            first = r"^(?:(?!\.\d+\.).)*"  # up to the first number, which is the layer's: T5 has further ones
            ranks = enumerate(peft_config.ranks(layers))
            peft_config.rank_pattern = {rf"{first}\.{number}\..*": rank for number, rank in ranks}
        return super()._prepare_adapter_config(peft_config, model_config)

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        for layer, adapter, config in self.adapted():
            layer.note_norms(adapter, config.norm_decay)
            if step % config.pruning_interval == 0:
                layer.prune(adapter, config.pruned_share)
