"""Put a bottleneck after both halves of a layer: Houlsby's adapters.

Houlsby et al. 2019, arXiv 1902.00751, section 2.1.

    h = W0 x + b
    out = h + W_up σ(W_down h + b_down) + b_up

    x, h      (..., n_in), (..., n)   input and output of the projection that ends attention or feed-forward
    W_down    (m, n)    `houlsby_down`
    b_down    (m)       `houlsby_down_bias`
    W_up      (n, m)    `houlsby_up`
    b_up      (n)       `houlsby_up_bias`
    σ         GELU, by its tanh formula as in the authors' code
    m         `bottleneck_size`

All four train. Start, as in the authors' code (google-research/adapter-bert, modeling.py, `feedforward_adapter`):
matrices N(0, init_std²) cut off at two standard deviations, init_std = 1e-3, biases 0. The output at step 0 is near the
base model's, not equal to it. (Section 3.6 of the paper speaks of 1e-2, from memory.)

Targets: the output projection of attention and that of the feed-forward, in every layer. The authors apply the adapter
after the dropout that follows the projection, here it comes before; without dropout, as in evaluation, that is the
same. Their code also trains every LayerNorm: `modules_to_save: [LayerNorm]` in the method's `peft_config` does so.

Not linear in x, so that nothing can be merged.

Trained values per projection: 2 n m + n + m. RoBERTa-base: 313,536 at m = 8 and 2,379,264 at m = 64; the 25 LayerNorms
add 38,400.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from symlora.adapters.config import POSITIVE, SUBLAYER_OUTPUTS, WHOLE, AdapterConfig, setting
from symlora.adapters.layer import AdapterLayer
from symlora.adapters.tuner import AdapterModel


@dataclass
class HoulsbyConfig(AdapterConfig, method="houlsby"):
    """Configure bottleneck adapters."""

    bottleneck_size: int = setting(64, "Inner width m.", WHOLE)  # `feedforward_adapter`'s default
    init_std: float = setting(1e-3, "Standard deviation of the matrices at the start.", POSITIVE)  # the same


class HoulsbyLinear(AdapterLayer):
    """Put bottleneck adapters on a linear layer's output; several add up."""

    adapter_layer_names = ("houlsby_down", "houlsby_down_bias", "houlsby_up", "houlsby_up_bias")

    def initial_values(self, config: HoulsbyConfig, r: int) -> dict[str, Tensor]:
        n, m = self.out_features, config.bottleneck_size
        std = config.init_std if config.init_weights else 0.5
        down, up = torch.empty(m, n), torch.empty(n, m)
        for matrix in (down, up):
            nn.init.trunc_normal_(matrix, std=std, a=-2 * std, b=2 * std)
        return dict(zip(self.adapter_layer_names, (down, torch.zeros(m), up, torch.zeros(n)), strict=True))

    def adapter_output(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        """Compute W_up σ(W_down h + b_down) + b_up of h = base_out."""
        inner = self.adapter_input(adapter, base_out) @ self.houlsby_down[adapter].mT + self.houlsby_down_bias[adapter]
        out: Tensor = gelu(inner, approximate="tanh") @ self.houlsby_up[adapter].mT + self.houlsby_up_bias[adapter]
        return out


class HoulsbyModel(AdapterModel, config=HoulsbyConfig, layer=HoulsbyLinear):
    """Put bottleneck adapters on a model."""

    target_module_mapping = SUBLAYER_OUTPUTS
