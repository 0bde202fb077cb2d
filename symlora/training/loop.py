"""Trains a pack of runs, one or many, and scores each after every epoch."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from symlora.config import Config
from symlora.data.batches import Batch, epoch_order, eval_batches, pack_batch, steps_per_epoch
from symlora.data.tokens import TokenizedSplit
from symlora.metrics import compute
from symlora.model.build import RunModel
from symlora.model.encoder import Encoder
from symlora.model.pack import Pack
from symlora.training.distributed import ALONE, Processes
from symlora.training.optimizer import AdamW, linear_schedule

HELD_OUT = "held_out"  # name of the slice of the training split that chooses the epoch
EVAL_TOKENS = 4096  # a batch this size keeps a CPU's matmuls near their peak and its activations in cache

Logits = npt.NDArray[np.float32]
Metrics = dict[str, dict[str, float]]


class Diverged(Exception):
    """The loss is no longer a finite number. The run is kept, as failed."""


@dataclass
class Epoch:
    """What is known of a model after an epoch.

    Attributes:
        number: From 1.
        train_loss: Mean over the epoch's sentences, with dropout.
        metrics: For each scored split, the task's metrics as fractions.
        seconds: Training and scoring, wall clock; of a pack's, this run's share.
    """

    number: int
    train_loss: float
    metrics: Metrics
    seconds: float


@dataclass
class Fit:
    """A trained run.

    Attributes:
        epochs: One entry per epoch, in order.
        chosen: Epoch number by each rule: `best` on validation, `last`, and `held_out` where a slice was set aside.
        logits: For each rule and scored split, float32 [rows, classes].
        state: Trained parameters by rule.
        tokens: Tokens trained on, padding not counted.
        train_seconds: Wall clock of the training steps alone; of a pack's, this run's share.
        error: Why the run ended before its time; None if it did not.
    """

    epochs: list[Epoch] = field(default_factory=list)
    chosen: dict[str, int] = field(default_factory=dict)
    logits: dict[str, dict[str, Logits]] = field(default_factory=dict)
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    tokens: int = 0
    train_seconds: float = 0.0
    error: Diverged | None = None


@dataclass(frozen=True)
class Progress:
    """Where training stands, for a progress bar."""

    epoch: int
    step: int
    steps: int
    loss: float
    score: float | None


def fit(
    config: Config,
    data: Mapping[str, TokenizedSplit],
    model: RunModel,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Fit:
    """One run alone: `fit_pack` of one.

    Raises:
        Diverged: The loss or the model's output became NaN or infinite.
    """
    result = fit_pack(
        [config], data, Pack([model]), lambda _, progress: on_step(progress), lambda _, epoch: on_epoch(epoch)
    )[0]
    if result.error is not None:
        raise result.error
    return result


def fit_pack(
    configs: Sequence[Config],
    data: Mapping[str, TokenizedSplit],
    pack: Pack,
    on_step: Callable[[int, Progress], None] = lambda run, progress: None,
    on_epoch: Callable[[int, Epoch], None] = lambda run, epoch: None,
    processes: Processes = ALONE,
) -> list[Fit]:
    """Trains K runs at once on `data["train"]` and scores every other split after each epoch.

    Every run has its own batches, optimizer, schedule and clipping. One that diverges is taken out of the pack, and
    the others go on.

    Args:
        configs: The runs: of one task, batch size and number of epochs. A run's seed alone decides its batches.
        data: `train`, the task's validation splits, and `held_out` where the protocol sets a slice aside.
        pack: Trained in place; afterwards its models hold the last epoch's parameters. Diverged runs have left it.
        on_step: Called for each run (by its number in `configs`) after every step.
        on_epoch: Called for each run after every epoch.
        processes: Which part of every batch this process takes, where several train together.

    Returns:
        One entry a run; `error` is set where it diverged.
    """
    train, first = data["train"], configs[0]
    scored = [name for name in data if name != "train"]
    per_epoch = steps_per_epoch(len(train), first.train.batch_size)
    runs = [
        _Run(number, config, model, per_epoch)
        for number, (config, model) in enumerate(zip(configs, pack.runs, strict=True))
    ]
    results = [run.result for run in runs]
    for epoch in range(1, first.train.epochs + 1):
        started = time.perf_counter()
        pack.encoder.train()
        orders = {run.number: epoch_order(len(train), run.config.seed, epoch - 1) for run in runs}
        for step in range(per_epoch):
            rows = [orders[run.number] for run in runs]
            batch = pack_batch(train, rows, first.train.batch_size, step, slice(processes.rank, None, processes.size))
            whole = min(first.train.batch_size, len(train) - step * first.train.batch_size)
            values = _step(runs, batch, pack, epoch, whole, processes)
            for run, value in zip(runs, values, strict=True):
                on_step(run.number, Progress(epoch, run.steps_done, run.steps, value, run.score))
            runs = _leave_out(runs, pack, [run for run in runs if run.result.error is not None])
            if not runs:
                return results
        trained = time.perf_counter()
        logits = predict_pack(pack.encoder, [data[name] for name in scored], len(runs))
        shared = len(runs)
        for run, found in zip(list(runs), logits, strict=True):
            run.result.train_seconds += (trained - started) / shared
            by_split = dict(zip(scored, found, strict=True))
            if not all(np.isfinite(values).all() for values in found):  # the last step's update shows only here
                run.result.error = Diverged(
                    f"the model's output is not finite after epoch {epoch}; try a smaller train.lr"
                )
                continue
            run.end_epoch(epoch, by_split, data, len(train), (time.perf_counter() - started) / shared)
            on_epoch(run.number, run.result.epochs[-1])
        runs = _leave_out(runs, pack, [run for run in runs if run.result.error is not None])
    return results


class _Run:
    """A run while it trains."""

    def __init__(self, number: int, config: Config, model: RunModel, per_epoch: int) -> None:
        self.number, self.config, self.model = number, config, model
        self.steps, self.steps_done = per_epoch * config.train.epochs, 0
        self.parameters = [parameter for _, parameter in model.trainable()]
        self.optimizer = AdamW(model.trainable(), config.train, config.method.lambda_decay, model.in_head)
        self.schedule = linear_schedule(self.optimizer, config.train, self.steps)
        self.result = Fit()
        self.losses = 0.0  # of the epoch so far, summed over sentences
        self.score: float | None = None

    def update(self) -> None:
        """One step of the optimizer, with the gradients at hand."""
        if self.config.train.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.train.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()

    def end_epoch(
        self, number: int, logits: dict[str, Logits], data: Mapping[str, TokenizedSplit], rows: int, seconds: float
    ) -> None:
        """Scores the epoch, and keeps the model where a rule chooses it."""
        metrics = {name: metrics_of(self.config, found, data[name].labels) for name, found in logits.items()}
        self.result.epochs.append(Epoch(number, self.losses / rows, metrics, seconds))
        self.losses = 0.0
        self.score = metrics[self.config.task.validation[0]][self.config.task.score]
        state = self.model.state()
        for rule in rules_met(self.result.epochs, self.config):
            self.result.chosen[rule] = number
            self.result.logits[rule] = logits
            self.result.state[rule] = state


def _step(
    runs: list[_Run], batch: Batch, pack: Pack, epoch: int, whole: int, processes: Processes = ALONE
) -> list[float]:
    """One optimizer step of every run; the runs' losses. Each loss reaches its own run's parameters alone.

    `whole` is the number of rows of a run's batch over all processes.
    """
    device = pack.encoder.device
    losses, tokens = torch.zeros(len(runs), device=device), torch.tensor(batch.tokens(), device=device)
    if len(batch.rows):
        labels, sizes = batch.labels.to(device), list(batch.sizes)
        parts = zip(torch.split(pack.encoder(batch), sizes), torch.split(labels, sizes), strict=True)
        losses = torch.stack([loss_of(logits, own) * (len(own) / whole) for logits, own in parts])
        losses.sum().backward()  # type: ignore[no-untyped-call]
    losses = losses.detach()
    processes.add_up([losses, tokens])
    values: list[float] = losses.tolist()
    for run, value, count in zip(runs, values, tokens.tolist(), strict=True):
        run.steps_done += 1
        if math.isfinite(value):
            processes.add_up_gradients(run.parameters)
            run.update()
            run.losses += value * whole
            run.result.tokens += count
        else:
            run.result.error = Diverged(
                f"the loss is {value} at step {run.steps_done} of {run.steps} (epoch {epoch}); try a smaller train.lr"
            )
        run.optimizer.zero_grad(set_to_none=True)
    return values


def _leave_out(runs: list[_Run], pack: Pack, diverged: list[_Run]) -> list[_Run]:
    for run in diverged:
        if len(runs) > 1:
            pack.drop(runs.index(run))
        runs = [other for other in runs if other is not run]
    return runs


def rules_met(epochs: list[Epoch], config: Config) -> list[str]:
    """Which selection rules take the newest epoch. Of equal scores the earlier epoch stays; NaN never wins."""
    rules = ["last"]
    splits = {"best": config.task.validation[0]}
    if HELD_OUT in epochs[-1].metrics:
        splits["held_out"] = HELD_OUT
    for rule, split in splits.items():
        scores = [epoch.metrics[split][config.task.score] for epoch in epochs]
        ranked = [-math.inf if math.isnan(score) else score for score in scores]
        if len(ranked) == 1 or ranked[-1] > max(ranked[:-1]):
            rules.append(rule)
    return rules


def loss_of(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"] | Float[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy ([B, classes] against int64 [B]), or mean squared error ([B, 1] against float32 [B])."""
    if labels.is_floating_point():
        return mse_loss(logits[:, 0], labels)
    return cross_entropy(logits, labels)


