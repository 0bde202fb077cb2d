"""Call a method's actions between the steps of training.

The loop calls, for every step of every run,

    before_step → forward, loss + penalty, backward → clip, optimizer, schedule → after_step

Whatever changes must be a trained parameter or a container that `RunModel.state` keeps (`changing_layer_names`), or be
in `hook_state`, so that a run which was stopped goes on exactly.
"""

from typing import Any

import torch
from peft.tuners.adalora import AdaLoraModel
from torch import Tensor

from symlora.adapters.tuner import AdapterModel, StepHook
from symlora.errors import SymloraError
from symlora.model.run_model import RunModel


class AdaLora(StepHook):
    """AdaLoRA's penalty and allocation of ranks (arXiv 2303.10512, section 3).

    PEFT adds the penalty in its own forward, which batches here go past. `total_step` becomes the run's number of
    steps; `tinit` and `tfinal` below 1 are shares of it.
    """

    AVERAGES = ("exp_avg_ipt", "exp_avg_unc")

    def __init__(self, model: AdaLoraModel, steps: int) -> None:
        self.model: Any = model
        self.name: str = self.model.trainable_adapter_name
        self.config = config = self.model.peft_config[self.name]
        for key in ("tinit", "tfinal"):
            value = getattr(config, key)
            setattr(config, key, round(value * steps) if value < 1 else value)
        config.total_step = steps
        if config.tinit >= steps - config.tfinal:
            raise SymloraError(
                f"method.peft_config: tinit={config.tinit} and tfinal={config.tfinal} leave none of the {steps} steps "
                "for allocating ranks. Make them smaller (below 1 they are shares of the steps)."
            )
        if config.target_r >= config.init_r:
            raise SymloraError(
                f"method.peft_config.target_r={config.target_r} is not below init_r={config.init_r}: there is nothing "
                "to allocate. Use method=lora."
            )

    def penalty(self) -> Tensor:
        """Return `orth_reg_weight` times the mean ‖P Pᵀ - I‖ of lora_A and lora_Bᵀ."""
        norms = []
        for name, value in self.model.model.named_parameters():
            if name.endswith((f"lora_A.{self.name}", f"lora_B.{self.name}")):
                gram = value @ value.T if f".lora_A.{self.name}" in name else value.T @ value
                norms.append(torch.linalg.norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)))
        penalty: Tensor = self.config.orth_reg_weight * torch.stack(norms).mean()
        return penalty

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Note the gradients, and set the least important singular values to 0."""
        self.model.update_and_allocate(step)

    def hook_state(self) -> dict[str, Tensor]:
        """Return moving averages of importance, and which singular values are left."""
        averages = {
            f"{kind}.{name}": value
            for kind in self.AVERAGES
            for name, value in getattr(self.model.rankallocator, kind).items()
        }
        left = {f"rank_pattern.{name}": torch.tensor(rows) for name, rows in (self.config.rank_pattern or {}).items()}
        return averages | left

    def load_hook_state(self, state: dict[str, Tensor]) -> None:
        found: dict[str, dict[str, Tensor]] = {"rank_pattern": {}, **{kind: {} for kind in self.AVERAGES}}
        for key, value in state.items():
            kind, name = key.split(".", 1)
            found[kind][name] = value
        self.config.rank_pattern = {name: rows.tolist() for name, rows in found["rank_pattern"].items()} or None
        allocator, device = self.model.rankallocator, next(self.model.parameters()).device
        for kind in self.AVERAGES:
            setattr(allocator, kind, {name: value.to(device) for name, value in found[kind].items()})
        allocator.ipt = dict.fromkeys(allocator.exp_avg_ipt)  # the allocator resets what it does not find here


def step_hook(model: RunModel, steps: int) -> StepHook:
    """Return this run's hook; our methods are their own hooks."""
    tuner = None if model.peft is None else model.peft.base_model
    if isinstance(tuner, AdaLoraModel):
        return AdaLora(tuner, steps)
    return tuner if isinstance(tuner, AdapterModel) else StepHook()
