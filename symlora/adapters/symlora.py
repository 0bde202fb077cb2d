"""SymLoRA: a symmetric low-rank adapter (Panoutsos, Santos and Figueiredo, arXiv 2504.03719).

    h = λ (W0 x) + b + (α/r) Q diag(Λ) Qᵀ x

    x, h   (..., n)   input and output of a square linear layer
    W0, b  (n, n), (n)   its frozen weight and bias; λ does not scale the bias
    Q      (n, r)     `symlora_Q`
    Λ      (r)        `symlora_diag`, of either sign
    λ      (1)        `symlora_lambda`, one per adapted matrix
    α, r              scale and rank; the paper has α = r, "just as in LoRA"

The paper prints no start. Ours leaves the output of step 0 as the base model's to the last bit:

    Λ = 0, λ = 1, Q ~ N(0, init_std²), init_std = 0.5

Q = 0 would do so too but never move: the gradient of Q is proportional to Λ and to Q, that of Λ to Q twice (a test
shows it). The Gaussian is LoRA's for its A (arXiv 2106.09685 §4.1). Its scale matters more than LoRA's does: Λ has r
values where LoRA's B has nr, and a step of AdamW moves each value by the learning rate, so that the first step changes
‖ΔW‖ by lr · n · init_std² · √r here and by lr · √(n r / 3) there. At variance 1/n that is √(n/3) times less (16 for
RoBERTa-base). 0.5 was the best of the scales compared on our demo tasks, with one seed each (docs/log.md); on real CoLA
0.05 and 0.5 did equally well.

Trained values per matrix: (n + 1) r + 1, or (n + 1) r without λ. RoBERTa-base, query and value, r = 8: 147,672.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from symlora.adapters.base import AdapterModel
from symlora.adapters.base_scale import BaseScaleLayer
from symlora.adapters.config import LowRankConfig


def symmetric_update(
    Q: Float[Tensor, "*batch n r"], diag: Float[Tensor, "*batch r"], scale: float | Tensor = 1.0
) -> Float[Tensor, "*batch n n"]:
    """scale · Q diag(Λ) Qᵀ: symmetric, of rank at most r.

    Args:
        Q: (..., n, r).
        diag: Λ, (..., r).
        scale: α/r.

    Returns:
        (..., n, n).
    """
    return (Q * (scale * diag).unsqueeze(-2)) @ Q.mT


@dataclass
class SymLoraConfig(LowRankConfig):
    """Configuration of SymLoRA: the fields of `LowRankConfig` and two more.

    Raises:
        ValueError: as `LowRankConfig`; or init_std is not a finite number above 0.

    Args:
        init_std: standard deviation of Q at the start.
        train_lambda: train λ. If False there is no λ at all: nothing to train, count or save, and W0 is not scaled.
    """

    method: ClassVar[str] = "symlora"

    init_std: float = field(default=0.5, metadata={"help": "Standard deviation of Q at the start."})  # top of this file
    train_lambda: bool = field(default=True, metadata={"help": "Train one scale of W0 per matrix."})  # the paper's

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.init_std, (int, float)) or not 0 < self.init_std < math.inf:
            raise ValueError(
                f"symlora: init_std must be a finite number above 0 (Q = 0 never moves), got {self.init_std!r}"
            )
        if not isinstance(self.train_lambda, bool):
            raise ValueError(f"symlora: train_lambda must be True or False, got {self.train_lambda!r}")

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return (in_features + 1) * self.r + int(self.train_lambda)


class SymLoraLinear(BaseScaleLayer):
    """A square linear layer with SymLoRA adapters; see the top of this file.

    Raises:
        ValueError: the module is not square, or r > n.
    """

    adapter_layer_names = ("symlora_Q", "symlora_diag", "symlora_lambda")
    lambda_name = "symlora_lambda"
    symlora_Q: nn.ParameterDict
    symlora_diag: nn.ParameterDict
    symlora_lambda: nn.ParameterDict

    def check_shape(self, module: str, r: int) -> None:
        if self.in_features != self.out_features:
            raise ValueError(
                f"SymLoRA needs a square matrix, but the weight of module {module!r} is {self.shape_text}; "
                "choose `target_modules` that map a width to itself, or name this one in `exclude_modules`"
            )
        super().check_shape(module, r)

    def start(self, config: SymLoraConfig, r: int) -> dict[str, Tensor]:
        n = self.in_features
        values = {
            "symlora_Q": torch.randn(n, r) * config.init_std,
            "symlora_diag": torch.zeros(r) if config.init_weights else torch.randn(r),
        }
        if config.train_lambda:
            values["symlora_lambda"] = self.lambda_start(config)
        return values

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        Q, diag = self.symlora_Q[adapter], self.symlora_diag[adapter]
        out: Tensor = (self.adapter_input(adapter, x) @ Q * (self.scaling[adapter] * diag)) @ Q.mT
        return out

    def low_rank_weight(self, adapter: str, dtype: torch.dtype) -> Tensor:
        """(α/r) Q diag(Λ) Qᵀ."""
        Q, diag = self.symlora_Q[adapter].to(dtype), self.symlora_diag[adapter].to(dtype)
        return symmetric_update(Q, diag, self.scaling[adapter])


class SymLoraModel(AdapterModel):
    """A model with SymLoRA on its target modules. Made by `peft.get_peft_model(model, SymLoraConfig())`."""

    prefix = "symlora_"
    tuner_layer_cls = SymLoraLinear
