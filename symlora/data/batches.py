"""Batches of a tokenised split: flat, without padding, in an order that can be told from the seed alone.

Letters: B rows in a batch, T tokens of them all, L the longest row. A flat batch is one run of T tokens, row after
row; `lengths` and `starts` say where each row lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from symlora.data.tokens import TokenizedSplit
from symlora.seeds import numpy_generator

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """A flat batch. All are int64, but scores (labels of a regression task) float32.

    Attributes:
        input_ids: [T].
        token_type_ids: [T], or None where the tokenizer gives none.
        lengths: [B] tokens in each row.
        starts: [B] place of each row's first token (the one that classifiers read) in input_ids.
        labels: [B].
        rows: [B] row numbers in the TokenizedSplit.
        sizes: Rows of each run, one run's after the other's, where the batch is a pack's; they sum to B.
    """

    input_ids: Tensor
    token_type_ids: Tensor | None
    lengths: Tensor
    starts: Tensor
    labels: Tensor
    rows: Tensor
    sizes: tuple[int, ...]

    def to(self, device: torch.device | str) -> Batch:
        types = self.token_type_ids
        return Batch(
            input_ids=self.input_ids.to(device),
            token_type_ids=None if types is None else types.to(device),
            lengths=self.lengths.to(device),
            starts=self.starts.to(device),
            labels=self.labels.to(device),
            rows=self.rows.to(device),
            sizes=self.sizes,
        )

    def tokens(self) -> tuple[int, ...]:
        """Tokens of each run; they sum to T."""
        return tuple(int(part.sum()) for part in torch.split(self.lengths, list(self.sizes)))


def gather(data: TokenizedSplit, rows: Rows, sizes: tuple[int, ...] | None = None) -> Batch:
    """The given rows, in order, as one flat batch. A row may occur more than once (packed runs share the data).

    `sizes` says how many of the rows belong to each run of a pack; None: all to one.
    """
    lengths = data.offsets[rows + 1] - data.offsets[rows]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    tokens = np.arange(int(lengths.sum())) + np.repeat(data.offsets[rows] - starts, lengths)  # [T] places in the data
    types = data.token_type_ids
    return Batch(
        input_ids=torch.from_numpy(data.input_ids[tokens].astype(np.int64)),
        token_type_ids=None if types is None else torch.from_numpy(types[tokens].astype(np.int64)),
        lengths=torch.from_numpy(lengths),
        starts=torch.from_numpy(starts),
        labels=torch.from_numpy(data.labels[rows]),
        rows=torch.from_numpy(np.array(rows, dtype=np.int64)),
        sizes=(len(rows),) if sizes is None else sizes,
    )


def pack_batch(
    data: TokenizedSplit, orders: Sequence[Rows], batch_size: int, step: int, share: slice = slice(None)
) -> Batch:
    """The batches of several runs at one step of an epoch, end to end; each run has its own order of the rows.

    `share` takes a part of every run's batch, for one of several processes; it may be empty.
    """
    parts = [order[step * batch_size : (step + 1) * batch_size][share] for order in orders]
    return gather(data, np.concatenate(parts), tuple(len(part) for part in parts))


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Steps in one pass over the rows; the last batch may be short and is kept, as `run_glue` does."""
    if rows < 1 or batch_size < 1:
        raise ValueError(f"rows and batch_size must be 1 or larger, found {rows} and {batch_size}")
    return -(-rows // batch_size)


def epoch_order(rows: int, seed: int, epoch: int) -> Rows:
    """The order of rows 0 .. rows-1 in an epoch (from 0): a permutation from the seed's `data` stream.

    Every epoch has a generator of its own, so any epoch can be had without going through those before it.
    """
    return numpy_generator(seed, "data", epoch).permutation(rows)


def eval_batches(data: TokenizedSplit, max_tokens: int, runs: int = 1) -> Iterator[Batch]:
    """Every row once, longest first, in batches of at most `max_tokens` tokens (a longer row makes its own batch).

    With several `runs` each batch holds its rows once for every run of a pack, and the tokens of all runs count.

    Rows of like length meet, so padding costs little where an encoder needs it, and the largest batch comes first:
    what does not fit into memory fails at once. `batch.rows` says where each prediction belongs.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be 1 or larger, found {max_tokens}")
    order = np.argsort(-data.lengths, kind="stable")  # equal lengths stay in file order
    ends = np.cumsum(data.lengths[order])
    return (
        gather(data, np.tile(order[start:stop], runs), (stop - start,) * runs)
        for start, stop in _spans(ends, max_tokens // runs)
    )


def _spans(ends: npt.NDArray[np.int64], max_tokens: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive rows whose tokens stay within the budget; `ends` are cumulative token counts."""
    start, used = 0, 0
    while start < len(ends):
        stop = max(start + 1, int(np.searchsorted(ends, used + max_tokens, side="right")))
        yield start, stop
        start, used = stop, int(ends[stop - 1])


def padded(batch: Batch, pad_id: int) -> dict[str, Tensor]:
    """The batch as [B, L] tensors with padding on the right, for encoders that need it.

    Keys as the encoder's forward names them: input_ids, attention_mask (1 on tokens), token_type_ids if there are any.
    """
    places = torch.arange(int(batch.lengths.max()), device=batch.lengths.device)
    mask = places[None, :] < batch.lengths[:, None]  # [B, L]
    # Row-major order of the true places is the flat order, so that one masked assignment spreads the tokens.
    input_ids = torch.full(mask.shape, pad_id, dtype=torch.int64, device=mask.device)
    input_ids[mask] = batch.input_ids
    out = {"input_ids": input_ids, "attention_mask": mask.to(torch.int64)}
    if batch.token_type_ids is not None:
        out["token_type_ids"] = torch.zeros_like(input_ids)
        out["token_type_ids"][mask] = batch.token_type_ids
    return out
