"""AdamW as LoRA's GLUE scripts use it, with a choice of what weight decay does to SymLoRA's λ."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from symlora.config import TrainConfig

# Hugging Face's Trainer, under LoRA's scripts: neither biases nor LayerNorm weights decay.
_UNDECAYED = ("bias", "LayerNorm.weight", "layer_norm.weight", "norm.weight")
_LAMBDA = ".symlora_lambda."


class AdamW(torch.optim.AdamW):
    """AdamW (decoupled decay: p ← p - lr·wd·p before the step) with a group for λ.

    `lambda_decay` none: λ does not decay. zero: as every other weight, toward 0, which removes W0 from the layer.
    one: toward the pre-trained model, λ ← λ + lr·wd·(1 - λ), that is, λ - 1 decays.

    Args:
        named: Names and values of what is trained.
        train: Learning rate and decay; betas and epsilon are torch's (0.9, 0.999, 1e-8), as in the Trainer.
        lambda_decay: `none`, `zero` or `one`.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], train: TrainConfig, lambda_decay: str) -> None:
        decayed, undecayed, lambdas = [], [], []
        for name, parameter in named:
            if _LAMBDA in name:
                lambdas.append(parameter)
            elif name.endswith(_UNDECAYED):
                undecayed.append(parameter)
            else:
                decayed.append(parameter)
        rates = {"none": 0.0, "zero": train.weight_decay, "one": 0.0}
        groups = [
            {"params": decayed, "weight_decay": train.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
            {"params": lambdas, "weight_decay": rates[lambda_decay]},
        ]
        super().__init__([group for group in groups if group["params"]], lr=train.lr, fused=True)
        self._toward_one = lambdas if lambda_decay == "one" else []
        self._rate = train.weight_decay

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, λ's pull toward 1 first (as AdamW decays before it moves)."""
        for parameter in self._toward_one:
            parameter.lerp_(torch.ones_like(parameter), self.param_groups[0]["lr"] * self._rate)
        super().step(closure)


def linear_schedule(optimizer: torch.optim.Optimizer, train: TrainConfig, steps: int) -> LRScheduler:
    """Warm-up over ceil(warmup_ratio · steps), then linear decay to 0 at the last step (LoRA paper, table 9)."""
    from transformers.optimization import get_linear_schedule_with_warmup

    schedule: LRScheduler = get_linear_schedule_with_warmup(optimizer, math.ceil(train.warmup_ratio * steps), steps)
    return schedule
