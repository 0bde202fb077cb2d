"""Freeze one factor of LoRA: Asymmetric LoRA.

Zhu et al., arXiv 2402.16842, section 5.

    h = W0 x + b + (α/r) B A x

    A      (r, n_in)    `asymlora_A` where it is trained, `asymlora_frozen_A` where it is frozen
    B      (n_out, r)   `asymlora_B`, `asymlora_frozen_B`

freeze A (the method): A has orthonormal rows and is frozen; B is trained and starts at 0.
freeze B (the paper's control): B has orthonormal columns and is frozen; A is trained and starts at 0.
frozen_init orthonormal: the frozen factor is Haar distributed. svd: it holds the r leading singular vectors of W0,
    the right ones (V) as rows of A, the left ones (U) as columns of B.

Either way step 0 is the base model's output to the last bit. The frozen factor is saved with the adapter.

Trained values per matrix: n_out r (freeze A) or n_in r (freeze B). RoBERTa-base, query and value, r = 8: 147,456.

Where the paper's code (Jiacheng-Zhu-AIML/AsymmetryLoRA) differs, this is the paper's method:
* `STRATEGY_TO_RULE_func` reads "A_rand_hB_zero" by position, as (B, A), and so freezes a random B and trains A, the
  opposite of its README. Here the field names the factor.
* For `V` it takes columns of Vᵀ, which are not singular vectors. Here the rows of A are the vectors.
* Its random matrix is uniform on ±0.5 before the SVD. Haar is what "random orthonormal" means.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symlora.adapters.config import LowRankConfig, one_of, setting
from symlora.adapters.factors import FactorLayer, truncated_svd, zeros
from symlora.adapters.tuner import AdapterModel


@dataclass
class AsymLoraConfig(LowRankConfig, method="asymlora"):
    """Configure Asymmetric LoRA."""

    freeze: str = setting("A", "Factor that is not trained: A or B.", one_of("A", "B"))  # the paper's finding
    frozen_init: str = setting(
        "orthonormal", "Frozen factor: orthonormal (random) or svd (of W0).", one_of("orthonormal", "svd")
    )


class AsymLoraLinear(FactorLayer):
    """Adapt a linear layer by a LoRA with one frozen factor."""

    adapter_layer_names = ("asymlora_A", "asymlora_B")
    frozen_layer_names = ("asymlora_frozen_A", "asymlora_frozen_B")

    def initial_values(self, config: AsymLoraConfig, r: int) -> dict[str, Tensor]:
        shapes = {"A": (r, self.in_features), "B": (self.out_features, r)}
        if config.frozen_init == "svd":
            U, _, Vh = truncated_svd(self.original_weight(), r)
            frozen = Vh if config.freeze == "A" else U
        else:  # orthonormal rows of a wide matrix, orthonormal columns of a tall one
            frozen = nn.init.orthogonal_(torch.empty(shapes[config.freeze]))
        other = "B" if config.freeze == "A" else "A"
        return {f"asymlora_{other}": zeros(config, *shapes[other]), f"asymlora_frozen_{config.freeze}": frozen}

    def factors(self, adapter: str) -> tuple[Tensor, ...]:
        B = self.asymlora_B if adapter in self.asymlora_B else self.asymlora_frozen_B
        A = self.asymlora_A if adapter in self.asymlora_A else self.asymlora_frozen_A
        return B[adapter], A[adapter]


class AsymLoraModel(AdapterModel, config=AsymLoraConfig, layer=AsymLoraLinear):
    """Put Asymmetric LoRA on a model's target modules."""
