"""Make flat batches of a tokenized split, in the seed's order.

Letters: B rows in a batch, T tokens of them all, L the longest row. A flat batch is one run of T tokens, row after
row; `lengths` and `starts` say where each row lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from symlora.config.rows import Rows
from symlora.data.tokens import TokenizedSplit
from symlora.seeds import numpy_generator


@dataclass(frozen=True, eq=False)
class Batch:
    """A flat batch. All are int64, but labels that are scores float32."""

    input_ids: Tensor  # [T]
    token_type_ids: Tensor | None  # [T]; None without segments
    lengths: Tensor  # [B] tokens in each row
    starts: Tensor  # [B] place of each row's first token (the one that classifiers read) in input_ids
    labels: Tensor  # [B]
    rows: Tensor  # [B] row numbers in the TokenizedSplit
    places: Tensor  # [B] place of each row in its run's batch, over all processes
    sizes: tuple[int, ...]  # rows of each run of a pack, one run's after the other's; they sum to B

    def tokens(self) -> tuple[int, ...]:
        """Count the tokens of each run; they sum to T."""
        return tuple(int(part.sum()) for part in np.split(self.lengths.numpy(), np.cumsum(self.sizes)[:-1]))


def gather(data: TokenizedSplit, rows: Rows, sizes: tuple[int, ...] | None = None, share: slice = slice(None)) -> Batch:
    """Gather the given rows, in order, into one flat batch.

    Rows may repeat. `sizes` says how many belong to each run of a pack (None: all to one), and `share` which of a run's
    whole batch they are.
    """
    sizes = (len(rows),) if sizes is None else sizes
    first, apart = share.start or 0, share.step or 1
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
        places=torch.from_numpy(np.concatenate([np.arange(size) * apart + first for size in sizes])),
        sizes=sizes,
    )


def pack_batch(
    data: TokenizedSplit, orders: Sequence[Rows], batch_size: int, step: int, share: slice = slice(None)
) -> Batch:
    """Gather the batches of several runs at one step, end to end.

    `share` takes a part of every run's batch, for one of several processes; it may be empty.
    """
    parts = [order[step * batch_size : (step + 1) * batch_size][share] for order in orders]
    return gather(data, np.concatenate(parts), tuple(len(part) for part in parts), share)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Count the steps of an epoch; a short last batch is kept."""
    return -(-rows // batch_size)


def epoch_order(rows: int, seed: int, epoch: int) -> Rows:
    """Permute the rows for an epoch.

    Every epoch (from 0) has its own generator of the seed's `data` stream, so that no epoch needs those before it.
    """
    return numpy_generator(seed, "data", epoch).permutation(rows)


def eval_batches(data: TokenizedSplit, max_tokens: int, runs: int = 1) -> Iterator[Batch]:
    """Yield every row once, longest first, in batches of `max_tokens` tokens.

    A longer row makes its own batch. With several `runs` each batch holds its rows once for every run of a pack, and
    the tokens of all runs count. Rows of like length meet, so that padding costs little, and the largest batch comes
    first: what does not fit into memory fails at once. `batch.rows` says where each prediction belongs.
    """
    order = np.argsort(-data.lengths, kind="stable")  # equal lengths stay in file order
    ends = np.cumsum(data.lengths[order])
    start, used = 0, 0
    while start < len(ends):
        stop = max(start + 1, int(np.searchsorted(ends, used + max_tokens // runs, side="right")))
        yield gather(data, np.tile(order[start:stop], runs), (stop - start,) * runs)
        start, used = stop, int(ends[stop - 1])


def padded(batch: Batch, pad_id: int) -> dict[str, Tensor]:
    """Pad a batch on the right to [B, L] tensors."""
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
