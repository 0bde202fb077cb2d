"""Train one factor in place of LoRA's two: SingLoRA.

Bensaïd, Rotstein, Velich, Bensaïd and Kimmel, arXiv 2507.05566.

    h = W0 x + b + (α/r) u(t) A_out A_inᵀ x,    u(t) = min(t / T, 1)

    A             (max(n_in, n_out), r)   `singlora_A`, trained; starts as LoRA's: uniform within ±1/√(its rows)
    A_out, A_in   (n_out, r), (n_in, r)   the first rows of A: all of it on the longer side, and on both where W0 is
                  square, so that ΔW is then A Aᵀ: symmetric, and positive semi-definite (SymLoRA's Λ has either sign)
    t             number of the training step, from 1
    T             `ramp`: steps, or below 1 a share of the training's; never more than the training has
    u             (1)   `singlora_ramp`, kept with the adapter: 0 before the first step, and 1 from step T on

The ramp makes step 0 the base model's output though A is not 0. From step T on, and so at the end of every training,
what is saved and merged is the full A Aᵀ. A loop outside of this package calls `model.base_model.before_step(t, steps,
generator)`. Without that call A would get no gradient; hence the default `ramp=0` of the class, which has no ramp:
u = 1 at all times, and the start is away from the base model by (α/r) A Aᵀ.

Trained values per matrix: max(n_in, n_out) r. RoBERTa-base, query and value, r = 8: 147,456.

Read in the abstract and in descriptions of other implementations (kyegomez/SingLoRA, the package peft-singlora): the
formula, the ramp over the first steps, one matrix cut to the shorter side. The paper's own text could not be read here:
the scale of the start, α = r, and 1 % of the steps as T (configs/method/singlora.yaml) are ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from symlora.adapters.config import STEPS, LowRankConfig, in_steps, setting
from symlora.adapters.factors import FactorLayer, kaiming
from symlora.adapters.tuner import AdapterModel


@dataclass
class SingLoraConfig(LowRankConfig, method="singlora"):
    """Configure SingLoRA."""

    ramp: float = setting(0, "Steps T of the ramp; below 1, a share of the training steps; 0, no ramp.", STEPS)


class SingLoraLinear(FactorLayer):
    """Adapt a linear layer by SingLoRA."""

    adapter_layer_names = ("singlora_A",)
    frozen_layer_names = changing_layer_names = ("singlora_ramp",)

    def initial_values(self, config: SingLoraConfig, r: int) -> dict[str, Tensor]:
        start = 0.0 if config.ramp and config.init_weights else 1.0
        return {
            "singlora_A": kaiming(r, max(self.in_features, self.out_features)).mT.contiguous(),
            "singlora_ramp": torch.full((1,), start),
        }

    def factors(self, adapter: str) -> tuple[Tensor, ...]:
        A = self.singlora_A[adapter]
        return A[: self.out_features], self.singlora_ramp[adapter].to(A.dtype), A[: self.in_features].mT


class SingLoraModel(AdapterModel, config=SingLoraConfig, layer=SingLoraLinear):
    """Put SingLoRA on a model's target modules."""

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        for layer, adapter, config in self.adapted():
            T = min(in_steps(config.ramp, steps), steps)
            layer.singlora_ramp[adapter].clamp_(min=min(step / max(T, 1), 1.0))  # a loaded adapter's stays 1
