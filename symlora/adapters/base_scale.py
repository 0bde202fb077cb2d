"""λ, one trained scale of W0 per adapted matrix, beside a low-rank part: what SymLoRA and LoRA + λ have in common.

    h = λ (W0 x) + b + (low-rank part) x

    λ      (1)       one per adapted matrix; it starts at 1 and does not scale the bias
    W0, b  (n_out, n_in), (n_out)   frozen weight and bias

From SymLoRA (arXiv 2504.03719, section 3).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer
from symlora.adapters.config import AdapterConfig


class BaseScaleLayer(AdapterLayer):
    """A linear layer whose adapters have a λ, or leave their `lambda_name` container empty.

    A method names the container in `lambda_name` and says its `low_rank_weight`; the names end in `_lambda`, and
    symlora.training.optimizer knows them.

    With several adapters at work their changes of the weight add: λ is 1 + Σ (λ_k - 1).

    λ is as wide as the other adapter parameters: float32 even on a bfloat16 base, unless `autocast_adapter_dtype` is
    False. Near 1 a bfloat16 moves in steps of 0.004 (below) and 0.008 (above), more than an optimizer step.
    """

    lambda_name: ClassVar[str]

    @abstractmethod
    def low_rank_weight(self, adapter: str, dtype: torch.dtype) -> Tensor:
        """The low-rank part of one adapter with its factor α/r, (n_out, n_in), computed in this dtype."""

    def lambda_start(self, config: AdapterConfig) -> Tensor:
        """λ = 1, or away from it where `init_weights` is False."""
        # (1) and not (): sharded training takes no parameter without a dimension
        return torch.ones(1) if config.init_weights else 1 + 0.1 * (0.5 + torch.rand(1))

    def base_scale(self, adapter: str) -> float:
        """λ of this adapter; 1.0 where it has none."""
        lambdas: nn.ParameterDict = getattr(self, self.lambda_name)
        return float(lambdas[adapter].detach()) if adapter in lambdas else 1.0

    def adapted(self, adapters: Sequence[str], x: Tensor, base_out: Tensor) -> Tensor:
        container: nn.ParameterDict = getattr(self, self.lambda_name)
        lambdas = [container[name] for name in adapters if name in container]
        if lambdas:
            total = lambdas[0]
            for further in lambdas[1:]:
                total = total + (further - 1)
            # lerp is b + λ (out - b) near λ = 0 and out - (1 - λ)(out - b) near λ = 1: no digits lost at either end,
            # base_out itself at λ = 1, and one pass. In λ's dtype, so that a bfloat16 base does not round λ.
            base_out = base_out.to(total.dtype)
            bias: Tensor | None = getattr(self.get_base_layer(), "bias", None)
            base_out = base_out * total if bias is None else torch.lerp(bias.to(total.dtype), base_out, total)
        return super().adapted(adapters, x, base_out)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(λ - 1) W0 + the low-rank part, (n_out, n_in), in float32 or wider: all that the adapter adds to W0."""
        weight = self.original_weight()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        delta = self.low_rank_weight(adapter, dtype)
        lambdas: nn.ParameterDict = getattr(self, self.lambda_name)
        if adapter in lambdas:
            delta = delta + (lambdas[adapter].to(dtype) - 1) * weight.to(dtype)
        return delta

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Only without λ is the change of low rank, and so a LoRA."""
        return adapter_name not in getattr(self, self.lambda_name)
