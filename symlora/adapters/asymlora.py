"""Asymmetric LoRA: LoRA with one factor frozen (Zhu et al., arXiv 2402.16842, section 5).

    h = W0 x + b + (α/r) B A x

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W0, b  (n_out, n_in), (n_out)      its frozen weight and bias
    A      (r, n_in)    `asymlora_A` where it is trained, `asymlora_frozen_A` where it is frozen
    B      (n_out, r)   `asymlora_B`, `asymlora_frozen_B`
    α, r                scale and rank

freeze A (the method): A has orthonormal rows and stays; B is trained from 0.
freeze B (the paper's control): B has orthonormal columns and stays; A is trained from 0.
frozen_init orthonormal: the frozen factor is Haar distributed. svd: it holds the r leading singular vectors of W0,
    the right ones (V) as rows of A, the left ones (U) as columns of B.

Either way step 0 is the base model's output to the last bit. The frozen factor is saved with the adapter.

Trained values per matrix: n_out r (freeze A) or n_in r (freeze B). RoBERTa-base, query and value, r = 8: 147,456.

Where the code of the paper (Jiacheng-Zhu-AIML/AsymmetryLoRA) says other things, this is the paper's method:
* `STRATEGY_TO_RULE_func` reads "A_rand_hB_zero" by position, as (B, A) and not by the letters: what its README calls
  "A random and frozen, B from zero and trained" freezes a random B and trains A. Here the field names the factor.
* `V` is the third result of `torch.linalg.svd`, which is Vᵀ, and A takes its first r columns: not singular vectors,
  and for "V" of W0 no more than coordinates of all of them. Here the rows of A are the vectors.
* its random matrix is uniform on ±0.5 before the SVD; Haar is what "random orthonormal" means. Both are orthonormal.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig
from symlora.adapters.svd import truncated_svd


@dataclass
class AsymLoraConfig(LowRankConfig):
    """Configuration of Asymmetric LoRA: the fields of `LowRankConfig` and two more.

    Args:
        freeze: the factor that is not trained, "A" or "B".
        frozen_init: where it comes from, "orthonormal" (random) or "svd" (of W0).

    Raises:
        ValueError: as `LowRankConfig`; or a field is none of its choices.
    """

    method: ClassVar[str] = "asymlora"

    freeze: str = field(default="A", metadata={"help": "Factor that is not trained: A or B."})  # the paper's finding
    frozen_init: str = field(default="orthonormal", metadata={"help": "Frozen factor: orthonormal or svd."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("freeze", ("A", "B")), ("frozen_init", ("orthonormal", "svd"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"asymlora: {name} must be {' or '.join(choices)}, got {getattr(self, name)!r}")

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return self.r * (out_features if self.freeze == "A" else in_features)


class AsymLoraLinear(AdapterLayer):
    """A linear layer with LoRA adapters of which one factor is frozen; see the top of this file."""

    adapter_layer_names = ("asymlora_A", "asymlora_B")
    frozen_layer_names = ("asymlora_frozen_A", "asymlora_frozen_B")
    asymlora_A: nn.ParameterDict
    asymlora_B: nn.ParameterDict
    asymlora_frozen_A: BufferDict
    asymlora_frozen_B: BufferDict

    def start(self, config: AsymLoraConfig, r: int) -> dict[str, Tensor]:
        shapes = {"A": (r, self.in_features), "B": (self.out_features, r)}
        if config.frozen_init == "svd":
            U, _, Vh = truncated_svd(self.original_weight(), r)
            frozen = Vh if config.freeze == "A" else U
        else:  # orthonormal rows of a wide matrix, orthonormal columns of a tall one
            frozen = nn.init.orthogonal_(torch.empty(shapes[config.freeze]))
        other = "B" if config.freeze == "A" else "A"
        trained = torch.zeros(shapes[other]) if config.init_weights else torch.randn(shapes[other])
        return {f"asymlora_{other}": trained, f"asymlora_frozen_{config.freeze}": frozen}

    def factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """A (r, n_in) and B (n_out, r)."""
        A = self.asymlora_A[adapter] if adapter in self.asymlora_A else self.asymlora_frozen_A[adapter]
        B = self.asymlora_B[adapter] if adapter in self.asymlora_B else self.asymlora_frozen_B[adapter]
        return A, B

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        A, B = self.factors(adapter)
        return self.adapter_input(adapter, x) @ A.mT @ B.mT * self.scaling[adapter]

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/r) B A, (n_out, n_in)."""
        A, B = self.factors(adapter)
        return B @ A * self.scaling[adapter]


class AsymLoraModel(AdapterModel):
    """A model with Asymmetric LoRA on its target modules."""

    prefix = "asymlora_"
    tuner_layer_cls = AsymLoraLinear
