"""Train LoRAs of rank 1 in turn: XGBLoRA.

Zhang et al., arXiv 2410.19694. Each one is held before the next one starts.

    h = W0 x + b + α/r (Σ_{t < T} B_t A_t + B A) x

    A        (r, n_in)    `xgblora_A`, trained; each one starts as LoRA's: uniform within ±1/√n_in
    B        (n_out, r)   `xgblora_B`, trained; each one starts at 0: a restart leaves the output as it was
    A_t, B_t              the earlier boosters, frozen: `xgblora_merged_A` ((T - 1) r, n_in), `xgblora_merged_B`
                          (n_out, (T - 1) r); the places of later ones are 0
    T        boosters of the whole training: step s (from 1) trains number ⌊(s - 1) T / steps⌋ (from 0), so that their
             steps differ by one at most; a training of fewer steps than T has one booster a step
    r        the rank of a booster: 1 ("rank-1 adaption")

The merged boosters stay low-rank factors, separate from W0: saving, loading, merging and unmerging are exact, and the
adapter is as small as a LoRA of rank T r. AdamW forgets what it knew of A and B at each restart.

Trained values per matrix at a time: (n_in + n_out) r. RoBERTa-base, query and value, r = 1: 36,864.

Read in the abstract and in the reviews of the ICLR submission: rank 1, merge and restart after κ steps (boosting), step
size 1 for each booster, LoRA's hyper-parameters. There a booster may also be confined to L_s layers drawn at random;
here each one has all of them. The paper could not be read here, and its κ is not known to us. We give T instead,
because the saved adapter's shape follows from it; T = 8 makes the sum a rank-8 update, as large as LoRA's of rank 8.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symlora.adapters.config import POSITIVE, WHOLE, LowRankConfig, setting
from symlora.adapters.factors import kaiming, zeros
from symlora.adapters.layer import AdapterLayer
from symlora.adapters.tuner import AdapterModel


@dataclass
class XgbLoraConfig(LowRankConfig, method="xgblora"):
    """Configure XGBLoRA."""

    r: int = setting(1, "Rank of a booster.", WHOLE)  # the paper's title
    alpha: float = setting(1, "The low-rank part is multiplied by alpha / r.", POSITIVE)  # α = r, as LoRA
    boosters: int = setting(8, "Number T of LoRAs that follow each other in a training.", WHOLE)  # top of this file


class XgbLoraLinear(AdapterLayer):
    """Adapt a linear layer by XGBLoRA."""

    adapter_layer_names = ("xgblora_A", "xgblora_B")
    converts_to_lora = True
    frozen_layer_names = changing_layer_names = ("xgblora_merged_A", "xgblora_merged_B")

    def initial_values(self, config: XgbLoraConfig, r: int) -> dict[str, Tensor]:
        merged = (config.boosters - 1) * r
        B, A = zeros(config, self.out_features, r), kaiming(r, self.in_features)
        return {
            "xgblora_A": A,
            "xgblora_B": B,
            "xgblora_merged_A": torch.zeros(merged, self.in_features),
            "xgblora_merged_B": torch.zeros(self.out_features, merged),
        }

    @torch.no_grad()
    def restart(self, adapter: str, booster: int, generator: torch.Generator) -> None:
        """Keep A and B as booster number `booster`, and start them afresh."""
        A, B, r = self.xgblora_A[adapter], self.xgblora_B[adapter], self.r[adapter]
        place = slice(booster * r, (booster + 1) * r)
        self.xgblora_merged_A[adapter][place].copy_(A)
        self.xgblora_merged_B[adapter][:, place].copy_(B)
        A.copy_(nn.init.kaiming_uniform_(torch.empty(A.shape), a=math.sqrt(5), generator=generator))
        B.zero_()

    def adapter_output(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        """Compute α/r (Σ B_t A_t + B A) x."""
        A, B = self.xgblora_A[adapter], self.xgblora_B[adapter]
        merged_A, merged_B = self.xgblora_merged_A[adapter].to(A.dtype), self.xgblora_merged_B[adapter].to(A.dtype)
        held = self._cast_input_dtype(x, A.dtype) @ merged_A.T @ merged_B.T  # part of the base by now: not dropped
        out: Tensor = self.scaling[adapter] * (held + self.adapter_input(adapter, x) @ A.T @ B.T)
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Compute α/r (Σ B_t A_t + B A), (n_out, n_in), in `merge_dtype`."""
        names = ("xgblora_merged_B", "xgblora_merged_A", "xgblora_B", "xgblora_A")
        merged_B, merged_A, B, A = (getattr(self, name)[adapter].to(self.merge_dtype) for name in names)
        delta: Tensor = self.scaling[adapter] * (merged_B @ merged_A + B @ A)
        return delta


def _booster(step: int, steps: int, boosters: int) -> int:
    """Return the number of the booster that a step trains."""
    return (step - 1) * boosters // steps


class XgbLoraModel(AdapterModel, config=XgbLoraConfig, layer=XgbLoraLinear):
    """Put XGBLoRA on a model's target modules."""

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        for layer, adapter, config in self.adapted():
            before = _booster(step - 1, steps, config.boosters)
            if step > 1 and before != _booster(step, steps, config.boosters):
                layer.restart(adapter, before, generator)

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        for layer, adapter, config in self.adapted():
            if _booster(step, steps, config.boosters) != _booster(step + 1, steps, config.boosters):
                for container in (layer.xgblora_A, layer.xgblora_B):  # the next step starts them afresh
                    optimizer.state.pop(container[adapter], None)
