"""Train one pack in a worker and return its runs' outcomes."""

import gc
import math
import os
import platform
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig

from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.runner.reporter import Reporter
from symlora.store.folder import failure_text
from symlora.store.selection import criterion
from symlora.sweep.launchers import VARIABLE
from symlora.sweep.packing import PackPlan
from symlora.sweep.progress import say
from symlora.training.interrupt import Stopped, cluster_job, end_with_parent, graceful_stop, raise_if_stopped

_own: list[tuple[str, Any]] = []  # this process's GPU, and the lock that it holds until it ends


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    index: int  # the job's place in the multirun
    score: float | None = None  # the score that may choose a configuration; None if not defined, or the job failed
    error: str | None = None  # why it failed
    busy: bool = False  # another process trains it


def outcome(index: int, folder: Path, record: dict[str, Any]) -> Outcome:
    """Read an outcome from a run's record."""
    if record["status"] == "finished":
        return Outcome(index, score=criterion(record)[0])
    if record["status"] in ("busy", "lost"):
        return Outcome(index, error=record["error"], busy=record["status"] == "busy")
    return Outcome(index, error=failure_text(folder, record))


@dataclass
class PackTask:
    """Train the pack with the job's number, as Hydra's task function."""

    packs: Sequence[PackPlan]  # all packs of the multirun
    log: Path  # file to which it reports the pack's start and end; its folder exists
    threads: int | None = None  # of torch; None leaves them
    devices: Sequence[str] = ()  # GPUs for the workers, if `hydra.job.env_set` does not name one
    stop_file: Path | None = None  # it appears when the launching process is asked to stop
    began: float = math.inf  # when the sweep began (symlora.runner.run.run_pack)
    launcher: int = field(default_factory=os.getpid)  # the launching process; when it is killed, its children end

    def __call__(self, cfg: Any) -> list[Outcome]:
        """Train one pack; errors become outcomes, and stop no other pack."""
        if os.getppid() == self.launcher:
            end_with_parent()
            signal.signal(signal.SIGINT, lambda *_: None)  # ignored between packs; the launching process gets it too
        hydra = HydraConfig.get()
        number = int(hydra.job.num)
        pack = self.packs[number]
        if self.devices and VARIABLE not in hydra.job.env_set:
            os.environ[VARIABLE] = own_device(self.devices, self.log.parent, number)
        try:
            with cluster_job(), graceful_stop(self.stop_file):
                raise_if_stopped()
                say(self.log, number, "started")
                outcomes = self._train(pack)
        except Stopped:
            return [Outcome(job.index, error="stopped") for job in pack.jobs]
        except Exception as error:  # bad data, a full disk, a bug
            if not isinstance(error, SymloraError):
                traceback.print_exc(file=sys.stderr)
            outcomes = [Outcome(job.index, error=str(error) or type(error).__name__) for job in pack.jobs]
        failed = sum(outcome.error is not None for outcome in outcomes)
        say(self.log, number, "finished", failed=failed)
        return outcomes

    def _train(self, pack: PackPlan) -> list[Outcome]:
        go_offline_if_unreachable()
        import torch

        from symlora.model.device import return_memory
        from symlora.model.packable import CannotPack
        from symlora.runner.run import run_pack

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        configs = [job.config for job in pack.jobs]
        reporters = [Reporter(config, quiet=True) for config in configs]
        try:
            trained = run_pack(configs, reporters, self.began)
        except CannotPack:  # one run after another
            if len(configs) == 1:
                raise
            alone = zip(configs, reporters, strict=True)
            trained = [run_pack([config], [reporter], self.began)[0] for config, reporter in alone]
        gc.collect()  # an adapted model holds itself
        return_memory()  # joblib takes memory that a worker keeps for a leak
        return [outcome(job.index, *ran) for job, ran in zip(pack.jobs, trained, strict=True)]


def own_device(devices: Sequence[str], folder: Path, number: int) -> str:
    """Reserve the first free GPU for this process.

    CUDA reads the variable once, so a process keeps its GPU. If none is free, the pack's number chooses.
    """
    for name in () if _own else devices:
        place = re.sub(r"[^\w-]+", "-", f"gpu-{platform.node()}-{name}")
        lock = FileLock(folder / f"{place}.lock", timeout=0, fallback_to_soft=False)
        with suppress(Timeout, OSError, NotImplementedError):
            lock.acquire()
            _own.append((name, lock))
            break
    if not _own:
        _own.append((devices[number % len(devices)], None))
    return _own[0][0]
