"""LoRA + λ: LoRA with SymLoRA's trained scale of the frozen weight. A control: what does λ do without the symmetry?

    h = λ (W0 x) + b + (α/r) B A x

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W0, b  (n_out, n_in), (n_out)      its frozen weight and bias; λ does not scale the bias
    A      (r, n_in)   `loralambda_A`
    B      (n_out, r)  `loralambda_B`
    λ      (1)         `loralambda_lambda`, one per adapted matrix
    α, r               scale and rank

A, B and λ are trained. Start: B = 0, λ = 1, A as in LoRA's code and in PEFT (uniform, Kaiming's with a = √5: within
±1/√n_in); step 0 is the base model's output to the last bit.

Trained values per matrix: (n_in + n_out) r + 1. RoBERTa-base, query and value, r = 8: 294,936.

Sources: LoRA, arXiv 2106.09685, section 4.1; λ as in SymLoRA, arXiv 2504.03719, section 3. The two together are no
published method.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from symlora.adapters.base import AdapterModel
from symlora.adapters.base_scale import BaseScaleLayer
from symlora.adapters.config import LowRankConfig


@dataclass
class LoraLambdaConfig(LowRankConfig):
    """Configuration of LoRA + λ: the fields of `LowRankConfig`."""

    method: ClassVar[str] = "loralambda"

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return (in_features + out_features) * self.r + 1


class LoraLambdaLinear(BaseScaleLayer):
    """A linear layer with LoRA + λ; see the top of this file."""

    adapter_layer_names = ("loralambda_A", "loralambda_B", "loralambda_lambda")
    lambda_name = "loralambda_lambda"
    loralambda_A: nn.ParameterDict
    loralambda_B: nn.ParameterDict
    loralambda_lambda: nn.ParameterDict

    def start(self, config: LoraLambdaConfig, r: int) -> dict[str, Tensor]:
        A = torch.empty(r, self.in_features)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        B = torch.zeros(self.out_features, r) if config.init_weights else torch.randn(self.out_features, r)
        return {"loralambda_A": A, "loralambda_B": B, "loralambda_lambda": self.lambda_start(config)}

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        A, B = self.loralambda_A[adapter], self.loralambda_B[adapter]
        out: Tensor = self.adapter_input(adapter, x) @ A.mT @ B.mT * self.scaling[adapter]
        return out

    def low_rank_weight(self, adapter: str, dtype: torch.dtype) -> Tensor:
        """(α/r) B A."""
        product: Tensor = self.loralambda_B[adapter].to(dtype) @ self.loralambda_A[adapter].to(dtype)
        return product * self.scaling[adapter]


class LoraLambdaModel(AdapterModel):
    """A model with LoRA + λ on its target modules."""

    prefix = "loralambda_"
    tuner_layer_cls = LoraLambdaLinear
