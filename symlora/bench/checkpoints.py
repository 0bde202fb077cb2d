"""What checkpoints cost: the same training with and without them, in turn.

They are written far more often here than by default, so that their cost shows at all; what one takes is then set
against the default interval.
"""

import copy
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from symlora.bench.settings import Settings, task_config
from symlora.config.schema import CheckpointConfig
from symlora.model.build import build_pack
from symlora.model.device import pick_device, pick_precision
from symlora.runner.prepare import prepare_data
from symlora.training.checkpoint import Checkpoint
from symlora.training.loop import fit_pack

EVERY = 2.0  # seconds between two checkpoints in the measured trainings
ROWS = 640  # training rows: 40 steps


class Timed(Checkpoint):
    """A checkpoint that notes how long each took, and how large it was."""

    def __init__(self, folder: Path, runs: int) -> None:
        names = [f"seed-{number}" for number in range(runs)]
        super().__init__(folder, names, {"configurations": dict.fromkeys(names, "")}, EVERY)
        self.took: list[float] = []
        self.bytes = 0

    def save(self, state: dict[str, object], steps: int, *, trained: bool = False) -> None:
        """Writes one, and takes the time."""
        started = time.perf_counter()
        super().save(state, steps, trained=trained)
        self.took.append(time.perf_counter() - started)
        self.bytes = max(self.bytes, *(path.stat().st_size for path in self.folder.glob("*.safetensors")), 0)
        self._next = time.monotonic() + EVERY


def cost(settings: Settings, runs: int, rounds: int) -> str:
    """One line: seconds without and with, what one checkpoint takes, and its share of the default interval."""
    config = task_config(settings, settings.tasks[0], settings.method)
    config.data.train_limit = ROWS
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    configs = [copy.deepcopy(config) for _ in range(runs)]
    for seed, copied in enumerate(configs):
        copied.seed = seed
    data = prepare_data(config)[1]
    times: dict[bool, list[float]] = {False: [], True: []}
    took: list[float] = []
    size = 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for kept in (False, True):
                pack = build_pack(configs, device, precision)
                checkpoint = Timed(Path(folder), runs) if kept else None
                started = time.perf_counter()
                fit_pack(configs, data, pack, checkpoint=checkpoint)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times[kept].append(time.perf_counter() - started)
                if checkpoint is not None:
                    took += checkpoint.took
                    size = checkpoint.bytes
                    checkpoint.remove()
    without, with_them = median(times[False]), median(times[True])
    one, default = median(took), CheckpointConfig().seconds
    return (
        f"K = {runs}: {without:.1f} s without, {with_them:.1f} s with {len(took) / rounds:.0f} checkpoints "
        f"({with_them / without - 1:+.1%}); one takes {1e3 * one:.0f} ms and {size / 2**20:.1f} MiB: "
        f"{one / default:.2%} of the time at the default of one a {default:.0f} s"
    )
