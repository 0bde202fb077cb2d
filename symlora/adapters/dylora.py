"""DyLoRA: a LoRA that can be cut to any smaller rank (Valipour et al., arXiv 2210.07558).

    h = W0 x + c + (α/b) B[:, :b] A[:b] x,    b drawn anew for each training step, uniformly from 1 … r

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W0, c  its frozen weight and bias
    A      (r, n_in)     `dylora_A`, trained; starts as LoRA's: uniform within ±1/√n_in
    B      (n_out, r)    `dylora_B`, trained; starts at 0, so that step 0 gives the base model's output
    b      the rank at work: one for all layers. `dylora_rows` (r) holds r/b for the rows at work and 0 for the others
    α, r   alpha and the largest rank. At b = r this is LoRA with scale α/r

With `frozen` a step trains the last of the b rows alone, and the b - 1 before it are held: `dylora_trained` (r) is 1
for that row. Between steps the rank is r, so that evaluation, merging and saving see all of it; `DyLoraModel.set_rank`
cuts a trained adapter.

Read in the reference code (huawei-noah/Efficient-NLP, DyLoRA): each factor times √(r/(b'+1)) on top of α/r, b' uniform
in 0 … r-1, drawn before each step for the whole model, and `frozen=True` in its GLUE script, which then scores every
rank. There the held rows only lose their gradient, so that AdamW's momentum and weight decay still move them; the paper
(section 4) updates the one row, and so does this file. The paper itself could not be read here.

Trained values per matrix: (n_in + n_out) r. RoBERTa-base, query and value, r = 8: 294,912.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig


@dataclass
class DyLoraConfig(LowRankConfig):
    """Configuration of DyLoRA: the fields of `LowRankConfig` and one more.

    Args:
        frozen: a step trains only the last of the rows at work.

    Raises:
        ValueError: as `LowRankConfig`; or frozen is not True or False.
    """

    method: ClassVar[str] = "dylora"

    frozen: bool = field(default=True, metadata={"help": "Train only the last row at work."})  # the GLUE script

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.frozen, bool):
            raise ValueError(f"dylora: frozen must be True or False, got {self.frozen!r}")

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return (in_features + out_features) * self.r


class DyLoraLinear(AdapterLayer):
    """A linear layer with DyLoRA adapters; see the top of this file."""

    adapter_layer_names = ("dylora_A", "dylora_B")
    frozen_layer_names = changing_layer_names = ("dylora_rows", "dylora_trained")
    dylora_A: nn.ParameterDict
    dylora_B: nn.ParameterDict
    dylora_rows: BufferDict
    dylora_trained: BufferDict

    def start(self, config: DyLoraConfig, r: int) -> dict[str, Tensor]:
        A = torch.empty(r, self.in_features)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        B = torch.zeros(self.out_features, r) if config.init_weights else torch.randn(self.out_features, r)
        values = {"dylora_A": A, "dylora_B": B, "dylora_rows": torch.ones(r)}
        return values | {"dylora_trained": torch.ones(r)} if config.frozen else values

    @torch.no_grad()
    def set_rank(self, adapter: str, rank: int, last_only: bool = False) -> None:
        """Puts the first `rank` rows to work; with `last_only` the last of them alone is trained."""
        r = self.r[adapter]
        rank = min(rank, r)
        places = torch.arange(r)
        rows: Tensor = self.dylora_rows[adapter]
        rows.copy_((places < rank) * (r / rank))
        if adapter in self.dylora_trained:
            self.dylora_trained[adapter].copy_((places == rank - 1) if last_only else torch.ones(r))

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        A, B = self.dylora_A[adapter], self.dylora_B[adapter]
        if adapter in self.dylora_trained:  # the same values; the rows that are held get no gradient
            trained = self.dylora_trained[adapter] > 0
            A, B = torch.where(trained[:, None], A, A.detach()), torch.where(trained, B, B.detach())
        rows = self.scaling[adapter] * self.dylora_rows[adapter].to(A.dtype)
        out: Tensor = (self.adapter_input(adapter, x) @ A.T * rows) @ B.T
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/b) B[:, :b] A[:b], (n_out, n_in), in float32 or wider."""
        dtype = torch.promote_types(self.original_weight().dtype, torch.float32)
        A, B = self.dylora_A[adapter].to(dtype), self.dylora_B[adapter].to(dtype)
        delta: Tensor = (B * (self.scaling[adapter] * self.dylora_rows[adapter].to(dtype))) @ A
        return delta


class DyLoraModel(AdapterModel):
    """A model with DyLoRA on its target modules."""

    prefix = "dylora_"
    tuner_layer_cls = DyLoraLinear

    def set_rank(self, rank: int, adapter: str = "default") -> None:
        """Cuts every layer to its first `rank` rows (a layer of a smaller rank keeps all it has).

        Raises:
            ValueError: rank is below 1.
        """
        if rank < 1:
            raise ValueError(f"dylora: rank must be at least 1, got {rank}")
        for layer in self.tuner_layers():
            layer.set_rank(adapter, rank)

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        layers = list(self.tuner_layers())
        largest = max(r for layer in layers for r in layer.r.values())
        rank = int(torch.randint(1, largest + 1, (1,), generator=generator))
        for layer in layers:
            for adapter in layer.r:
                layer.set_rank(adapter, rank, last_only=True)
        self._held = [
            (value, value.detach().clone(), layer.dylora_trained[adapter].bool(), dim)
            for layer in layers
            for adapter in layer.dylora_trained
            for dim, value in ((0, layer.dylora_A[adapter]), (1, layer.dylora_B[adapter]))
        ]

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        for value, before, trained, dim in self._held:  # AdamW moves values without a gradient too
            value.copy_(torch.where(trained[:, None] if dim == 0 else trained, value, before))
        self._held = []
        for layer in self.tuner_layers():
            for adapter in layer.r:
                layer.set_rank(adapter, layer.r[adapter])
