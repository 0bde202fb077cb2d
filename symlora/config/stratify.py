"""Draw rows class by class in proportion."""

from typing import Any

import numpy as np
import numpy.typing as npt

from symlora.errors import SymloraError

SLICE_SEED = 0  # which rows are held out or kept is a fact of the data, the same for every run's seed


def choose_rows(labels: npt.NDArray[Any], count: int, keep: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw about `count` row numbers in proportion to the classes.

    keep = 0: exactly `count` rows. keep = 1: at least one row of each class is chosen and at least one is not.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
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
