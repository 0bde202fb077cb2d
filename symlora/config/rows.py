"""Define a split, and draw rows in proportion to the classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from symlora.errors import SymloraError

SLICE_SEED = 0  # the held-out rows are the same for every run

Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a task, in file order; never changed."""

    name: str
    texts: tuple[list[str], ...]  # for each text column, [rows] strings
    labels: Labels  # [rows] int64 classes or float32 scores; all -1 where hidden (GLUE's test labels, except MRPC's)
    idx: Rows  # [rows] int64, the hub's row numbers (unique, but with gaps in MRPC); of an own table from 0

    def __post_init__(self) -> None:
        if {len(column) for column in (*self.texts, self.labels)} != {len(self.idx)}:
            raise ValueError(f"split {self.name}: columns differ in length")

    def __len__(self) -> int:
        return len(self.idx)

    @cached_property
    def sha256(self) -> str:
        """Hash the content.

        Hashed in order, all integers little-endian: the line `symlora-split-1 <text columns> <rows> <int64|float32>`
        with a newline; for each text column the byte length of every UTF-8 string (uint64), then the strings' bytes
        end to end; the labels (int64 or float32); idx (int64).
        """
        digest = hashlib.sha256(f"symlora-split-1 {len(self.texts)} {len(self)} {self.labels.dtype.name}\n".encode())
        for column in self.texts:
            encoded = [text.encode() for text in column]
            digest.update(np.array([len(text) for text in encoded], dtype="<u8").tobytes())
            digest.update(b"".join(encoded))
        digest.update(self.labels.astype(self.labels.dtype.newbyteorder("<")).tobytes())
        digest.update(self.idx.astype("<i8").tobytes())
        return digest.hexdigest()

    def take(self, rows: Rows, name: str | None = None) -> Split:
        """Return the given rows, in the given order, as a split."""
        texts = tuple([column[row] for row in rows.tolist()] for column in self.texts)
        return Split(name or self.name, texts, self.labels[rows], self.idx[rows])

    def cut(self, rows: Rows, name: str) -> tuple[Split, Split]:
        """Split into the other rows and these, under another name."""
        return self.take(np.setdiff1d(np.arange(len(self)), rows)), self.take(rows, name)


def choose_rows(labels: npt.NDArray[Any], count: int, keep: int) -> Rows:
    """Draw about `count` row numbers in proportion to the classes.

    keep = 0: exactly `count` rows. keep = 1: at least one row of each class is chosen and at least one is not.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(SLICE_SEED)))
    groups = np.zeros(len(labels), np.int64)  # a regression task is one group
    if labels.dtype.kind == "i":
        groups = np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(groups)
    if keep and sizes.min() < 2:
        raise SymloraError("a class (or the whole split) has a single row: too few to hold one out. Use more rows.")
    exact = sizes * count / sizes.sum()
    quota = np.clip(np.floor(exact).astype(np.int64), keep, sizes - keep)
    while quota.sum() < count and (quota < sizes - keep).any():  # largest remainders first
        quota[np.argmax(np.where(quota < sizes - keep, exact - quota, -np.inf))] += 1
    chosen = [rng.permutation(np.flatnonzero(groups == group))[:size] for group, size in enumerate(quota)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
