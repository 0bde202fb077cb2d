"""Add λ, a trained scale of W0, to a product of factors.

    h = λ (W0 x) + b + (α/r) F_1 F_2 … F_m x

    λ      (1)       one per adapted matrix; it starts at 1 and does not scale the bias

SymLoRA and LoRA + λ have it in common. From SymLoRA (arXiv 2504.03719, section 3).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from symlora.adapters.config import AdapterConfig
from symlora.adapters.factors import FactorLayer


class BaseScaleLayer(FactorLayer):
    """Adapt a linear layer by factors and λ.

    The container whose name ends in `_lambda`, which symlora.training.optimizer knows, is empty where λ is not trained.
    λ is float32 even on a bfloat16 base, unless `autocast_adapter_dtype` is False: near 1 a bfloat16 moves in steps of
    0.004 (below) and 0.008 (above), more than an optimizer step.
    """

    @property
    def lambdas(self) -> nn.ParameterDict:
        """Return λ by adapter name."""
        container: nn.ParameterDict
        (container,) = (getattr(self, name) for name in self.adapter_layer_names if name.endswith("_lambda"))
        return container

    def lambda_start(self, config: AdapterConfig) -> Tensor:
        """Return λ = 1, or away from it without `init_weights`."""
        # (1) and not (): sharded training takes no parameter without a dimension
        return torch.ones(1) if config.init_weights else 1 + 0.1 * (0.5 + torch.rand(1))

    def base_scale(self, adapter: str) -> float:
        """Return λ of this adapter; 1.0 where it has none."""
        return float(self.lambdas[adapter].detach()) if adapter in self.lambdas else 1.0

    def joint_lambda(self, adapters: Sequence[str]) -> Tensor | None:
        """Return 1 + Σ (λ_k - 1) over these adapters; None without any λ."""
        found: list[Tensor] = [self.lambdas[name] for name in adapters if name in self.lambdas]
        for other in found[1:]:
            found[0] = found[0] + (other - 1)
        return found[0] if found else None

    def combine(self, adapters: Sequence[str], x: Tensor, base_out: Tensor) -> Tensor:
        """Compute λ (W0 x) + b + Σ (α/r) F_1 … F_m x."""
        bias: Tensor | None = getattr(self.get_base_layer(), "bias", None)
        lam = self.joint_lambda(adapters)
        if lam is not None:  # why lerp: see SymLoraLinear.combine
            base_out = base_out.to(lam.dtype)
            base_out = lam * base_out if bias is None else torch.lerp(bias.to(lam.dtype), base_out, lam)
        return super().combine(adapters, x, base_out)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Compute (λ - 1) W0 + (α/r) F_1 … F_m in `merge_dtype`."""
        delta = self.factor_product(adapter, self.merge_dtype)
        if adapter in self.lambdas:
            delta = delta + (self.lambdas[adapter].to(delta.dtype) - 1) * self.original_weight().to(delta.dtype)
        return delta

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Tell whether the change is a LoRA's: only without λ."""
        return adapter_name not in self.lambdas
