"""Train a LoRA that can be cut to any smaller rank: DyLoRA.

Valipour et al., arXiv 2210.07558.

    h = W0 x + c + (α/b) B[:, :b] A[:b] x,    b drawn anew for each training step, uniformly from 1 … r

    c      bias of the layer
    A      (r, n_in)     `dylora_A`, trained; starts as LoRA's: uniform within ±1/√n_in
    B      (n_out, r)    `dylora_B`, trained; starts at 0, so that step 0 gives the base model's output
    b      the current rank, one for all layers. `dylora_rows` (r) holds r/b for the first b rows and 0 for the others
    r      the largest rank. At b = r this is LoRA with scale α/r

With `frozen` a step trains only the last of the b rows, and the b - 1 before it stay fixed: `dylora_trained` (r) is 1
for that row. Between steps the rank is r, so that evaluation, merging and saving see all of it; `DyLoraModel.set_rank`
cuts a trained adapter.

Trained values per matrix: (n_in + n_out) r. RoBERTa-base, query and value, r = 8: 294,912.

Read in the reference code (huawei-noah/Efficient-NLP, DyLoRA): each factor times √(r/(b'+1)) on top of α/r, b' uniform
in 0 … r-1, drawn before each step for the whole model, and `frozen=True` in its GLUE script, which then scores every
rank. There the held rows only lose their gradient, so that AdamW still moves them; the paper (section 4) updates the
one row, and so does this file. The paper itself could not be read here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from symlora.adapters.config import YES_OR_NO, LowRankConfig, setting
from symlora.adapters.factors import FactorLayer, kaiming, zeros
from symlora.adapters.tuner import AdapterModel


@dataclass
class DyLoraConfig(LowRankConfig, method="dylora"):
    """Configure DyLoRA."""

    frozen: bool = setting(True, "Train only the last active row.", YES_OR_NO)  # the GLUE script


class DyLoraLinear(FactorLayer):
    """Adapt a linear layer by DyLoRA."""

    adapter_layer_names = ("dylora_A", "dylora_B")
    frozen_layer_names = changing_layer_names = ("dylora_rows", "dylora_trained")

    def initial_values(self, config: DyLoraConfig, r: int) -> dict[str, Tensor]:
        A, B = kaiming(r, self.in_features), zeros(config, self.out_features, r)
        values = {"dylora_A": A, "dylora_B": B, "dylora_rows": torch.ones(r)}
        return values | {"dylora_trained": torch.ones(r)} if config.frozen else values

    @torch.no_grad()
    def set_rank(self, adapter: str, rank: int, last_only: bool = False) -> None:
        """Use the first `rank` rows, and train all or the last."""
        r = self.r[adapter]
        rank = min(rank, r)
        rows = self.dylora_rows[adapter]
        places = torch.arange(r, device=rows.device)
        rows.copy_((places < rank) * (r / rank))
        if adapter in self.dylora_trained:
            self.dylora_trained[adapter].copy_((places == rank - 1) | (not last_only))

    def factors(self, adapter: str) -> tuple[Tensor, ...]:
        A, B = self.dylora_A[adapter], self.dylora_B[adapter]
        if adapter in self.dylora_trained:  # the same values; the rows that are held get no gradient
            trained = self.dylora_trained[adapter] > 0
            A, B = torch.where(trained[:, None], A, A.detach()), torch.where(trained, B, B.detach())
        return B, self.dylora_rows[adapter].to(A.dtype), A


class DyLoraModel(AdapterModel, config=DyLoraConfig, layer=DyLoraLinear):
    """Put DyLoRA on a model's target modules."""

    def set_rank(self, rank: int, adapter: str = "default") -> None:
        """Cut every layer to its first `rank` rows, at least 1."""
        if rank < 1:
            raise ValueError(f"dylora: rank must be at least 1, got {rank}")
        for layer in self.tuner_layers():
            layer.set_rank(adapter, rank)

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        active = [(layer, adapter) for layer, adapter, _ in self.adapted()]
        largest = max(layer.r[adapter] for layer, adapter in active)
        rank = int(torch.randint(1, largest + 1, (1,), generator=generator))
        for layer, adapter in active:
            layer.set_rank(adapter, rank, last_only=True)
        self._held = [
            (value, value.detach().clone(), layer.dylora_trained[adapter].bool(), dim)
            for layer, adapter in active
            if adapter in layer.dylora_trained
            for dim, value in ((0, layer.dylora_A[adapter]), (1, layer.dylora_B[adapter]))
        ]

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        for value, before, trained, dim in self._held:  # AdamW moves values without a gradient too
            value.copy_(torch.where(trained[:, None] if dim == 0 else trained, value, before))
        self._held = []
        for layer, adapter, _ in self.adapted():
            layer.set_rank(adapter, layer.r[adapter])
