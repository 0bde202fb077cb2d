"""Starts the project's scripts as their users do, but in a forked child: torch and the others are imported once."""

import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 300.0  # seconds after which a child that still runs is a fault of its own

_FORK = multiprocessing.get_context("fork")
Plant = Callable[[], object]
"""Called in a child before its script: faults are planted by it."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: Its exit status; -9 where it was killed.
        out: What it printed to stdout.
        err: What it printed to stderr.
        seconds: Its life.
    """

    status: int
    out: str
    err: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -9

    @property
    def printed(self) -> str:
        """All of it."""
        return self.out + self.err


class Child:
    """A script that runs in a child.

    Args:
        script: Its file.
        arguments: Its command line.
        folder: Working directory, and where its output is kept.
        plant: Called in the child before the script.
    """

    def __init__(self, script: Path, arguments: Sequence[str], folder: Path, plant: Plant | None = None) -> None:
        self._streams = [_new_file(folder, suffix) for suffix in (".out", ".err")]
        sys.stdout.flush()
        sys.stderr.flush()
        self._started = time.monotonic()
        streams = [str(path) for path in self._streams]
        self._process = _FORK.Process(target=_run, args=(str(script), [*arguments], str(folder), streams, plant))
        self._process.start()

    def wait(self, kill_after: float | None = None) -> Ended:
        """Waits until it ends, or kills it (SIGKILL) after so many seconds.

        Raises:
            TimeoutError: It ran longer than PATIENCE.
        """
        self._process.join(PATIENCE if kill_after is None else kill_after)
        late = kill_after is None and self._process.is_alive()
        self._process.kill()  # of one that has ended: nothing
        self._process.join()
        out, err = (path.read_text(errors="replace") for path in self._streams)
        if late:
            raise TimeoutError(f"a child did not end in {PATIENCE:.0f} s; it printed: {out}{err}")
        for path in self._streams:
            path.unlink()
        status = self._process.exitcode
        assert status is not None
        return Ended(status, out, err, time.monotonic() - self._started)

    def lives(self, seconds: float) -> bool:
        """Whether it still runs after so many seconds."""
        self._process.join(seconds)
        return self._process.is_alive()

    def interrupt(self, signal: int) -> None:
        """Sends it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal)


def _new_file(folder: Path, suffix: str) -> Path:
    descriptor, name = tempfile.mkstemp(suffix, "printed-", folder)
    os.close(descriptor)
    return Path(name)


def _run(script: str, arguments: list[str], folder: str, streams: list[str], plant: Plant | None) -> None:
    for number, stream in enumerate((os.devnull, *streams)):
        descriptor = os.open(stream, os.O_RDWR)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # multiprocessing took it away
    os.chdir(folder)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    if plant is not None:
        plant()
    runpy.run_path(script, run_name="__main__")
