"""Derive an adapter's output and its merged weight from the same factors."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from symlora.adapters.config import AdapterConfig
from symlora.adapters.layer import AdapterLayer


class FactorLayer(AdapterLayer):
    """Adapt a linear layer by a product of factors.

    ΔW = (α/r) F_1 F_2 … F_m. A method gives the factors once: their containers, or `factors` itself. The adapter's
    output and the merged weight follow from them, so that the two cannot disagree.
    """

    converts_to_lora = True
    factor_names: ClassVar[tuple[str, ...]] = ()  # containers of F_1 to F_m, left to right

    def factors(self, adapter: str) -> Sequence[Tensor]:
        """Return F_1 to F_m, left to right.

        A vector stands for a diagonal matrix. α/r is not among them: it multiplies the first vector, where there is
        one, and else the product.
        """
        return [getattr(self, name)[adapter] for name in self.factor_names]

    def adapter_output(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        """Compute (α/r) F_1 … F_m x, factor by factor."""
        factors, scale = self._scaled(self.factors(adapter), self.scaling[adapter])
        out = self.adapter_input(adapter, x)
        for factor in reversed(factors):
            out = out * factor if factor.dim() == 1 else out @ factor.mT
        return out if scale == 1 else out * scale

    def factor_product(self, adapter: str, dtype: torch.dtype) -> Tensor:
        """Compute (α/r) F_1 … F_m, (n_out, n_in), in this dtype."""
        factors, scale = self._scaled([f.to(dtype) for f in self.factors(adapter)], self.scaling[adapter])
        out = torch.diag(factors[0]) if factors[0].dim() == 1 else factors[0]
        for factor in factors[1:]:
            out = out * factor if factor.dim() == 1 else out @ factor
        return out if scale == 1 else out * scale

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Compute (α/r) F_1 … F_m, (n_out, n_in), in `merge_dtype`."""
        return self.factor_product(adapter, self.merge_dtype)

    @staticmethod
    def _scaled(factors: Sequence[Tensor], scale: float) -> tuple[list[Tensor], float]:
        """Multiply the first vector by α/r; else return α/r."""
        first = next((i for i, factor in enumerate(factors) if factor.dim() == 1), None)
        if first is None:
            return list(factors), scale
        return [*factors[:first], scale * factors[first], *factors[first + 1 :]], 1.0


class BaseScaleLayer(FactorLayer):
    """Add λ, a trained scale of W0, to a product of factors.

        h = λ (W0 x) + b + (α/r) F_1 F_2 … F_m x

    λ has shape (1), one per adapted matrix; it starts at 1 and does not scale the bias. SymLoRA (arXiv 2504.03719,
    section 3) and LoRA + λ have it. The name of its container ends in `_lambda`, which symlora.training.optimizer
    knows; it is empty where λ is not trained. λ is float32 even on a bfloat16 base, unless `autocast_adapter_dtype` is
    False: near 1 a bfloat16 moves in steps of 0.004 (below) and 0.008 (above), more than an optimizer step.
    """

    @property
    def lambdas(self) -> nn.ParameterDict:
        """Return λ by adapter name."""
        container: nn.ParameterDict
        (container,) = (getattr(self, name) for name in self.adapter_layer_names if name.endswith("_lambda"))
        return container

    def lambda_start(self, config: AdapterConfig) -> Tensor:
        """Return λ = 1, or away from it without `init_weights`."""
        # shape (1) and not (): sharded training does not accept 0-dimensional parameters
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


def zeros(config: AdapterConfig, *shape: int) -> Tensor:
    """Make zeros, or N(0, 1) values where `init_weights` is False."""
    return torch.zeros(shape) if config.init_weights else torch.randn(shape)


def kaiming(*shape: int) -> Tensor:
    """Draw a matrix as LoRA's A: uniform within ±1/√(number of columns)."""
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5))


@torch.no_grad()
def truncated_svd(weight: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute U, σ and Vᵀ of the r largest singular values.

    U diag(σ) Vᵀ, (n_out, r), (r) and (r, n_in), is the best approximation of rank r. All are in the weight's dtype or
    float32, whichever is wider. The signs of the vectors are LAPACK's or cuSOLVER's: keep the factors with the adapter.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    U, sigma, Vh = torch.linalg.svd(wide, full_matrices=False)
    return U[:, :r].contiguous(), sigma[:r].contiguous(), Vh[:r].contiguous()
