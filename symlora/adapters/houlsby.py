"""Bottleneck adapters after both halves of a layer (Houlsby et al. 2019, arXiv 1902.00751, section 2.1).

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
base model's, not equal to it. Section 3.6 of the paper speaks of 1e-2 (from memory, the paper could not be read here),
and says that smaller ones do as well.

Targets: the output projection of attention and that of the feed-forward, in every layer. The authors apply the adapter
after the dropout that follows the projection, here it comes before; without dropout, as in evaluation, that is the
same. Their code also trains every LayerNorm: `modules_to_save: [LayerNorm]` in the method's `peft_config` does so.

Not linear in x, so that nothing can be merged.

Trained values per projection: 2 n m + n + m. RoBERTa-base: 313,536 at m = 8 and 2,379,264 at m = 64; the 25 LayerNorms
add 38,400.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import SUBLAYER_OUTPUTS, AdapterConfig, check_whole


@dataclass
class HoulsbyConfig(AdapterConfig):
    """Configuration of bottleneck adapters: the fields of `AdapterConfig` and two more.

    Raises:
        ValueError: as `AdapterConfig`; or one of these is out of range.

    Args:
        bottleneck_size: inner width m.
        init_std: standard deviation of the matrices at the start.
    """

    method: ClassVar[str] = "houlsby"

    bottleneck_size: int = field(default=64, metadata={"help": "Inner width."})  # `feedforward_adapter`'s default
    init_std: float = field(default=1e-3, metadata={"help": "Standard deviation at the start."})  # the same

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.method, "bottleneck_size", self.bottleneck_size)
        if not isinstance(self.init_std, (int, float)) or not 0 < self.init_std < math.inf:
            raise ValueError(f"houlsby: init_std must be a finite number above 0, got {self.init_std!r}")

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return 2 * out_features * self.bottleneck_size + out_features + self.bottleneck_size


class HoulsbyLinear(AdapterLayer):
    """A linear layer with bottleneck adapters on its output; see the top of this file.

    Several adapters at work follow one another, in the order in which they were switched on.
    """

    adapter_layer_names = ("houlsby_down", "houlsby_down_bias", "houlsby_up", "houlsby_up_bias")
    houlsby_down: nn.ParameterDict
    houlsby_down_bias: nn.ParameterDict
    houlsby_up: nn.ParameterDict
    houlsby_up_bias: nn.ParameterDict

    def start(self, config: HoulsbyConfig, r: int) -> dict[str, Tensor]:
        n, m = self.out_features, config.bottleneck_size
        std = config.init_std if config.init_weights else 0.5
        down, up = torch.empty(m, n), torch.empty(n, m)
        for matrix in (down, up):
            nn.init.trunc_normal_(matrix, std=std, a=-2 * std, b=2 * std)
        return {
            "houlsby_down": down,
            "houlsby_down_bias": torch.zeros(m),
            "houlsby_up": up,
            "houlsby_up_bias": torch.zeros(n),
        }

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        inner = self.adapter_input(adapter, base_out) @ self.houlsby_down[adapter].mT + self.houlsby_down_bias[adapter]
        out: Tensor = gelu(inner, approximate="tanh") @ self.houlsby_up[adapter].mT + self.houlsby_up_bias[adapter]
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """There is none.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("houlsby: an adapter with a GELU inside cannot be merged into a weight")


class HoulsbyModel(AdapterModel):
    """A model with bottleneck adapters. Made by `peft.get_peft_model(model, HoulsbyConfig())`."""

    prefix = "houlsby_"
    tuner_layer_cls = HoulsbyLinear
    target_module_mapping = SUBLAYER_OUTPUTS
