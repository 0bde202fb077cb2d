"""What every configuration trains on: the same few batches of rows, whose lengths are spread as the task's are.

A measurement is a number of passes over these rows. The rows are shuffled anew for every pass, as they are in training:
flat batches then have a new number of tokens at every step, and none profits from meeting the same shape again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from symlora.config.schema import Config
from symlora.data.batches import Rows
from symlora.data.tokens import TokenizedSplit
from symlora.errors import SymloraError


@dataclass(frozen=True)
class Case:
    """One configuration that is measured.

    Attributes:
        name: Unique within its part of the bench.
        side: `baseline` or `ours`.
        method: `lora` or `symlora`.
        padding: `maximum` (every row to `data.max_length`), `longest` (to its batch's longest row), or `none`.
        precision: `fp32` or `bf16`.
        dropout: Probability of every dropout of encoder and head.
        runs: K, the runs in a pack.
    """

    name: str
    side: str
    method: str
    padding: str
    precision: str
    dropout: float
    runs: int = 1


@dataclass(frozen=True, eq=False)
class Work:
    """The rows to train on.

    Attributes:
        rows: They alone.
        batch_size: Rows a step and run.
        flops: float64 [rows]: what each row's training step needs at least (symlora.bench.flops).
    """

    rows: TokenizedSplit
    batch_size: int
    flops: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.rows) % self.batch_size or len(self.flops) != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows, {len(self.flops)} costs: not whole batches of {self.batch_size}")

    @property
    def batches(self) -> int:
        """Batches in one pass of one run."""
        return len(self.rows) // self.batch_size

    def order(self, turn: int, number: int) -> Rows:
        """The rows of one pass, batch after batch: the same for every configuration."""
        return np.random.default_rng([turn, number]).permutation(len(self.rows))

    def steps(self, runs: int) -> int:
        """Steps of a pack in one pass: together its runs go through every batch at least once."""
        return -(-self.batches // runs)

    def orders(self, turn: int, number: int, runs: int) -> list[Rows]:
        """The rows of one pass for each run of a pack: the batches of `order`, every run beginning at another one."""
        batches = self.order(turn, number).reshape(self.batches, self.batch_size)
        steps = self.steps(runs)
        wanted = (np.arange(runs)[:, None] * steps + np.arange(steps)) % self.batches  # [runs, steps]
        return [batches[own].reshape(-1) for own in wanted]


@dataclass(frozen=True)
class Done:
    """What one process did.

    Attributes:
        steps: Optimizer steps of one run.
        run_steps: Those of all its runs.
        sentences, tokens: Trained on, padding not counted.
        flops: Needed for these sentences at least.
        loss: Mean over the run steps: finite, or the measurement is void.
    """

    steps: int
    run_steps: int
    sentences: int
    tokens: int
    flops: float
    loss: float


def done(work: Work, used: Iterator[Rows] | list[Rows], steps: int, runs: int, loss: float) -> Done:
    """Sums up the rows that were used."""
    rows = np.concatenate(list(used))
    if not np.isfinite(loss):
        raise SymloraError(f"the loss became {loss} while measuring: nothing is worth timing then")
    tokens = int(work.rows.lengths[rows].sum())
    return Done(steps, steps * runs, len(rows), tokens, float(work.flops[rows].sum()), loss)


def measuring_rows(data: TokenizedSplit, count: int) -> TokenizedSplit:
    """`count` rows at evenly spaced quantiles of the lengths: their mean and spread are the split's."""
    if len(data) < count:
        raise SymloraError(f"the bench needs {count} rows, the split has {len(data)}: lower --steps")
    by_length = np.argsort(data.lengths, kind="stable")
    return take(data, by_length[((np.arange(count) + 0.5) / count * len(data)).astype(np.int64)])


def take(data: TokenizedSplit, rows: Rows) -> TokenizedSplit:
    """These rows of a split, in this order."""
    lengths = data.lengths[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    places = np.arange(int(offsets[-1])) + np.repeat(data.offsets[rows] - offsets[:-1], lengths)
    types = data.token_type_ids
    return TokenizedSplit(
        input_ids=data.input_ids[places],
        token_type_ids=None if types is None else types[places],
        offsets=offsets,
        labels=data.labels[rows],
        idx=data.idx[rows],
        truncated=0,
    )


def random_rows(length: int, count: int, vocabulary: int) -> TokenizedSplit:
    """`count` rows of random tokens, all of one length, with two classes."""
    generator = np.random.default_rng(length)
    return TokenizedSplit(
        input_ids=generator.integers(vocabulary // 2, vocabulary, length * count).astype(np.int32),
        token_type_ids=None,
        offsets=np.arange(count + 1, dtype=np.int64) * length,
        labels=generator.integers(2, size=count),
        idx=np.arange(count),
        truncated=0,
    )


@dataclass(frozen=True, eq=False)
class Load:
    """What a worker needs to make a case ready."""

    case: Case
    config: Config
    work: Work
