"""Train a small matrix between frozen singular vectors: LoRA-XS.

Bałazy et al., arXiv 2405.17604.

    h = W0 x + b + (α/r) B R A x,   A = Σ_r V_rᵀ,   B = U_r,   where W0 = U Σ Vᵀ

    A      (r, n_in)    `loraxs_A`, frozen: the leading right singular vectors of W0 times their singular values
    B      (n_out, r)   `loraxs_B`, frozen: the leading left singular vectors
    R      (r, r)       `loraxs_R`

Only R is trained. It starts as R ~ N(0, init_std²) with init_std = 1e-5, so step 0 is nearly the base model's output,
and not to the last bit: the weight is off by at most about (α/r) · 1e-5 · 2 √r · σ₁ (σ₁, the largest singular value).
init_std = 0 starts at the base itself; R moves from there as well, since its gradient does not depend on R.

Trained values per matrix: r². RoBERTa-base, query and value, r = 8: 1,536.

Source: the authors' code, MohammadrezaBanaei/LoRA-XS: `utils/initialization_utils.py` (factors, 1e-5 as a standard
deviation; it works on W0ᵀ, so that its U Σ is Aᵀ here), `main_glue.py` (α = 16 at every rank). The paper's text could
not be read here. The code's first version takes a randomised SVD (sklearn), a later one an exact SVD, as here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from symlora.adapters.config import NOT_NEGATIVE, POSITIVE, LowRankConfig, setting
from symlora.adapters.factors import FactorLayer, truncated_svd
from symlora.adapters.tuner import AdapterModel


@dataclass
class LoraXsConfig(LowRankConfig, method="loraxs"):
    """Configure LoRA-XS."""

    alpha: float = setting(16, "The low-rank part is multiplied by alpha / r.", POSITIVE)  # main_glue.py
    init_std: float = setting(1e-5, "Standard deviation of R at the start.", NOT_NEGATIVE)  # the code's


def start_between(weight: Tensor, r: int, init_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Make A = Σ_r V_rᵀ, R ~ N(0, init_std²) and B = U_r."""
    U, sigma, Vh = truncated_svd(weight, r)
    return sigma[:, None] * Vh, torch.randn(r, r) * init_std, U


class LoraXsLinear(FactorLayer):
    """Adapt a linear layer by LoRA-XS."""

    adapter_layer_names = ("loraxs_R",)
    frozen_layer_names = ("loraxs_A", "loraxs_B")

    def initial_values(self, config: LoraXsConfig, r: int) -> dict[str, Tensor]:
        A, R, B = start_between(self.original_weight(), r, config.init_std if config.init_weights else 1.0)
        return {"loraxs_A": A, "loraxs_R": R, "loraxs_B": B}

    factor_names = ("loraxs_B", "loraxs_R", "loraxs_A")


class LoraXsModel(AdapterModel, config=LoraXsConfig, layer=LoraXsLinear):
    """Put LoRA-XS on a model's target modules."""
