"""Keep the columns of SymLoRA's Q orthogonal: SymLoRA with orthonormal Q.

A control: does it matter that the columns of SymLoRA's Q are free?

    h = λ (W0 x) + b + (α/r) Q diag(Λ) Qᵀ x,   Qᵀ Q = c² I,   c = init_std √n

Symbols, shapes, the start of Λ and λ: symlora/adapters/symlora.py. What differs is Q: its columns are orthogonal at
the start (Haar distributed) and after every step of the optimizer, and all of the length c that a column of SymLoRA's
Q has at its start (root mean square). So the two methods start at the same scale, take steps of the same size
and differ only in orthogonality; (α/r) c² Λ are the eigenvalues of ΔW, in the basis Q / c. init_std = 1/√n is Qᵀ Q = I.

After the optimizer's step Q goes back by the QR retraction: Q ← c qf(Q), the factor with orthonormal columns of
Q = qf(Q) R where R has a positive diagonal (Absil, Mahony and Sepulchre, Optimization Algorithms on Matrix Manifolds,
2008, section 4.1.1, example 4.1.3). AdamW's averages are not transported with it, and its gradient is not projected
onto the tangent space first: to first order the retraction removes the part that leaves it. The retraction also undoes
what weight decay does to Q's length.

Trained values per matrix, as PEFT counts them: (n + 1) r + 1; r (r + 1) / 2 of them are bound by the constraint.
RoBERTa-base, query and value, r = 8: 147,672.

Source: none; the paper (arXiv 2504.03719, section 3) asks for a symmetric low-rank update and does not constrain Q.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symlora.adapters.symlora import EIGEN, SymLoraConfig, SymLoraLinear, SymLoraModel


@dataclass
class SymLoraOrthonormalConfig(SymLoraConfig, method="symloraorthonormal"):
    """Configure SymLoRA with orthonormal Q, whose columns keep the length init_std √n."""


def orthonormal_columns(Q: Tensor) -> Tensor:
    """Compute qf(Q), (n, r); NaNs stay NaNs."""
    found, upper = torch.linalg.qr(Q.to(torch.promote_types(Q.dtype, torch.float32)))
    signs = torch.ones_like(upper.diagonal()).copysign(upper.diagonal())
    orthonormal: Tensor = (found * signs).to(Q.dtype)
    return orthonormal


class SymLoraOrthonormalLinear(SymLoraLinear):
    """Adapt a square linear layer by SymLoRA with orthogonal Q."""

    def initial_values(self, config: SymLoraConfig, r: int) -> dict[str, Tensor]:
        if config.init_weights in EIGEN:  # orthogonal, and of that length
            return super().initial_values(config, r)
        n = self.in_features
        orthonormal = nn.init.orthogonal_(torch.empty(n, r))
        return super().initial_values(config, r) | {"symlora_Q": config.init_std * math.sqrt(n) * orthonormal}


class SymLoraOrthonormalModel(SymLoraModel, config=SymLoraOrthonormalConfig, layer=SymLoraOrthonormalLinear):
    """Put SymLoRA with orthogonal Q on a model's target modules."""

    prefix = "symlora_"

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Bring every trained Q back to orthogonal columns, in place."""
        for layer in self.tuner_layers():
            for adapter, Q in layer.symlora_Q.items():
                if Q.requires_grad:
                    length = self.peft_config[adapter].init_std * math.sqrt(len(Q))
                    Q.copy_(length * orthonormal_columns(Q))
