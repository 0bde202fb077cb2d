"""Trains one run and scores it after every epoch."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from symlora.config import Config
from symlora.data.batches import epoch_batches, eval_batches, steps_per_epoch
from symlora.data.tokens import TokenizedSplit
from symlora.metrics import compute
from symlora.model.build import RunModel
from symlora.model.encoder import Encoder
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
        seconds: Training and scoring, wall clock.
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
        train_seconds: Wall clock of the training steps alone.
    """

    epochs: list[Epoch] = field(default_factory=list)
    chosen: dict[str, int] = field(default_factory=dict)
    logits: dict[str, dict[str, Logits]] = field(default_factory=dict)
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    tokens: int = 0
    train_seconds: float = 0.0


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
    """Trains on `data["train"]` and scores every other split after each epoch.

    Args:
        config: The run; its seed alone decides the batches.
        data: `train`, the task's validation splits, and `held_out` where the protocol sets a slice aside.
        model: Trained in place; afterwards it holds the last epoch's parameters.
        on_step: Called after every step.
        on_epoch: Called after every epoch.

    Raises:
        Diverged: The loss or the model's output became NaN or infinite.
    """
    train = data["train"]
    scored = [name for name in data if name != "train"]
    decisive = config.task.validation[0]
    per_epoch = steps_per_epoch(len(train), config.train.batch_size)
    steps = per_epoch * config.train.epochs
    parameters = [parameter for _, parameter in model.trainable()]
    optimizer = AdamW(model.trainable(), config.train, config.method.lambda_decay, model.in_head)
    schedule = linear_schedule(optimizer, config.train, steps)
    result, step, score = Fit(), 0, None
    for number in range(1, config.train.epochs + 1):
        started = time.perf_counter()
        model.encoder.train()
        losses = 0.0
        for batch in epoch_batches(train, config.train.batch_size, config.seed, number - 1):
            loss = loss_of(model.encoder(batch), batch.labels.to(model.encoder.device))
            loss.backward()  # type: ignore[no-untyped-call]
            if config.train.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(parameters, config.train.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss is {value} at step {step} of {steps} (epoch {number}); try a smaller train.lr"
                )
            losses += value * len(batch.rows)
            result.tokens += len(batch.input_ids)
            on_step(Progress(number, step, steps, value, score))
        result.train_seconds += time.perf_counter() - started
        logits = {name: predict(model.encoder, data[name]) for name in scored}
        if not all(np.isfinite(values).all() for values in logits.values()):  # the last step's update shows only here
            raise Diverged(f"the model's output is not finite after epoch {number}; try a smaller train.lr")
        metrics = {name: metrics_of(config, logits[name], data[name].labels) for name in scored}
        epoch = Epoch(number, losses / len(train), metrics, time.perf_counter() - started)
        result.epochs.append(epoch)
        score = metrics[decisive][config.task.score]
        for rule in rules_met(result.epochs, config):
            result.chosen[rule] = number
            result.logits[rule] = logits
            result.state[rule] = model.state()
        on_epoch(epoch)
    return result


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


@torch.inference_mode()
def predict(encoder: Encoder, data: TokenizedSplit, max_tokens: int = EVAL_TOKENS) -> Logits:
    """Logits of every row, in the split's order: float32 [rows, classes]."""
    encoder.eval()
    parts, rows = [], []
    for batch in eval_batches(data, max_tokens):
        parts.append(encoder(batch).cpu())
        rows.append(batch.rows)
    order = torch.argsort(torch.cat(rows))
    logits: Logits = torch.cat(parts)[order].numpy()
    return logits


def predictions_of(logits: Logits, *, regression: bool) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """The class with the largest logit, or the score itself."""
    return logits[:, 0] if regression else logits.argmax(axis=1)


def metrics_of(
    config: Config, logits: Logits, labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
) -> dict[str, float]:
    """The task's metrics of these logits."""
    return compute(config.task.metrics, predictions_of(logits, regression=not config.task.labels), labels)
