"""Write files atomically."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symlora.errors import SymloraError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write atomically: yield a temporary path that replaces `path` on success."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # several machines may share a folder
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which output cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise SymloraError(f"{path} cannot be written: {error.strerror or error}. Set --out to another.") from error


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
