"""Run both sides in processes that train at the same time.

All of the machine against all of the machine: our side is one process of one thread on every core, the baseline one
process with all threads. On a GPU each side is one process. All of them live through the bench and wait for their turn.
"""

import gc
import multiprocessing
import re
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.benchmark import Timer

from bench.work import Load
from symlora.errors import SymloraError
from symlora.model.device import DTYPES
from symlora.runner.provenance import provenance, reset_peak_memory

TOKENS = {"cpu": 1024, "cuda": 16384, "mps": 1024}  # rows of a matmul; more are no faster
T = TypeVar("T")


class Group(ExitStack):
    """The processes of one side, with so many threads each (None: torch's own number); ends them on exit."""

    def __init__(self, processes: int, threads: int | None, device: str) -> None:
        super().__init__()
        context, start = multiprocessing.get_context("spawn"), (_start, (device, threads))
        self._pools = [self.enter_context(ProcessPoolExecutor(1, context, *start)) for _ in range(processes)]

    def ask(self, function: Callable[..., T], *arguments: Any, only_first: bool = False) -> list[T]:
        """Call a function of this module in every process at once, or in the first alone."""
        futures = [pool.submit(function, *arguments) for pool in self._pools[: 1 if only_first else None]]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            if isinstance(error := future.exception(), BrokenProcessPool):
                raise SymloraError("a worker of the bench was killed, perhaps for want of memory: give smaller --runs.")
            if error:
                raise SymloraError(f"a worker of the bench failed:\n{''.join(traceback.format_exception(error))}")
        return [future.result() for future in futures]


_device = torch.device("cpu")  # of this process
_cases: dict[str, Any] = {}  # that it has loaded, by name


def _start(device: str, threads: int | None) -> None:
    global _device
    _device = torch.device(device)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the first one ends the others
    if threads is not None:
        torch.set_num_threads(threads)


def about() -> tuple[dict[str, Any], int]:
    """Report versions and device, and the threads of this process."""
    return provenance(_device), torch.get_num_threads()


def load(what: Load) -> tuple[dict[str, float], int | None]:
    """Build a case and warm it up; the bytes that this took beyond the loaded model, if the machine tells."""
    from bench.trainers import Baseline, Ours

    _cases[what.case.name] = (Ours if what.case.side == "ours" else Baseline)(what, _device)
    before = _memory(reset=True)
    sample = run(what.case.name, 0, 1)
    return sample, None if before is None else max(0, (_memory() or 0) - before)


def run(name: str, turn: int, passes: int) -> dict[str, float]:
    """Train; what was done, `started` and `stopped` on the common clock, and the seconds of all threads."""
    before = time.process_time()
    return {**_cases[name].run(turn, passes), "cpu_seconds": time.process_time() - before}


def clear() -> None:
    """Forget all cases."""
    _cases.clear()
    _memory(reset=True)


def matmul_rates(width: int, inner: int, precision: str, seconds: float = 0.1) -> dict[str, float]:
    """Measure the FLOP/s of x Wᵀ for each matrix shape of an encoder, on torch's threads.

    By shape (`1024x384x1536`: tokens, columns, rows of W), of the fastest block of calls in so many seconds: a peak is
    what the machine can do when nothing disturbs it.
    """
    tokens, rates = TOKENS[_device.type], {}
    for columns, rows in ((width, width), (width, inner), (inner, width)):
        x, weight = (torch.randn(n, columns, device=_device).to(DTYPES[precision]) for n in (tokens, rows))
        names = {"linear": torch.nn.functional.linear, "x": x, "weight": weight}
        timer = Timer("linear(x, weight)", globals=names, num_threads=torch.get_num_threads())
        best = min(timer.blocked_autorange(min_run_time=seconds).times)
        rates[f"{tokens}x{columns}x{rows}"] = 2.0 * tokens * columns * rows / best
    return rates


def _memory(*, reset: bool = False) -> int | None:
    """The most bytes in use since the last reset; with one, the bytes in use now. None where only Linux tells."""
    if reset:
        gc.collect()
        torch.cuda.empty_cache()
        reset_peak_memory(_device)
    if _device.type == "cuda":
        return torch.cuda.max_memory_allocated(_device)
    try:
        most = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        return int(most[1]) * 1024 if most else None
    except OSError:
        return None
