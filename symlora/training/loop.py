"""Train a pack of runs, and score each after every epoch."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from symlora.config.schema import Config
from symlora.data.batches import Batch, epoch_order, eval_batches, pack_batch, steps_per_epoch
from symlora.data.tokens import TokenizedSplit
from symlora.model.dropout import step_key
from symlora.model.encoder import Encoder
from symlora.model.pack import PackedModel
from symlora.model.run_model import RunModel
from symlora.training.checkpoint import Checkpoint
from symlora.training.distributed import ALONE, Processes
from symlora.training.interrupt import raise_if_stopped
from symlora.training.result import Diverged, Epoch, Fit, Logits
from symlora.training.run_state import CheckpointWriter, RunState

EVAL_TOKENS = 4096  # a batch this size keeps a CPU's matmuls near their peak and its activations in cache


@dataclass(frozen=True)
class StepProgress:
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
    on_step: Callable[[StepProgress], None] = lambda progress: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Fit:
    """Train one run: `fit_pack` of one.

    Raises:
        Diverged: The loss or the model's output became NaN or infinite.
    """
    result = fit_pack(
        [config], data, PackedModel([model]), lambda _, progress: on_step(progress), lambda _, epoch: on_epoch(epoch)
    )[0]
    if result.error is not None:
        raise result.error
    return result


def fit_pack(
    configs: Sequence[Config],
    data: Mapping[str, TokenizedSplit],
    pack: PackedModel,
    on_step: Callable[[int, StepProgress], None] = lambda run, progress: None,
    on_epoch: Callable[[int, Epoch], None] = lambda run, epoch: None,
    processes: Processes = ALONE,
    checkpoint: Checkpoint | None = None,
) -> list[Fit]:
    """Train K runs at once on `data["train"]`; score every epoch.

    Every run has its own batches, optimizer, schedule and clipping. One that diverges is taken out of the pack, and
    the others go on.

    Args:
        configs: The runs: of one task, batch size and number of epochs. A run's seed alone decides its batches.
        data: `train`, the task's validation splits, and `held_out` where the protocol sets a slice aside.
        pack: Trained in place; afterwards its models hold the last epoch's parameters. Diverged runs have left it.
        on_step: Called for each run (by its number in `configs`) after every step.
        on_epoch: Called for each run after every epoch.
        processes: Which part of every batch this process takes, where several train together.
        checkpoint: Where to keep how far they are; what it holds of these runs is taken up.

    Returns:
        One entry a run; `error` is set where it diverged.

    Raises:
        Stopped: A signal asked for it (symlora.training.interrupt); the checkpoint is as new as it can be.
    """
    train, first = data["train"], configs[0]
    scored = [name for name in data if name != "train"]
    per_epoch = steps_per_epoch(len(train), first.train.batch_size)
    everyone = [
        RunState(number, config, model, per_epoch)
        for number, (config, model) in enumerate(zip(configs, pack.runs, strict=True))
    ]
    keeper = CheckpointWriter(everyone, checkpoint, per_epoch)
    results = [run.result for run in everyone]
    runs = _leave_out(everyone, pack, [run for run in everyone if run.result.error is not None])
    for epoch in range(keeper.epoch, first.train.epochs + 1):
        if not runs:
            break
        started = time.perf_counter() - keeper.seconds
        pack.encoder.train()
        orders = {run.number: epoch_order(len(train), run.config.seed, epoch - 1) for run in runs}
        for step in range(keeper.step, per_epoch):
            rows = [orders[run.number] for run in runs]
            batch = pack_batch(train, rows, first.train.batch_size, step, slice(processes.rank, None, processes.size))
            whole = min(first.train.batch_size, len(train) - step * first.train.batch_size)
            values = train_step(runs, batch, pack, epoch, whole, processes)
            for run, value in zip(runs, values, strict=True):
                on_step(run.number, StepProgress(epoch, run.steps_done, run.steps, value, run.score))
            runs = _leave_out(runs, pack, [run for run in runs if run.result.error is not None])
            if not runs:
                break
            keeper.after_step(epoch, step + 1, time.perf_counter() - started)
        if not runs:
            break
        trained = time.perf_counter()
        poll = keeper.polling(epoch, per_epoch, trained - started)
        logits = predict_pack(pack.encoder, [data[name] for name in scored], len(runs), poll=poll)
        shared = len(runs)
        for run, found in zip(runs, logits, strict=True):
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
        keeper.step, keeper.seconds = 0, 0.0
    keeper.trained(first.train.epochs + 1)
    raise_if_stopped()
    return results


def train_step(
    runs: list[RunState], batch: Batch, pack: PackedModel, epoch: int, whole: int, processes: Processes = ALONE
) -> list[float]:
    """Take one optimizer step of every run; return their losses.

    Each loss reaches its own run's parameters alone.

    `whole` is the number of rows of a run's batch over all processes.
    """
    device = pack.encoder.device
    for run in runs:
        run.hook.before_step(run.steps_done + 1, run.steps)
    pack.encoder.masks.steps = tuple(step_key(run.config.seed, run.steps_done) for run in runs)
    losses, tokens = torch.zeros(len(runs), device=device), torch.tensor(batch.tokens(), device=device)
    if len(batch.rows):
        rows = losses_of(pack.encoder(batch), batch.labels.to(device)) / whole
        run_of_row = torch.repeat_interleave(torch.tensor(batch.sizes)).to(device)
        losses = losses.index_add(0, run_of_row, rows)
        at_first = runs if processes.rank == 0 else []  # gradients are summed over the processes
        penalties = [penalty for run in at_first if (penalty := run.hook.penalty()) is not None]
        sum(penalties, losses.sum()).backward()  # type: ignore[no-untyped-call]
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


def _leave_out(runs: list[RunState], pack: PackedModel, diverged: list[RunState]) -> list[RunState]:
    for run in diverged:
        if len(runs) > 1:
            pack.drop(runs.index(run))
        runs = [other for other in runs if other is not run]
    return runs


def losses_of(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"] | Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Return each row's cross-entropy, or squared error for real labels.

    [B, classes] against int64 [B], or [B, 1] against float32 [B].
    """
    if labels.is_floating_point():
        return mse_loss(logits[:, 0], labels, reduction="none")
    return cross_entropy(logits, labels, reduction="none")


def predict(encoder: Encoder, data: TokenizedSplit, max_tokens: int = EVAL_TOKENS) -> Logits:
    """Predict every row, in the split's order: float32 [rows, classes]."""
    return predict_pack(encoder, [data], 1, max_tokens)[0][0]


@torch.inference_mode()
def predict_pack(
    encoder: Encoder,
    splits: Sequence[TokenizedSplit],
    runs: int,
    max_tokens: int = EVAL_TOKENS,
    poll: Callable[[], None] = lambda: None,
) -> list[list[Logits]]:
    """Predict every split with every run: float32 [rows, classes] each.

    Rows are in the split's order.

    `poll` is called before each batch, and may stop the whole by raising.
    """
    encoder.eval()
    found: list[list[Logits]] = [[] for _ in range(runs)]
    for data in splits:
        parts: list[list[Tensor]] = [[] for _ in range(runs)]
        rows = []
        for batch in eval_batches(data, max_tokens, runs):
            poll()
            rows.append(batch.rows[: batch.sizes[0]])
            for part, logits in zip(parts, torch.split(encoder(batch).cpu(), list(batch.sizes)), strict=True):
                part.append(logits)
        order = torch.argsort(torch.cat(rows))
        for run, part in zip(found, parts, strict=True):
            run.append(torch.cat(part)[order].numpy())
    return found
