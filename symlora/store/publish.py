"""Publish run folders atomically."""

import os
import secrets
import shutil
from pathlib import Path

from symlora.errors import SymloraError
from symlora.store.files import sync
from symlora.store.folder import FAILED_FILE, RUN_FILE, find_damage, is_finished, read_run


def begin(folder: Path) -> Path:
    """Make the work folder of a run.

    Raises:
        SymloraError: The place cannot be written to.
    """
    work = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    if folder.exists() and not folder.is_dir():
        raise SymloraError(f"{folder} is a file where a run folder belongs. Move it away, or set results_dir=<folder>.")
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise SymloraError(
            f"{folder.parent} cannot be written to: {error.strerror}. Set results_dir=<a writable folder>."
        ) from error
    return work


def not_kept(folder: Path, error: Exception) -> SymloraError:
    """Explain that a folder could not be written."""
    if isinstance(error, SymloraError):
        return error
    return SymloraError(
        f"{folder} could not be finished: {error}. If the disk is full or read-only, free space or set results_dir."
    )


def recover(folder: Path) -> None:
    """Remove what a killed process left next to a run folder.

    Only the holder of the run's lock may call this.

    A process may have died between the two renames of `publish`: then the newest that is whole takes the place, a
    finished run before a failed one.
    """
    left = [path for path in folder.parent.glob(f".{folder.name}.*") if path.is_dir()]
    if not folder.exists():
        complete = []
        for path in left:
            record = read_run(path)
            if record is not None and not find_damage(path, record):
                complete.append((record["status"] == "finished", (path / RUN_FILE).stat().st_mtime, path))
        if complete:
            os.rename(max(complete)[2], folder)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)


def publish(work: Path, folder: Path) -> None:
    """Rename work to folder.

    An existing folder is removed last. A failed run never replaces a finished one.
    """
    if is_finished(folder) and not is_finished(work):
        os.replace(work / RUN_FILE, folder / FAILED_FILE)
        return
    for path in [*work.rglob("*"), work]:
        sync(path)
    old = folder.with_name(f".{folder.name}.old.{secrets.token_hex(4)}")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(work, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
