"""Build AdamW as in LoRA's GLUE scripts, with a group for λ."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from symlora.config.schema import MethodConfig, TrainConfig
from symlora.errors import SymloraError

# Hugging Face's Trainer, under LoRA's scripts: neither biases nor LayerNorm weights decay.
_UNDECAYED = ("bias", "LayerNorm.weight", "layer_norm.weight", "norm.weight")
_LAMBDAS = (".symlora_lambda.", ".loralambda_lambda.")
# They multiply W0 as λ does, and decay would remove it: DoRA's and EDoRA's m, (IA)³'s l.
_MULTIPLIERS = (".lora_magnitude_vector.", ".edora_m.", ".ia3_l.")


class AdamW(torch.optim.AdamW):
    """AdamW with a group for λ, and learning rates in given ratios.

    Decay is decoupled: p ← p - lr·wd·p before the step.

    `method.lambda_decay` none: λ does not decay. zero: as every other weight, toward 0, which removes W0 from the
    layer. one: toward the pre-trained model, λ ← λ + lr·wd·(1 - λ), that is, λ - 1 decays.

    Args:
        named: What is trained.
        train: Learning rates and decay; betas and epsilon are torch's (0.9, 0.999, 1e-8), as in the Trainer.
        method: Its `lambda_decay` and `lr_ratio` count.
        in_head: Tells from its name whether a parameter is the head's.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        train: TrainConfig,
        method: MethodConfig,
        in_head: Callable[[str], bool] = lambda name: False,
    ) -> None:
        named = list(named)
        for part in method.lr_ratio:
            if not any(f".{part}." in f".{name}." for name, _ in named):
                raise SymloraError(f"method.lr_ratio: {part} matches none of the trained parameters.")
        groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}  # by learning rate, decay and pull toward 1
        for name, parameter in named:
            lr = train.head_lr if train.head_lr is not None and in_head(name) else train.lr
            lr *= next((ratio for part, ratio in method.lr_ratio.items() if f".{part}." in f".{name}."), 1.0)
            plain = name.replace(".modules_to_save.default", "").removesuffix(".default")  # PEFT's additions
            undecayed = plain.endswith(_UNDECAYED) or any(part in name for part in _MULTIPLIERS)
            decay = 0.0 if undecayed else train.weight_decay
            toward_one = 0.0
            if any(part in name for part in _LAMBDAS):
                decay = train.weight_decay if method.lambda_decay == "zero" else 0.0
                toward_one = train.weight_decay if method.lambda_decay == "one" else 0.0
            groups.setdefault((lr, decay, toward_one), []).append(parameter)
        made = [
            {"params": params, "lr": lr, "weight_decay": decay, "toward_one": toward_one}
            for (lr, decay, toward_one), params in groups.items()
        ]
        super().__init__(made, lr=train.lr, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Pull λ toward 1 and take a step, unless GradScaler found overflow."""
        taken = 1.0 - getattr(self, "found_inf", 0.0)  # torch's own step reads it too
        for group in self.param_groups:
            for parameter in group["params"] if group["toward_one"] else []:
                parameter.lerp_(torch.ones_like(parameter), group["lr"] * group["toward_one"] * taken)
        super().step(closure)


def linear_schedule(optimizer: torch.optim.Optimizer, train: TrainConfig, steps: int) -> LRScheduler:
    """Warm up over ceil(warmup_ratio · steps), then decay to 0 (LoRA, table 9)."""
    from transformers.optimization import get_linear_schedule_with_warmup

    schedule: LRScheduler = get_linear_schedule_with_warmup(optimizer, math.ceil(train.warmup_ratio * steps), steps)
    return schedule
