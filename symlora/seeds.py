"""Split one run's seed into separate random streams.

With one global generator, two methods draw different amounts of random numbers when their adapters are made, and all
later draws (head, data order, dropout) differ. Here each use has a stream of its own: seed k gives the same head and
the same batches to every method, whose results are thus paired.

    stream(seed, name, *path) = PCG64(SeedSequence(entropy=seed, spawn_key=(STREAMS[name], *path)))

The numbers in `STREAMS` are part of what a seed means: never change or reuse one; a new stream takes a new number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STREAMS: dict[str, int] = {"head": 0, "adapter": 1, "data": 2, "dropout": 3, "step": 4}


def seed_sequence(seed: int, stream: str, *path: int) -> np.random.SeedSequence:
    """Return the seed sequence of one stream; `path` splits it further."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(STREAMS[stream], *path))


def numpy_generator(seed: int, stream: str, *path: int) -> np.random.Generator:
    """Return a numpy generator for one stream."""
    # The bit generator is named, since numpy may change its default one.
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, stream, *path)))


def torch_generator(seed: int, stream: str, *path: int) -> torch.Generator:
    """Return a torch generator on the CPU for one stream.

    Draw initial values there and then move them: equal seeds give different numbers on different devices. (The
    generator reads only the lower 32 bits of its seed, so two of n streams coincide with chance n²/2^33.)
    """
    import torch

    state = int(seed_sequence(seed, stream, *path).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)  # 63 bits: torch takes a signed integer
