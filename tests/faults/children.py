"""Start the command `symlora` as its users do, but in a forked child: torch is imported once."""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 300.0  # seconds after which a child that still runs is a fault of its own

_FORK = multiprocessing.get_context("fork")
Plant = Callable[[], object]  # called in a child before its command: it plants a fault


@dataclass(frozen=True)
class Ended:
    """How a child ended, and what it printed."""

    status: int  # -9 where it was killed
    out: str
    err: str
    seconds: float  # of its life

    @property
    def killed(self) -> bool:
        return self.status == -9

    @property
    def printed(self) -> str:
        return self.out + self.err

    @property
    def brief(self) -> str:
        return " ".join(self.err.split())[-600:]


class Child:
    """A command that runs in a child, in `folder`, after `plant`."""

    def __init__(self, arguments: Sequence[str], folder: Path, plant: Plant | None = None) -> None:
        self._printed = Path(tempfile.mkdtemp(".printed", dir=folder.parent))
        sys.stdout.flush()
        sys.stderr.flush()
        self._started = time.monotonic()
        self._process = _FORK.Process(target=_run, args=([*arguments], folder, self._printed, plant))
        self._process.start()

    def wait(self, kill_after: float | None = None) -> Ended:
        """Wait until it ends, or kill it (SIGKILL) after so many seconds."""
        self._process.join(PATIENCE if kill_after is None else kill_after)
        late = kill_after is None and self._process.is_alive()
        self._process.kill()  # of one that has ended: nothing
        self._process.join()
        out, err = ((self._printed / name).read_text(errors="replace") for name in ("out", "err"))
        if late:
            raise TimeoutError(f"a child did not end in {PATIENCE:.0f} s; it printed: {out}{err}")
        status = self._process.exitcode
        assert status is not None
        return Ended(status, out, err, time.monotonic() - self._started)

    def lives(self, seconds: float) -> bool:
        self._process.join(seconds)
        return self._process.is_alive()

    def interrupt(self, signal: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal)


def _run(arguments: list[str], folder: Path, printed: Path, plant: Plant | None) -> None:
    for number, stream in enumerate((Path(os.devnull), printed / "out", printed / "err")):
        descriptor = os.open(stream, os.O_RDWR | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # multiprocessing took it away
    os.chdir(folder)
    sys.argv = ["symlora", *arguments]
    if plant is not None:
        plant()
    from symlora.cli import main

    main()