def predict(encoder: Encoder, data: TokenizedSplit, max_tokens: int = EVAL_TOKENS) -> Logits:
    """Logits of every row, in the split's order: float32 [rows, classes]."""
    return predict_pack(encoder, [data], 1, max_tokens)[0][0]


@torch.inference_mode()
def predict_pack(
    encoder: Encoder, splits: Sequence[TokenizedSplit], runs: int, max_tokens: int = EVAL_TOKENS
) -> list[list[Logits]]:
    """Logits of every run on every split: for each run and split float32 [rows, classes], rows in the split's order."""
    encoder.eval()
    found: list[list[Logits]] = [[] for _ in range(runs)]
    for data in splits:
        parts: list[list[Tensor]] = [[] for _ in range(runs)]
        rows = []
        for batch in eval_batches(data, max_tokens, runs):
            rows.append(batch.rows[: batch.sizes[0]])
            for part, logits in zip(parts, torch.split(encoder(batch).cpu(), list(batch.sizes)), strict=True):
                part.append(logits)
        order = torch.argsort(torch.cat(rows))
        for run, part in zip(found, parts, strict=True):
            run.append(torch.cat(part)[order].numpy())
    return found


def predictions_of(logits: Logits, *, regression: bool) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """The class with the largest logit, or the score itself."""
    return logits[:, 0] if regression else logits.argmax(axis=1)


def metrics_of(
    config: Config, logits: Logits, labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
) -> dict[str, float]:
    """The task's metrics of these logits."""
    return compute(config.task.metrics, predictions_of(logits, regression=not config.task.labels), labels)
