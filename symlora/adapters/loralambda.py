"""Add LoRA and SymLoRA's trained scale of the frozen weight: LoRA + λ.

A control: what does λ do without the symmetry?

    h = λ (W0 x) + b + (α/r) B A x

    A      (r, n_in)   `loralambda_A`
    B      (n_out, r)  `loralambda_B`
    λ      (1)         `loralambda_lambda`, one per adapted matrix; it does not scale the bias

A, B and λ are trained. Start: B = 0, λ = 1, A as in LoRA's code and in PEFT (uniform, Kaiming's with a = √5: within
±1/√n_in); step 0 is the base model's output to the last bit.

Trained values per matrix: (n_in + n_out) r + 1. RoBERTa-base, query and value, r = 8: 294,936.

Sources: LoRA, arXiv 2106.09685, section 4.1; λ as in SymLoRA, arXiv 2504.03719, section 3. The two together are no
published method.
"""

from dataclasses import dataclass

from torch import Tensor

from symlora.adapters.config import LowRankConfig
from symlora.adapters.factors import BaseScaleLayer, kaiming, zeros
from symlora.adapters.tuner import AdapterModel


@dataclass
class LoraLambdaConfig(LowRankConfig, method="loralambda"):
    """Configure LoRA + λ."""


class LoraLambdaLinear(BaseScaleLayer):
    """Adapt a linear layer by LoRA + λ."""

    adapter_layer_names = ("loralambda_A", "loralambda_B", "loralambda_lambda")

    def initial_values(self, config: LoraLambdaConfig, r: int) -> dict[str, Tensor]:
        A, B = kaiming(r, self.in_features), zeros(config, self.out_features, r)
        return {"loralambda_A": A, "loralambda_B": B, "loralambda_lambda": self.lambda_start(config)}

    factor_names = ("loralambda_B", "loralambda_A")


class LoraLambdaModel(AdapterModel, config=LoraLambdaConfig, layer=LoraLambdaLinear):
    """Put LoRA + λ on a model's target modules."""
