"""Make a bottleneck's projections of low-rank products with a common kernel.

LoRand: Yin, Yang, Wang, Yu, Wei and Sun, "1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense Predictions",
CVPR 2023.

    h = W0 x + b
    out = h + W_up σ(W_down h + b_down) + b_up
    W_down = Σ_i (P_i K_i Q_i)ᵀ,    W_up = Σ_i (P'_i K_i Q'_i)ᵀ,    i = 1 … α

    x, h      (..., n_in), (..., n)   input and output of the projection that ends attention or feed-forward
    P_i       (n, β)    `lorand_down_P`, all in one (α, n, β)
    Q_i       (β, m)    `lorand_down_Q`, all in one (α, β, m)
    K_i       (β, β)    `lorand_K`, all in one (α, β, β), shared by down and up
    P'_i      (m, β)    `lorand_up_P`, all in one (α, m, β)
    Q'_i      (β, n)    `lorand_up_Q`, all in one (α, β, n)
    b_down    (m)       `lorand_down_bias`
    b_up      (n)       `lorand_up_bias`
    σ         GELU
    m         inner width, n / `reduction_factor`
    α, β      `num_branches` and `kernel_size`; no factor α/r here

The paper is about vision: its adapters are in the blocks of a Swin Transformer, one at the attention and one at the
MLP. On a text encoder they stand where Houlsby's do, after the output projections of attention and feed-forward. That
is ours, as is every number on text.

All train. Start, as in the public code that was read (class `LoRandv2` of an MMDetection fork; whether it is the
authors' could not be told, and the paper could not be read here): P, K, Q Kaiming uniform with a = √5, biases uniform
within ±1/√(number of inputs). So step 0 is not the base model's. That code has α = 2 and β = 2; the defaults below,
α = 2, β = 8 and m = n/2, are the paper's smallest variant from memory: 1.1 % of RoBERTa-base's encoder.

Not linear in x, so that nothing can be merged.

Trained values per projection: α (2 β (n + m) + β²) + n + m. RoBERTa-base at the defaults: 915,456.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu

from symlora.adapters.config import SUBLAYER_OUTPUTS, WHOLE, AdapterConfig, setting
from symlora.adapters.layer import AdapterLayer
from symlora.adapters.tuner import AdapterModel


@dataclass
class LorandConfig(AdapterConfig, method="lorand"):
    """Configure LoRand."""

    # See the top of this file for the three.
    num_branches: int = setting(2, "Number α of low-rank products in a projection.", WHOLE)
    kernel_size: int = setting(8, "Width β of a product.", WHOLE)
    reduction_factor: int = setting(2, "Width of the layer's output over the inner width m.", WHOLE)


class LorandLinear(AdapterLayer):
    """Put LoRand adapters on a linear layer's output; several add up."""

    adapter_layer_names = (
        *("lorand_down_P", "lorand_down_Q", "lorand_K", "lorand_up_P", "lorand_up_Q"),
        *("lorand_down_bias", "lorand_up_bias"),
    )

    def initial_values(self, config: LorandConfig, r: int) -> dict[str, Tensor]:
        n, kernel = self.out_features, config.kernel_size
        m = n // config.reduction_factor
        self.require(
            kernel <= m,
            f"lorand: kernel_size = {kernel} is more than the inner width {m} (choose a smaller one or a smaller "
            "reduction_factor)",
        )
        shapes = [(n, kernel), (kernel, m), (kernel, kernel), (m, kernel), (kernel, n)]
        values = {}
        for name, (rows, columns) in zip(self.adapter_layer_names, shapes, strict=False):  # kaiming_uniform_(a=√5)
            values[name] = torch.empty(config.num_branches, rows, columns).uniform_(-1, 1) / math.sqrt(columns)
        values["lorand_down_bias"] = torch.empty(m).uniform_(-1, 1) / math.sqrt(n)
        values["lorand_up_bias"] = torch.empty(n).uniform_(-1, 1) / math.sqrt(m)
        return values

    def adapter_output(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        """Compute W_up σ(W_down h + b_down) + b_up of h = base_out."""
        # The factors one after the other: far less work than with the two projections made first.
        K = self.lorand_K[adapter]
        h = self.adapter_input(adapter, base_out)
        inner = self._through(h, self.lorand_down_P[adapter] @ K, self.lorand_down_Q[adapter])
        inner = gelu(inner + self.lorand_down_bias[adapter])
        out = self._through(inner, self.lorand_up_P[adapter] @ K, self.lorand_up_Q[adapter])
        changed: Tensor = out + self.lorand_up_bias[adapter]
        return changed

    @staticmethod
    def _through(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Compute x Σ_i left_i right_i: (..., n) -> (..., m)."""
        return x @ left.transpose(0, 1).flatten(1) @ right.flatten(0, 1)


class LorandModel(AdapterModel, config=LorandConfig, layer=LorandLinear):
    """Put LoRand adapters on a model."""

    target_module_mapping = SUBLAYER_OUTPUTS
