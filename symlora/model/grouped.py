"""Multiply each run's rows by its own matrix.

    X_k F_k and A_kᵀ B_k,   k = 1 … K: the rows of run k, one run's after the other's

CPUs have no kernel for that. There, if the runs have few columns, one product serves them all, with zeros where a row
belongs to another run. Otherwise torch's grouped_mm is used. GPUs other than Hopper and Blackwell (compute capability
9 and 10) have no kernel either: grouped_mm would wait for the device and loop over the runs. There runs are padded to
equal numbers of rows.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grouped_mm

from symlora.model.device import to_device

MOST_COLUMNS = 256  # of all runs' low-rank factors side by side


@dataclass(frozen=True)
class Fill:
    """Pad runs to equal numbers of rows with copies of their first."""

    index: Tensor  # the row at each of the K · most places: int64
    back: Tensor  # the place of each row: int64 [R]
    surplus: Tensor  # places that hold a copy: int64

    def padded(self, x: Tensor, runs: int) -> Tensor:
        """Gather rows [R, n] as [K, most, n]; the surplus is zero."""
        return x.index_select(0, self.index).index_fill_(0, self.surplus, 0.0).view(runs, -1, x.shape[1])

    @staticmethod
    @lru_cache(maxsize=2)  # all layers of a batch use the same
    def of(counts: tuple[int, ...], device: torch.device) -> "Fill":
        """Make the indices for runs with these row counts."""
        number = torch.tensor(counts)
        starts = torch.cumsum(number, 0) - number
        column = torch.arange(max(counts))
        real = column < number[:, None]
        index = torch.where(real, starts[:, None] + column, starts[:, None]).flatten()
        real = real.flatten()
        places = (index, real.nonzero().flatten(), (~real).nonzero().flatten())
        with torch.inference_mode(False):  # what scoring has cached must serve backward passes too
            return Fill(*(to_device(part.clone(), device) for part in places))


@dataclass(frozen=True)
class RunRows:
    """Whose the rows of a pack are: one run's after the other's."""

    ends: Tensor  # last row of each run + 1: int32 [K]
    runs: Tensor  # number of each row's run: int64 [T]
    places: Tensor  # that of each row's run in a table of rows and runs, [T · K]: int64 [T]
    counts: Tensor  # of each run's rows: int64 [K]
    fill: Fill | None  # where torch's grouped_mm has no kernel

    def sums(self, values: Tensor) -> Tensor:
        """Sum each run's values [T], unlike index_add in a fixed order."""
        return torch.segment_reduce(values, "sum", lengths=self.counts, unsafe=True)

    @staticmethod
    @lru_cache(maxsize=2)  # all layers of a batch use the same
    def of(counts: tuple[int, ...], device: torch.device) -> "RunRows":
        """Number the rows of runs with these counts."""
        numbers = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(numbers)) * len(counts) + numbers
        parts = (np.cumsum(counts, dtype=np.int32), numbers, places, np.array(counts))
        ends, runs, at, own = (to_device(torch.from_numpy(part), device) for part in parts)
        return RunRows(ends, runs, at, own, None if has_kernel(device) else Fill.of(counts, device))


def has_kernel(device: torch.device) -> bool:
    """Tell whether grouped_mm does not wait for this device."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)


def by_run(x: Tensor, factors: Tensor, rows: RunRows | None) -> Tensor:
    """Multiply each run's rows by its factor.

    Factors are [K, n, r] or [K, r, n].
    """
    if rows is None:
        return x @ factors[0]
    number, width, height = factors.shape
    if rows.fill is not None:
        return (rows.fill.padded(x, number) @ factors).flatten(0, 1).index_select(0, rows.fill.back)
    if not _in_blocks(x, number * min(width, height)):
        return grouped_mm(x, factors, offs=rows.ends)
    if height < width:  # compute every run's columns for all rows, then select each row's own
        return (x @ factors.transpose(0, 1).flatten(1)).view(-1, height).index_select(0, rows.places)
    if not finite(x, factors):  # it would spread to the other runs
        return grouped_mm(x, factors, offs=rows.ends)
    return _spread(x, rows, number) @ factors.flatten(0, 1)


def _in_blocks(x: Tensor, columns: int) -> bool:
    """Tell whether one product for all runs is faster."""
    return x.device.type == "cpu" and columns <= MOST_COLUMNS


def finite(*tensors: Tensor) -> bool:
    """Tell whether no value is NaN or infinite."""
    return all(math.isfinite(tensor.sum().item()) for tensor in tensors)


def _spread(low: Tensor, rows: RunRows, number: int) -> Tensor:
    """Put each row at its run's columns among zeros: [T, K · r]."""
    return low.new_zeros(len(low) * number, low.shape[1]).index_copy_(0, rows.places, low).view(len(low), -1)


def outer(a: Tensor, b: Tensor, rows: RunRows | None, all_finite: bool) -> Tensor:
    """Sum up outer products of each run's rows."""
    if rows is None:
        return (a.mT @ b)[None]
    number, width, height = len(rows.ends), a.shape[1], b.shape[1]
    if rows.fill is not None:
        return rows.fill.padded(a, number).mT @ rows.fill.padded(b, number)
    if not all_finite or not _in_blocks(a, number * min(width, height)):
        return grouped_mm(a.mT, b, offs=rows.ends)
    if height < width:
        return (a.mT @ _spread(b, rows, number)).view(width, number, height).transpose(0, 1)
    return (_spread(a, rows, number).mT @ b).view(number, width, height)
