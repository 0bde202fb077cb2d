"""LoRA-XS: a small trained matrix between the frozen singular vectors of W0 (Bałazy et al., arXiv 2405.17604).

    h = W0 x + b + (α/r) B R A x,   A = Σ_r V_rᵀ,   B = U_r,   where W0 = U Σ Vᵀ

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W0, b  (n_out, n_in), (n_out)      its frozen weight and bias
    A      (r, n_in)    `loraxs_A`, frozen: the leading right singular vectors of W0 times their singular values
    B      (n_out, r)   `loraxs_B`, frozen: the leading left singular vectors
    R      (r, r)       `loraxs_R`
    α, r                scale and rank

Only R is trained. It starts as R ~ N(0, init_std²) with init_std = 1e-5, so step 0 is nearly the base model's output,
and not to the last bit: the weight is off by at most about (α/r) · 1e-5 · 2 √r · σ₁ (σ₁, the largest singular value).
init_std = 0 starts at the base itself; R moves from there as well, since its gradient does not depend on R.

Trained values per matrix: r². RoBERTa-base, query and value, r = 8: 1,536.

Source: the authors' code, MohammadrezaBanaei/LoRA-XS: `utils/initialization_utils.py` (factors, 1e-5 as a standard
deviation; it works on W0ᵀ, so that its U Σ is Aᵀ here), `main_glue.py` (α = 16 at every rank). The paper's text could
not be read here. The code takes a randomised SVD (sklearn) in its first version and an exact one later; ours is exact.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig
from symlora.adapters.svd import truncated_svd


@dataclass
class LoraXsConfig(LowRankConfig):
    """Configuration of LoRA-XS: the fields of `LowRankConfig` and one more.

    Args:
        init_std: standard deviation of R at the start.

    Raises:
        ValueError: as `LowRankConfig`; or init_std is not a finite number of at least 0.
    """

    method: ClassVar[str] = "loraxs"

    alpha: float = field(default=16, metadata={"help": "The low-rank part is multiplied by alpha / r."})  # main_glue.py
    init_std: float = field(default=1e-5, metadata={"help": "Standard deviation of R at the start."})  # the code's

    def __post_init__(self) -> None:
        super().__post_init__()
        check_init_std(self.method, self.init_std)

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return self.r**2


def check_init_std(method: str, init_std: float) -> None:
    """Refuse a standard deviation of R that is none.

    Raises:
        ValueError: it is not a finite number of at least 0.
    """
    if not isinstance(init_std, (int, float)) or not 0 <= init_std < math.inf:
        raise ValueError(f"{method}: init_std must be a finite number of at least 0, got {init_std!r}")


def start_between(weight: Tensor, r: int, init_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """A = Σ_r V_rᵀ (r, n_in), R ~ N(0, init_std²) (r, r) and B = U_r (n_out, r), of a weight (n_out, n_in)."""
    U, sigma, Vh = truncated_svd(weight, r)
    return sigma[:, None] * Vh, torch.randn(r, r) * init_std, U


class LoraXsLinear(AdapterLayer):
    """A linear layer with LoRA-XS adapters; see the top of this file."""

    adapter_layer_names = ("loraxs_R",)
    frozen_layer_names = ("loraxs_A", "loraxs_B")
    loraxs_R: nn.ParameterDict
    loraxs_A: BufferDict
    loraxs_B: BufferDict

    def start(self, config: LoraXsConfig, r: int) -> dict[str, Tensor]:
        A, R, B = start_between(self.original_weight(), r, config.init_std if config.init_weights else 1.0)
        return {"loraxs_A": A, "loraxs_R": R, "loraxs_B": B}

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        A, R, B = self.loraxs_A[adapter], self.loraxs_R[adapter], self.loraxs_B[adapter]
        out: Tensor = self.adapter_input(adapter, x) @ A.mT @ R.mT @ B.mT * self.scaling[adapter]
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/r) B R A, (n_out, n_in)."""
        A, R, B = self.loraxs_A[adapter], self.loraxs_R[adapter], self.loraxs_B[adapter]
        out: Tensor = B @ R @ A * self.scaling[adapter]
        return out


class LoraXsModel(AdapterModel):
    """A model with LoRA-XS on its target modules."""

    prefix = "loraxs_"
    tuner_layer_cls = LoraXsLinear
