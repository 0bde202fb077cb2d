"""Plant faults at exact points: before the k-th call that changes the disk, or in it.

A run that is alone makes these calls in the same order every time, so that a point is a number.
"""

import builtins
import io
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.children import Plant

CALLS = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir")


def planted(*plants: Plant | None) -> Plant:
    return lambda: [plant() for plant in plants if plant is not None]


def checkpoints_at_once() -> None:
    """Remove the limit on the share of time of checkpoints: `checkpoint.seconds` alone decides."""
    import symlora.training.checkpoint

    symlora.training.checkpoint.SHARE_OF_TIME = 1e9


def watched(below: Path, act: Callable[[int, str], object]) -> Plant:
    """Before each of CALLS, and before a file is opened to be written, in a folder: `act`, which may end or raise."""

    def plant() -> None:
        count, process = 0, os.getpid()

        def before(name: str, *paths: object) -> None:
            nonlocal count
            named = [os.fspath(path) for path in paths if isinstance(path, (str, os.PathLike))]
            inside = any(str(path).startswith(str(below)) for path in named)
            # shutil.rmtree names files in an open folder
            open_folder = name in ("fsync", "rmdir", "unlink") and not any(os.path.isabs(path) for path in named)
            if os.getpid() == process and (inside or open_folder):
                count += 1
                act(count, name)

        def notice(call: Callable[..., Any], name: str) -> Callable[..., Any]:
            def noticed(*arguments: Any, **named: Any) -> Any:
                before(name, *arguments)
                return call(*arguments, **named)

            return noticed

        for name in CALLS:
            setattr(os, name, notice(getattr(os, name), name))
        opened = builtins.open

        def noticed_open(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if set(mode) & set("wax+"):
                before("open", file)
            return opened(file, mode, *arguments, **named)

        builtins.open = io.open = noticed_open

    return plant


def append_lines(file: Path, *lines: str) -> None:
    """Append lines to a file that several processes write, past the calls that are watched."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
    os.close(descriptor)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def listed(file: Path, below: Path) -> Plant:
    """Write the name of each call into a file: how many points there are."""
    return watched(below, lambda number, name: append_lines(file, name))


def killed_at(point: int, below: Path) -> Plant:
    """Send SIGKILL before the call of this number, which is after the call before it."""
    return watched(below, lambda number, name: _kill() if number == point else None)


def killed_once_saved(below: Path) -> Plant:
    """Send SIGKILL at the first such call that finds a checkpoint in this results folder."""
    saved = below / ".checkpoints"
    return watched(below, lambda number, name: _kill() if any(saved.glob("*.safetensors")) else None)


def failing_at(point: int, code: int, forever: bool, below: Path) -> Plant:
    """Fail in the calls that would take space from this number on, or in it alone; removing still works."""

    def fail(number: int, name: str) -> None:
        if name not in ("unlink", "rmdir") and (number >= point if forever else number == point):
            raise OSError(code, os.strerror(code))

    return watched(below, fail)


def files_up_to(size: int, below: Path) -> Plant:
    """Let no file grow beyond so many bytes: writes fail in every library, as on a full disk."""

    def plant() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return plant


def clock_jumps(seconds: float, after: int, below: Path) -> Plant:
    """Let the wall clock jump by so many seconds after `after` looks at it, and back after as many, and so on."""

    def plant() -> None:
        now, now_ns = time.time, time.time_ns
        looks = 0

        def off() -> float:
            nonlocal looks
            looks += 1
            return seconds * (looks // after % 2)

        time.time = lambda: now() + off()
        time.time_ns = lambda: now_ns() + int(off() * 1e9)

    return plant
