"""Lock each run folder while a process trains the run.

The lock is the operating system's (flock, through the package filelock): the kernel lets go of it when its process
ends, however that ends, so a lock never outlives its owner. Machines that share a results folder need a file system
that passes locks on (NFSv4, Lustre mounted with `flock`). The lock file says who holds it.
"""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from symlora.errors import SymloraError

FOLDER = ".locks"
WAIT = 1.0  # seconds: `make status` and others who only look hold a lock for a moment


class Busy(Exception):
    """Another process trains this run. The text says which, and since when."""


@contextmanager
def locked(results_dir: Path, folder: Path, wait: float = WAIT) -> Iterator[None]:
    """Hold the lock of one run; try for `wait` seconds.

    Raises:
        Busy: Another process holds it.
        SymloraError: The results folder cannot be written to, or its file system has no locks.
    """
    path = _lock_file(results_dir, folder)
    lock = FileLock(path, timeout=wait, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=0.05)
        path.write_text(json.dumps({"host": platform.node(), "process": os.getpid(), "since": time.time()}))
    except Timeout:
        said = _said(path)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said["since"]))
        raise Busy(f"process {said['process']} on {said['host']} has been training it since {since}") from None
    except OSError as error:
        lock.release()
        raise SymloraError(
            f"{path} cannot be locked: {error.strerror or error}. Set results_dir=<a writable folder>, on a file "
            "system that has locks."
        ) from error
    progress = _progress_file(results_dir, folder)
    progress.unlink(missing_ok=True)  # of a process that was killed
    try:
        yield
    finally:
        progress.unlink(missing_ok=True)
        lock.release()


def write_progress(results_dir: Path, folder: Path, content: Mapping[str, Any]) -> None:
    """Write a locked run's progress; ignore a full disk."""
    path = _progress_file(results_dir, folder)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        temporary.write_text(json.dumps(content))
        os.replace(temporary, path)


def read_progress(results_dir: Path, folder: Path) -> dict[str, Any]:
    """Read a run's progress; empty if there is none."""
    try:
        found: dict[str, Any] = json.loads(_progress_file(results_dir, folder).read_text())
        return found
    except (OSError, ValueError):
        return {}


def holder(results_dir: Path, folder: Path) -> dict[str, Any] | None:
    """Return the lock's holder (`host`, `process`, `since`), or None."""
    path = _lock_file(results_dir, folder)
    try:
        with path.open("rb") as file:  # not FileLock: another user's file, or a read-only disk, may be looked at
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _said(path)
    except OSError:
        pass
    return None


def _lock_file(results_dir: Path, folder: Path) -> Path:
    name = "__".join(folder.relative_to(results_dir).parts)
    return results_dir / FOLDER / f"{name}.lock"


def _progress_file(results_dir: Path, folder: Path) -> Path:
    return _lock_file(results_dir, folder).with_suffix(".progress")


def _said(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        since = float(content["since"])
        time.localtime(since)  # raises OverflowError for a number that is no time
        return {"host": str(content["host"]), "process": int(content["process"]), "since": since}
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # it is being written, or is not ours
        return {"host": "?", "process": 0, "since": time.time()}
