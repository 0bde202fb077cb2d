"""Hold a trained run's epochs, scores, logits and parameters."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from symlora.config.rows import Labels
from symlora.config.schema import HELD_OUT, Config
from symlora.metrics.functions import compute

Logits = npt.NDArray[np.float32]
Metrics = dict[str, dict[str, float]]


class Diverged(Exception):
    """The loss is not finite; the run is kept as failed."""


@dataclass
class Epoch:
    """What is known of a model after an epoch."""

    number: int  # from 1
    train_loss: float  # mean over the epoch's sentences, with dropout
    metrics: Metrics  # for each scored split, the task's metrics as fractions
    seconds: float  # training and scoring, wall clock; of a pack's, this run's share


@dataclass
class Fit:
    """A trained run."""

    epochs: list[Epoch] = field(default_factory=list)  # one entry per epoch, in order
    # Epoch number by each rule: `best` on validation, `last`, and `held_out` where a slice was set aside
    chosen: dict[str, int] = field(default_factory=dict)
    # For each rule and scored split, float32 [rows, classes]
    logits: dict[str, dict[str, Logits]] = field(default_factory=dict)
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # trained parameters by rule
    tokens: int = 0  # tokens trained on, padding not counted
    train_seconds: float = 0.0  # wall clock of the training steps alone; of a pack's, this run's share
    stopped_epoch: int | None = None  # the epoch after which patience ended the run; None if it did not
    error: Diverged | None = None  # why the run failed; None if it did not

    @property
    def ended(self) -> bool:
        """Tell whether the run trains no further, though others may."""
        return self.error is not None or self.stopped_epoch is not None


def rules_met(epochs: list[Epoch], config: Config) -> list[str]:
    """Return the selection rules that take the newest epoch.

    Of equal scores the earlier epoch stays; NaN never wins.
    """
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


def out_of_patience(result: Fit, config: Config) -> bool:
    """Tell whether the selection score has not risen for `patience` epochs."""
    patience, done = config.train.patience, len(result.epochs)
    if patience is None or done >= config.train.epochs:
        return False
    return done - result.chosen[config.protocol.selection] >= patience


def predictions_of(logits: Logits, *, regression: bool) -> Labels:
    """Return the class with the largest logit, or the score itself."""
    return logits[:, 0] if regression else logits.argmax(axis=1)


def metrics_of(config: Config, logits: Logits, labels: Labels) -> dict[str, float]:
    """Compute the task's metrics of these logits."""
    predicted = predictions_of(logits, regression=not config.task.labels)
    return compute(config.task.metrics, predicted, labels, logits[:, -1] - logits[:, 0])
