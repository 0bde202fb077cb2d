"""Add a symmetric low-rank matrix to a square linear layer: SymLoRA.

Panoutsos, Santos and Figueiredo, arXiv 2504.03719. The forward pass is `SymLoraLinear.combine` below.

    h = λ (W0 x) + b + (α/r) Q diag(Λ) Qᵀ x

    x, h   (..., n)   input and output of a square linear layer
    W0, b  (n, n), (n)   its frozen weight and bias; λ does not scale the bias
    Q      (n, r)     `symlora_Q`
    Λ      (r)        `symlora_diag`, of either sign
    λ      (1)        `symlora_lambda`, one per adapted matrix
    α, r              scale and rank; the paper has α = r, "just as in LoRA"

The paper does not give initial values. With ours, the output at step 0 is exactly the base model's:

    Λ = 0, λ = 1, Q ~ N(0, init_std²), init_std = 0.5

Q = 0 would do so too but could never train: Q's gradient is proportional to ΛQ, and Λ's is quadratic in Q (a test
shows it). The Gaussian is LoRA's for its A (arXiv 2106.09685 §4.1). Its scale matters more than LoRA's does: Λ has r
values where LoRA's B has nr, and a step of AdamW moves each value by the learning rate, so that the first step changes
‖ΔW‖ by lr · n · init_std² · √r here and by lr · √(n r / 3) there. At variance 1/n that is √(n/3) times less (16 for
RoBERTa-base). 0.5 was the best of the scales compared on our demo tasks, with one seed each (docs/log.md); on real CoLA
0.05 and 0.5 did equally well.

Starts from the eigenvectors v_i, e_i of W0's symmetric part (W0 + W0ᵀ)/2 are ours, after PiSSA (arXiv 2404.02948) and
MiLoRA (arXiv 2406.09044): `init_weights` "eigen_largest" or "eigen_smallest" takes the r with the largest or smallest
|e_i|, as columns Q = c v_i of the length c = init_std √n that a column has otherwise, and Λ = e_i r/(α c²). As there,
the start is subtracted, so that step 0 is the base model's output up to rounding. But W0 itself is unchanged: the start
is stored next to it (`symlora_start_Q`, `symlora_start_diag`, frozen), and the saved adapter fits the published W0.

    h = λ (W0 x) + b + (α/r) (Q diag(Λ) Qᵀ - Q_start diag(Λ_start) Q_startᵀ) x

Trained values per matrix: (n + 1) r + 1, or (n + 1) r without λ. RoBERTa-base, query and value, r = 8: 147,672.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symlora.adapters.config import YES_OR_NO, LowRankConfig, number, setting
from symlora.adapters.factors import BaseScaleLayer, zeros
from symlora.adapters.tuner import AdapterModel

EIGEN = ("eigen_largest", "eigen_smallest")


@dataclass
class SymLoraConfig(LowRankConfig, method="symlora"):
    """Configure SymLoRA."""

    init_weights: bool | str = setting(  # type: ignore[assignment]
        True,
        "As in every method; or eigen_largest, eigen_smallest: start from eigenvectors of W0's symmetric part.",
        ("True, False, eigen_largest or eigen_smallest", lambda value: isinstance(value, bool) or value in EIGEN),
    )
    init_std: float = setting(  # top of this file
        0.5,
        "Standard deviation of Q at the start.",
        number("a finite number above 0 (Q = 0 never moves)", lambda value: 0 < value < math.inf),
    )
    train_lambda: bool = setting(  # the paper's
        True, "Train λ, one scale of W0 per matrix. False: there is no λ, and W0 is not scaled.", YES_OR_NO
    )


class SymLoraLinear(BaseScaleLayer):
    """Adapt a square linear layer by SymLoRA."""

    adapter_layer_names = ("symlora_Q", "symlora_diag", "symlora_lambda")
    frozen_layer_names = ("symlora_start_Q", "symlora_start_diag")
    needs_square = True

    def initial_values(self, config: SymLoraConfig, r: int) -> dict[str, Tensor]:
        values = {"symlora_Q": torch.randn(self.in_features, r) * config.init_std, "symlora_diag": zeros(config, r)}
        if config.init_weights in EIGEN:
            symmetric = self.original_weight().detach().to(self.merge_dtype)
            e, v = torch.linalg.eigh((symmetric + symmetric.mT) / 2)
            places = e.abs().argsort(descending=config.init_weights == "eigen_largest")[:r]
            length, (_, scale) = config.init_std * math.sqrt(self.in_features), config.rank_and_scale(self.module_name)
            Q, diag = length * v[:, places], e[places] / (scale * length**2)
            values = {"symlora_Q": Q, "symlora_diag": diag}
            values |= {"symlora_start_Q": Q.clone(), "symlora_start_diag": diag.clone()}
        return values | {"symlora_lambda": self.lambda_start(config)} if config.train_lambda else values

    def factors(self, adapter: str) -> tuple[Tensor, ...]:
        Q, diag = self.symlora_Q[adapter], self.symlora_diag[adapter]
        if adapter in self.symlora_start_Q:  # it is subtracted: as further columns, with the opposite sign
            Q = torch.cat([Q, self.symlora_start_Q[adapter].to(Q.dtype)], dim=1)
            diag = torch.cat([diag, -self.symlora_start_diag[adapter].to(Q.dtype)])
        return Q, diag, Q.mT

    def combine(self, adapters: Sequence[str], x: Tensor, base_out: Tensor) -> Tensor:
        """Compute h = λ (W0 x) + b + (α/r) Q diag(Λ) Qᵀ x.

        Written out here for the reader; a test checks that it equals, bit for bit, what follows from `factors` and λ.

        Args:
            adapters: Names of the active adapters, usually one; the changes of several add up.
            x: (..., n).
            base_out: W0 x + b, (..., n).
        """
        h = base_out
        lam = self.joint_lambda(adapters)  # λ, of several adapters 1 + Σ (λ_k - 1); None where none has one
        if lam is not None:
            # lerp is b + λ (out - b) near λ = 0 and out - (1 - λ)(out - b) near λ = 1: no digits lost at either end,
            # base_out itself at λ = 1, and one pass. In λ's dtype, so that a bfloat16 base does not round λ.
            bias: Tensor | None = getattr(self.get_base_layer(), "bias", None)
            h = h.to(lam.dtype)
            h = lam * h if bias is None else torch.lerp(bias.to(lam.dtype), h, lam)  # λ (W0 x) + b
        for adapter in adapters:
            Q, diag, _ = self.factors(adapter)
            low = self.adapter_input(adapter, x) @ Q  # Qᵀ x, after dropout: (..., r)
            h = h + (low * (self.scaling[adapter] * diag)) @ Q.mT  # + (α/r) Q diag(Λ) Qᵀ x
        return h


class SymLoraModel(AdapterModel, config=SymLoraConfig, layer=SymLoraLinear):
    """Put SymLoRA on a model's target modules."""
