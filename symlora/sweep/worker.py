"""What runs in a worker: one pack, from its number to the outcome of each of its runs."""

import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.runner.reporter import Reporter
from symlora.store.folder import failure_text
from symlora.sweep.launchers import VARIABLE
from symlora.sweep.packing import PackPlan
from symlora.sweep.progress import ProgressLog
from symlora.training.interrupt import Stopped, graceful_stop, raise_if_stopped

if TYPE_CHECKING:
    from symlora.training.loop import StepProgress


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        index: The job's place among those that Hydra asked for.
        score: The run's score; None where it is not defined, or the job failed.
        error: Why it failed; None where it did not.
        busy: Another process trains it.
    """

    index: int
    score: float | None = None
    error: str | None = None
    busy: bool = False


def outcome(index: int, folder: Path, record: dict[str, Any]) -> Outcome:
    """The outcome that a run's record tells of."""
    if record["status"] == "finished":
        return Outcome(index, score=record["score"]["value"])
    if record["status"] in ("busy", "lost"):
        return Outcome(index, error=record["error"], busy=record["status"] == "busy")
    return Outcome(index, error=failure_text(folder, record))


@dataclass
class PackTask:
    """Hydra's task function of a worker: trains the pack whose number is the job's.

    Attributes:
        packs: All packs of the multirun.
        progress: Where to say how far it is.
        threads: Of torch; None leaves them.
        devices: GPUs to be given out in turn, where Hydra's configuration does not (`hydra.job.env_set`).
        stop_file: Where it appears, the launching process was asked to stop.
        began: When the sweep began (symlora.runner.run.run_pack).
        launcher: The launching process; a worker that is its child ends when it was killed.
    """

    packs: Sequence[PackPlan]
    progress: ProgressLog
    threads: int | None = None
    devices: Sequence[str] = ()
    stop_file: Path | None = None
    began: float = math.inf
    launcher: int = field(default_factory=os.getpid)

    def __call__(self, cfg: Any) -> list[Outcome]:
        """Train one pack. What goes wrong with it is told in its outcomes, and stops no other pack."""
        if os.getppid() == self.launcher:
            threading.Thread(target=_end_with, args=(self.launcher,), daemon=True).start()
        hydra = HydraConfig.get()
        number = int(hydra.job.num)
        pack = self.packs[number]
        if self.devices and VARIABLE not in hydra.job.env_set:
            os.environ[VARIABLE] = self.devices[number % len(self.devices)]
        try:
            with graceful_stop(self.stop_file):
                raise_if_stopped()
                self.progress.say(number, "started")
                outcomes = self._train(number, pack)
        except Stopped:
            return [Outcome(job.index, error="stopped") for job in pack.jobs]
        except Exception as error:  # bad data, no disk left, a fault of ours
            if not isinstance(error, SymloraError):
                traceback.print_exc(file=sys.stderr)
            outcomes = [Outcome(job.index, error=str(error) or type(error).__name__) for job in pack.jobs]
        failed = sum(outcome.error is not None for outcome in outcomes)
        self.progress.say(number, "finished", failed=failed)
        return outcomes

    def _train(self, number: int, pack: PackPlan) -> list[Outcome]:
        go_offline_if_unreachable()
        import torch

        from symlora.runner.run import run_pack

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        configs = [job.config for job in pack.jobs]
        reporters = [PackReporter(config, self.progress, number) for config in configs]
        try:
            trained = run_pack(configs, reporters, self.began)
        except ValueError:  # a method whose modules cannot be stacked (symlora.model.pack): one run after another
            if len(configs) == 1:
                raise
            alone = zip(configs, reporters, strict=True)
            trained = [run_pack([config], [reporter], self.began)[0] for config, reporter in alone]
        return [outcome(job.index, *ran) for job, ran in zip(pack.jobs, trained, strict=True)]


def _end_with(launcher: int) -> None:
    """End this worker when the launching process is gone: nobody would take up its outcomes, or give it more."""
    while os.getppid() == launcher:
        time.sleep(1.0)
    os._exit(1)


class PackReporter(Reporter):
    """Says how far the pack is, and prints nothing; W&B is mirrored as ever."""

    def __init__(self, config: Config, progress: ProgressLog, number: int) -> None:
        super().__init__(config, quiet=True)
        self._progress = progress
        self._number = number

    def step(self, progress: "StepProgress") -> None:
        """After every step."""
        super().step(progress)
        self._progress.share(self._number, progress.step / progress.steps)
