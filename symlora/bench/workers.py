"""Processes that hold models ready and train at the same time, when told to.

Whole machine against whole machine: ours is one process of one thread on every core, the baseline one process with all
threads. On a GPU each side is one process. All of them live through the whole bench and wait while others work.
"""

import ctypes
import multiprocessing
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from symlora.bench.work import Done, Load
from symlora.errors import SymloraError

_WAIT = 600.0  # seconds at the barrier: a neighbour that still has not come has died


@dataclass(frozen=True)
class Sample:
    """One process's part of a measurement.

    Attributes:
        done: What it did.
        started, stopped: On the machine's common clock, seconds.
        cpu_seconds: Of the process, all threads.
    """

    done: Done
    started: float
    stopped: float
    cpu_seconds: float


@dataclass(frozen=True)
class Ready:
    """A case that was built and warmed up.

    Attributes:
        sample: Of the warm-up.
        peak_bytes: The most memory that the warm-up took beyond what the process had with the model loaded; None where
            the machine does not tell.
    """

    sample: Sample
    peak_bytes: int | None


class Group:
    """Processes of one side.

    Args:
        processes: How many.
        threads: Threads of each; None leaves torch's own number.
        device: `cpu` or `cuda`.
    """

    def __init__(self, processes: int, threads: int | None, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes, self.threads = processes, threads
        barrier = self._barrier = context.Barrier(processes)  # kept: it ends with its last holder
        self._members = []
        for _ in range(processes):
            here, there = context.Pipe()
            member = context.Process(target=_serve, args=(there, barrier, threads, device), daemon=True)
            member.start()
            there.close()
            self._members.append((member, here))

    def ask(self, command: str, *arguments: Any, only_first: bool = False) -> list[Any]:
        """Every process (or the first alone) does the same; their answers.

        Raises:
            SymloraError: One failed; the message has its reason.
        """
        members = self._members[:1] if only_first else self._members
        for _, connection in members:
            connection.send((command, arguments, len(members)))
        answers = []
        for member, connection in members:
            try:
                kind, answer = connection.recv()
            except (EOFError, ConnectionError) as error:
                member.join(5)
                raise SymloraError(f"a worker of the bench ended with exit code {member.exitcode}") from error
            if kind == "error":
                raise SymloraError(f"a worker of the bench failed:\n{answer}")
            answers.append(answer)
        return answers

    def close(self) -> None:
        """Ends the processes."""
        for member, connection in self._members:
            connection.close()
            member.join(2)
            if member.is_alive():
                member.terminate()


def wall(samples: Sequence[Sample]) -> float:
    """From the first process's start to the last one's end, seconds."""
    return max(sample.stopped for sample in samples) - min(sample.started for sample in samples)


def _serve(connection: Any, barrier: Any, threads: int | None, device: str) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    worker = _Worker(torch.device(device), barrier)
    while True:
        try:
            command, arguments, together = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            connection.send(("done", getattr(worker, command)(together, *arguments)))
        except (Exception, BrokenBarrierError):
            barrier.abort()
            connection.send(("error", traceback.format_exc()))


class _Worker:
    """What a process does when it is asked."""

    def __init__(self, device: Any, barrier: Any) -> None:
        self.device, self.barrier = device, barrier
        self.cases: dict[str, Any] = {}

    def load(self, together: int, load: Load) -> Ready:
        """Builds a case and warms it up with one pass, whose memory is taken."""
        from symlora.bench.baseline import Baseline
        from symlora.bench.ours import Ours

        side = Ours if load.case.side == "ours" else Baseline
        self.cases[load.case.name] = side(load, self.device)
        before = _reset_peak(self.device)
        sample = self.run(together, load.case.name, 0, 1)
        peak = _peak(self.device)
        return Ready(sample, None if before is None or peak is None else max(0, peak - before))

    def clear(self, together: int) -> None:
        """Forgets all cases."""
        self.cases.clear()
        _reset_peak(self.device)

    def run(self, together: int, name: str, turn: int, passes: int) -> Sample:
        """Trains, from the moment when all are ready."""
        case = self.cases[name]
        self._meet(together)
        cpu, started = time.process_time(), time.perf_counter()
        found = case.run(turn, passes)
        _synchronize(self.device)
        stopped = time.perf_counter()
        cpu = time.process_time() - cpu
        if isinstance(found, tuple):  # the baseline takes its own time, without the Trainer's start
            found, seconds = found
            started = stopped - seconds
        return Sample(found, started, stopped, cpu)

    def peak(self, together: int, width: int, inner: int, precision: str) -> dict[str, float]:
        """Matmul rates by shape."""
        from symlora.bench.peak import matmul_rates

        self._meet(together)
        return matmul_rates(width, inner, precision, self.device)

    def about(self, together: int) -> dict[str, Any]:
        """Versions, device and threads of this process."""
        import torch

        from symlora.runner.provenance import provenance

        return {**provenance(self.device), "threads": torch.get_num_threads()}

    def _meet(self, together: int) -> None:
        if together > 1:
            self.barrier.wait(_WAIT)


def _synchronize(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _reset_peak(device: Any) -> int | None:
    """Starts the count of the most memory anew; the memory in use, or None where that cannot be done."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # freed memory back to the system, else it would hide what is taken
            Path("/proc/self/clear_refs").write_text("5")
            return _status("VmRSS")
    except (OSError, AttributeError):  # no such file in this kernel, or another C library
        pass
    return None


def _peak(device: Any) -> int | None:
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if sys.platform == "linux" else None


def _status(key: str) -> int | None:
    """A value of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None
