"""Choose the rows that a case trains on.

A measurement is a number of passes over the same few batches of rows, whose lengths are spread as the task's are. The
rows are shuffled anew for every pass, as in training: flat batches then have a new number of tokens at every step.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from symlora.config.rows import Rows
from symlora.config.schema import Config
from symlora.data.tokens import TokenizedSplit
from symlora.errors import SymloraError

BATCH_SIZE = 16  # LoRA's scripts have 16 or 32
DROPOUT = 0.1  # RoBERTa's and BERT's own, of hidden states and of attention probabilities


@dataclass(frozen=True)
class Case:
    """One configuration to measure."""

    name: str  # unique within its part of the bench
    side: str  # baseline or ours
    method: str
    padding: str  # maximum (to data.max_length), longest (its batch's), grouped (those of like length) or none
    precision: str  # fp32 or bf16
    dropout: float = DROPOUT  # probability of every dropout of encoder and head
    runs: int = 1  # K, the runs in a pack
    attention: str = "sdpa"  # of the baseline, as transformers names it
    compiled: bool = False  # the baseline's encoder by torch.compile
    spread: bool = False  # a baseline in a process of one thread on every core, else in one process of all threads


@dataclass(frozen=True, eq=False)
class Load:
    """A case, its configuration, the rows to train on, and the order of every pass over them."""

    case: Case
    config: Config
    rows: TokenizedSplit
    flops: npt.NDArray[np.float64]  # [rows], that a training step needs at least (bench.flops)
    batch_size: int = BATCH_SIZE  # rows of a step of one run

    @property
    def batches(self) -> int:
        """Count the batches in one pass of one run."""
        return len(self.rows) // self.batch_size

    @property
    def steps(self) -> int:
        """Count the pack's steps in one pass: its runs together take every batch at least once."""
        return -(-self.batches // self.case.runs)

    def order(self, turn: int, number: int) -> Rows:
        """Shuffle the rows of one pass, or its batches of like length: the same for every case."""
        generator = np.random.default_rng([turn, number])
        if self.case.padding == "grouped":
            return generator.permutation(np.arange(len(self.rows)).reshape(self.batches, self.batch_size)).reshape(-1)
        return generator.permutation(len(self.rows))

    def orders(self, turn: int, number: int) -> list[Rows]:
        """Share the batches of `order` among the runs of the pack: each run begins at another one."""
        batches = self.order(turn, number).reshape(self.batches, self.batch_size)
        wanted = np.arange(self.case.runs)[:, None] * self.steps + np.arange(self.steps)  # [runs, steps]
        return [batches[own % self.batches].reshape(-1) for own in wanted]

    def done(self, used: Sequence[Rows], steps: int, loss: float) -> dict[str, float]:
        """Sum up what was trained on; padding is not counted."""
        if not np.isfinite(loss):
            raise SymloraError(f"the loss became {loss} while measuring: such a step is not worth timing")
        rows = np.concatenate(used)
        tokens, flops = int(self.rows.lengths[rows].sum()), float(self.flops[rows].sum())
        counts = {"steps": steps, "run_steps": steps * self.case.runs, "sentences": len(rows)}
        return {**counts, "tokens": tokens, "flops": flops, "loss": loss}


def now(device: torch.device) -> float:
    """Read the clock that all processes share, once the device is done; seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measuring_rows(data: TokenizedSplit, count: int, together: int = 1) -> TokenizedSplit:
    """Take `count` rows at evenly spaced quantiles of the lengths, so many of them `together` from each."""
    if len(data) < count:
        raise SymloraError(f"the bench needs {count} rows, the split has {len(data)}: lower --steps")
    by_length = np.argsort(data.lengths, kind="stable")
    middles = (np.arange(count // together) + 0.5) / (count // together) * len(data)
    first = (middles - (together - 1) / 2).astype(np.int64)
    rows = by_length[(first[:, None] + np.arange(together)).reshape(-1)]
    tokens = np.concatenate([np.arange(data.offsets[row], data.offsets[row + 1]) for row in rows])
    types = None if data.token_type_ids is None else data.token_type_ids[tokens]
    offsets = np.append(0, np.cumsum(data.lengths[rows]))
    return TokenizedSplit(data.input_ids[tokens], types, offsets, data.labels[rows], data.idx[rows], truncated=0)
