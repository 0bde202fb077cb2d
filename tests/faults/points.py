"""Faults at exact points: before or after the k-th call that changes the disk, or in it.

A run that is alone makes these calls in the same order every time, so that a point is a number.
"""

import builtins
import errno
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
Act = Callable[[int, str], object]
"""Gets the number of a call, from 1, and its name. It is called before the call, and may end the child or raise."""


def planted(*plants: Plant | None) -> Plant:
    """All of these faults."""

    def plant() -> None:
        for each in plants:
            if each is not None:
                each()

    return plant


def checkpoints_at_once() -> None:
    """Takes away the limit on the share of time that checkpoints may cost: `checkpoint.seconds` alone decides."""
    import symlora.training.checkpoint

    symlora.training.checkpoint.SHARE_OF_TIME = 1e9


def watched(below: Path, act: Act) -> Plant:
    """Calls `act` before each of CALLS, and before a file is opened to be written, under a folder."""

    def plant() -> None:
        count = 0
        process = os.getpid()

        def before(name: str, *paths: object) -> None:
            nonlocal count
            inside = any(str(path).startswith(str(below)) for path in paths if isinstance(path, (str, os.PathLike)))
            if os.getpid() == process and (inside or name in ("fsync", "rmdir", "unlink") and not _absolute(paths)):
                count += 1
                act(count, name)

        for name in CALLS:
            setattr(os, name, _noticed(getattr(os, name), name, before))
        opened = builtins.open

        def noticed_open(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if set(mode) & set("wax+"):
                before("open", file)
            return opened(file, mode, *arguments, **named)

        builtins.open = io.open = noticed_open

    return plant


def _absolute(paths: tuple[object, ...]) -> bool:
    """Whether a path says by itself where it is; shutil.rmtree names files within a folder that it has open."""
    return any(isinstance(path, (str, os.PathLike)) and os.path.isabs(path) for path in paths)


def _noticed(call: Callable[..., Any], name: str, before: Callable[..., None]) -> Callable[..., Any]:
    def noticed(*arguments: Any, **named: Any) -> Any:
        before(name, *arguments)
        return call(*arguments, **named)

    return noticed


def listed(file: Path, below: Path) -> Plant:
    """Writes the name of each call into a file: how many points there are."""

    def note(number: int, name: str) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{name}\n".encode())
        os.close(descriptor)

    return watched(below, note)


def killed_at(point: int, below: Path) -> Plant:
    """SIGKILL before the call of this number, which is after the call before it."""

    def kill(number: int, name: str) -> None:
        if number == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return watched(below, kill)


def killed_once_saved(results_dir: Path) -> Plant:
    """SIGKILL at the first such call that finds a checkpoint."""

    def kill(number: int, name: str) -> None:
        if any((results_dir / ".checkpoints").glob("*.safetensors")):
            os.kill(os.getpid(), signal.SIGKILL)

    return watched(results_dir, kill)


def failing_at(point: int, below: Path, code: int = errno.ENOSPC, forever: bool = True) -> Plant:
    """From the call of this number on (or in it alone) calls that would take space fail; removing still works."""

    def fail(number: int, name: str) -> None:
        if name not in ("unlink", "rmdir") and (number >= point if forever else number == point):
            raise OSError(code, os.strerror(code))

    return watched(below, fail)


def files_up_to(size: int) -> Plant:
    """No file can grow beyond so many bytes: writes fail in every library, as on a full disk."""

    def plant() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return plant


def clock_jumps(seconds: float, after: int) -> Plant:
    """The wall clock jumps by so many seconds after `after` looks at it, and back after as many more, and so on."""

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
