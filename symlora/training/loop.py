"""Train a pack of runs, and score each after every epoch."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from symlora.config.schema import Config
from symlora.data.batches import Batch, epoch_order, eval_batches, pack_batch, steps_per_epoch
from symlora.data.tokens import TokenizedSplit
from symlora.model.device import to_device
from symlora.model.dropout import step_key
from symlora.model.encoder import Encoder
from symlora.model.pack import PackedModel
from symlora.model.stack import clip_gradients
from symlora.seeds import torch_generator
from symlora.training.checkpoint import Checkpoint
from symlora.training.distributed import ALONE, Processes
from symlora.training.interrupt import raise_if_stopped
from symlora.training.result import Diverged, Epoch, Fit, Logits, out_of_patience
from symlora.training.run_state import CheckpointWriter, RunState

# Tokens of a batch that is scored: the first keeps a CPU's matmuls near their peak and its activations in cache.
EVAL_TOKENS = {"cpu": 4096, "cuda": 32768, "mps": 4096}


@dataclass(frozen=True)
class StepProgress:
    """Where training stands, for a progress bar."""

    epoch: int
    step: int
    steps: int
    loss: float
    score: float | None


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

    Every run has its own batches, optimizer, schedule and clipping. One that diverges or whose patience is over leaves
    the pack, and the others go on.

    Args:
        configs: The runs: of one task, batch size and number of epochs. A run's seed alone decides its batches.
        data: `train`, the task's validation splits, and `held_out` where the protocol sets a slice aside.
        pack: Trained in place; afterwards its models hold the last epoch's parameters. Runs that ended early have left
            it.
        on_step: Called for each run (by its number in `configs`) after every step.
        on_epoch: The same after every epoch.
        processes: Which part of every batch this process takes, where several train together.
        checkpoint: Where to keep progress; training resumes from what it holds of these runs.

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
    runs = _going_on(everyone, pack)
    for epoch in range(keeper.epoch, first.train.epochs + 1):
        if not runs:
            break
        started = time.perf_counter() - keeper.seconds
        pack.encoder.train()
        orders = {run.number: epoch_order(len(train), run.config.seed, epoch - 1) for run in runs}
        for step in range(keeper.step, per_epoch):
            rows = [orders[run.number] for run in runs]
            size, shares = first.train.batch_size, processes.size * first.train.gradient_accumulation_steps
            parts = (
                pack_batch(train, rows, size, step, slice(share, None, shares))
                for share in range(processes.rank, shares, processes.size)
            )
            values = train_step(runs, parts, pack, min(size, len(train) - step * size), processes)
            for run, value in zip(runs, values, strict=True):
                on_step(run.number, StepProgress(epoch, run.steps_done, run.steps, value, run.score))
            runs = _going_on(runs, pack)
            if not runs:
                break
            keeper.after_step(epoch, step + 1, time.perf_counter() - started)
        if not runs:
            break
        trained = time.perf_counter()
        poll = partial(keeper.after_step, epoch, per_epoch, trained - started)
        logits = predict_pack(pack.encoder, [data[name] for name in scored], len(runs), poll=poll)
        shared = len(runs)
        for run, found in zip(runs, logits, strict=True):
            run.result.train_seconds += (trained - started) / shared
            by_split = dict(zip(scored, found, strict=True))
            if not all(np.isfinite(values).all() for values in found):  # a bad last update shows only here
                run.result.error = Diverged(
                    f"the model's output is not finite after epoch {epoch}; try a smaller train.lr"
                )
                continue
            run.end_epoch(epoch, by_split, data, len(train), (time.perf_counter() - started) / shared)
            on_epoch(run.number, run.result.epochs[-1])
            if processes.agree(out_of_patience(run.result, run.config), pack.encoder.device):
                run.result.stopped_epoch = epoch
        runs = _going_on(runs, pack)
        keeper.step, keeper.seconds = 0, 0.0
    keeper.trained(first.train.epochs + 1)
    raise_if_stopped()
    return [run.result for run in everyone]


def train_step(
    runs: list[RunState], parts: Iterable[Batch], pack: PackedModel, whole: int, processes: Processes = ALONE
) -> list[float]:
    """Take one optimizer step of every run; return their losses.

    Each loss reaches its own run's parameters alone. The gradients of `parts` add up to those of the batch, which has
    `whole` rows of each run over all parts and processes.
    """
    device = pack.encoder.device
    for run in runs:
        step = run.steps_done + 1
        run.hook.before_step(step, run.steps, torch_generator(run.config.seed, "step", step))  # needs no checkpoint
    pack.encoder.masks.steps = tuple(step_key(run.config.seed, run.steps_done) for run in runs)
    losses, tokens = torch.zeros(len(runs), device=device), np.zeros(len(runs), np.float32)
    at_first = runs if processes.rank == 0 else []  # gradients are summed over processes and parts
    for batch in parts:
        if not len(batch.rows):
            continue
        rows = losses_of(pack.encoder(batch), to_device(batch.labels, device)) / whole
        own = rows.view(len(runs), -1).sum(1)  # every run has as many rows
        scaled = [run.scaler.scale(loss) for run, loss in zip(runs, own.unbind(), strict=True)]
        scaled += [run.scaler.scale(penalty) for run in at_first if (penalty := run.hook.penalty()) is not None]
        torch.stack(scaled).sum().backward()  # type: ignore[no-untyped-call]
        at_first = []
        losses += own.detach()
        tokens += np.array(batch.tokens(), np.float32)
    sums = torch.stack([losses, to_device(torch.from_numpy(tokens), device)])
    processes.add_up([sums])
    values, counts = sums.tolist()
    for run, value in zip(runs, values, strict=True):
        if math.isfinite(value):
            processes.add_up_gradients(run.parameters)
            run.scaler.unscale_(run.optimizer)
    limits = [run.config.train.max_grad_norm for run in runs]
    clip_gradients([run.parameters for run in runs], limits, pack.stacks.values())
    for run, value, count in zip(runs, values, counts, strict=True):
        run.steps_done += 1
        if math.isfinite(value):
            run.update()
            run.losses += value * whole
            run.result.tokens += int(count)
        else:
            epoch = (run.steps_done - 1) // run.per_epoch + 1
            run.result.error = Diverged(
                f"the loss is {value} at step {run.steps_done} of {run.steps} (epoch {epoch}); try a smaller train.lr"
            )
        run.optimizer.zero_grad(set_to_none=True)
    return list(values)


def _going_on(runs: list[RunState], pack: PackedModel) -> list[RunState]:
    """Remove ended runs from the pack; return the others."""
    for run in runs:
        if run.result.ended and len(pack.runs) > 1:
            pack.drop(pack.runs.index(run.model))
    return [run for run in runs if not run.result.ended]


def losses_of(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"] | Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Return each row's cross-entropy, or squared error for real labels."""
    if labels.is_floating_point():
        return mse_loss(logits[:, 0], labels, reduction="none")
    return cross_entropy(logits, labels, reduction="none")


def predict(encoder: Encoder, data: TokenizedSplit, max_tokens: int | None = None) -> Logits:
    """Predict every row, in the split's order: float32 [rows, classes]."""
    return predict_pack(encoder, [data], 1, max_tokens)[0][0]


@torch.inference_mode()
def predict_pack(
    encoder: Encoder,
    splits: Sequence[TokenizedSplit],
    runs: int,
    max_tokens: int | None = None,
    poll: Callable[[], None] = lambda: None,
) -> list[list[Logits]]:
    """Return float32 logits [rows, classes] by run and split; poll between batches."""
    encoder.eval()
    found: list[list[Logits]] = [[] for _ in range(runs)]
    for data in splits:
        parts: list[list[Tensor]] = [[] for _ in range(runs)]
        rows = []
        for batch in eval_batches(data, max_tokens or EVAL_TOKENS[encoder.device.type], runs):
            poll()
            rows.append(batch.rows[: batch.sizes[0]])
            for part, logits in zip(parts, torch.split(encoder(batch).cpu(), list(batch.sizes)), strict=True):
                part.append(logits)
        order = torch.argsort(torch.cat(rows))
        for run, part in zip(found, parts, strict=True):
            run.append(torch.cat(part)[order].numpy())
    return found
