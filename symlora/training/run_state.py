"""Hold a run's optimizer, schedule and scores, and checkpoint a pack."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from symlora.config.schema import Config
from symlora.data.tokens import TokenizedSplit
from symlora.model.run_model import RunModel
from symlora.training.checkpoint import Checkpoint
from symlora.training.hooks import step_hook
from symlora.training.interrupt import raise_if_stopped, stop_requested
from symlora.training.optimizer import AdamW, linear_schedule
from symlora.training.result import Diverged, Epoch, Fit, Logits, metrics_of, rules_met


class RunState:
    """A run while it trains."""

    def __init__(self, number: int, config: Config, model: RunModel, per_epoch: int) -> None:
        self.number, self.config, self.model = number, config, model
        self.per_epoch, self.steps, self.steps_done = per_epoch, per_epoch * config.train.epochs, 0
        self.parameters = [parameter for _, parameter in model.trainable()]
        self.optimizer = AdamW(model.trainable(), config.train, config.method, model.in_head)
        self.schedule = linear_schedule(self.optimizer, config.train, self.steps)
        # In fp16, gradients of activations would round to 0 unscaled. A run of a pack has a scale of its own.
        in_fp16 = model.encoder.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(model.encoder.device.type, enabled=in_fp16)
        self.hook = step_hook(model, self.steps)
        self.result = Fit()
        self.losses = 0.0  # of the epoch so far, summed over sentences
        self.score: float | None = None

    def update(self) -> None:
        """Step the optimizer and the schedule, and call the hook.

        A step whose scaled gradients overflow changes the scale alone.
        """
        before = self.scaler.get_scale()  # waits for the device, in fp16 alone
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() < before:
            self.optimizer.zero_grad(set_to_none=False)  # so that the hook sees no infinite ones
        self.schedule.step()
        self.hook.after_step(self.steps_done, self.steps, self.optimizer)

    def save(self, trained: bool) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        result = self.result
        # The last epoch's state is replaced at the end of the next one, so it is needed only when training ends.
        done = trained or result.ended
        rules = [rule for rule in result.state if done or rule != "last"] if result.error is None else []
        kept = {
            **vars(result),
            "epochs": [vars(epoch) for epoch in result.epochs],
            "logits": {rule: result.logits[rule] for rule in rules},
            "state": {rule: result.state[rule] for rule in rules},
            "error": None if result.error is None else str(result.error),
        }
        if done:
            return {"result": kept}
        return {
            "result": kept,
            "model": self.model.state(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "hook": self.hook.hook_state(),
            "steps_done": self.steps_done,
            "losses": self.losses,
            "score": self.score,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Restore what `save` returned."""
        kept, result = saved["result"], self.result
        vars(result).update(kept)
        result.epochs = [Epoch(**epoch) for epoch in kept["epochs"]]
        result.error = None if kept["error"] is None else Diverged(kept["error"])
        if "model" not in saved:
            return
        self.model.load_state(saved["model"])
        optimizer = saved["optimizer"]
        optimizer["state"] = {int(number): state for number, state in optimizer["state"].items()}
        self.optimizer.load_state_dict(optimizer)
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self.hook.load_hook_state(saved["hook"])
        self.steps_done, self.losses, self.score = saved["steps_done"], saved["losses"], saved["score"]

    def end_epoch(
        self, number: int, logits: dict[str, Logits], data: Mapping[str, TokenizedSplit], rows: int, seconds: float
    ) -> None:
        """Score the epoch, and keep the model if a rule chooses it."""
        metrics = {name: metrics_of(self.config, found, data[name].labels) for name, found in logits.items()}
        self.result.epochs.append(Epoch(number, self.losses / rows, metrics, seconds))
        self.losses = 0.0
        self.score = metrics[self.config.task.validation[0]][self.config.task.score]
        state = self.model.state()
        for rule in rules_met(self.result.epochs, self.config):
            self.result.chosen[rule] = number
            self.result.logits[rule] = logits
            self.result.state[rule] = state


class CheckpointWriter:
    """Resume from a checkpoint, and write further ones."""

    def __init__(self, everyone: Sequence[RunState], checkpoint: Checkpoint | None, per_epoch: int) -> None:
        self._everyone, self._checkpoint, self._per_epoch = everyone, checkpoint, per_epoch
        # The epoch (from 1) to go on with, how many of its steps are done, and the time that those took.
        self.epoch, self.step, self.seconds = 1, 0, 0.0
        saved = None if checkpoint is None else checkpoint.load()
        if checkpoint is not None and saved is not None:
            for run, name in zip(everyone, checkpoint.runs, strict=True):
                run.load(saved["runs"][name])
            self.epoch, self.step, self.seconds = saved["epoch"], saved["step"], saved["seconds"]

    def after_step(self, epoch: int, step: int, seconds: float) -> None:
        """Write a checkpoint if it is time, or a stop was requested.

        Also between the batches of scoring, after the epoch's last step.
        """
        if stop_requested() is not None or (self._checkpoint is not None and self._checkpoint.due()):
            self._save(epoch, step, seconds)
            raise_if_stopped()

    def trained(self, epoch: int) -> None:
        """Write a trained pack's checkpoint, from which its folders can be written."""
        if self.epoch < epoch:
            self._save(epoch, 0, 0.0, trained=True)

    def _save(self, epoch: int, step: int, seconds: float, *, trained: bool = False) -> None:
        if self._checkpoint is not None:
            runs = {name: run.save(trained) for name, run in zip(self._checkpoint.runs, self._everyone, strict=True)}
            state = {"epoch": epoch, "step": step, "seconds": seconds, "runs": runs}
            self._checkpoint.save(state, (epoch - 1) * self._per_epoch + step, trained=trained)
