"""Hold locks as other processes do, but with odd content."""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from faults.places import PACKED, SHORT, Place
from faults.runs import results_of
from faults.session import Session

LOCKS = (
    b'{"host": "a", "process": 1, "since": 1e20}',
    b'{"host": "a", "process": 1e999, "since": 0}',
    b'{"host": "a", "process": 1, "since": -1e20}',
    b'{"host": "a", "process": 1, "since": NaN}',
    b'{"host": ["a"], "process": null, "since": "now"}',
    b'{"host": "a", "process": 1, "since": 1e999}',
    b"[]",
    b"\xff\xfe",
    b"",
)
RELEASED_AFTER = 8.0  # seconds: a sweep has begun by then, and waits


@contextmanager
def held(path: Path, content: bytes) -> Iterator[Callable[[], None]]:
    """Hold a lock file; yields what lets go of it before the end."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(content)
        file.flush()
        try:
            yield lambda: fcntl.flock(file, fcntl.LOCK_UN)  # children have inherited the file: closing is not enough
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _only_lock(path: Path) -> None:
    """Make it the lock of every run."""
    from symlora.store import locks

    locks.__dict__["_lock_file"] = lambda results_dir, folder: path


def odd_locks(place: Place, session: Session, status: Sequence[str], count: int) -> None:
    """Ask a run and `symlora status` (its words are given) about a lock with odd content; and let a sweep wait."""
    for content in LOCKS[:count]:
        here = place.below("locked")
        path = here.folder / "a.lock"
        with held(path, content):
            for words in (here.command(*SHORT), [word.replace("{folder}", str(here.folder)) for word in status]):
                ended = here.child(*words, plant=partial(_only_lock, path)).wait()
                said = f"a lock held by another process, {content!r}: {words[0]}"
                session.judge("locks", said, ended, ["seed-"], right=words[0] == "status")
        here.clear()
    for content in LOCKS[:2] if count >= len(LOCKS) else ():
        _waits(place, session, content)


def _waits(place: Place, session: Session, content: bytes) -> None:
    """Check that a sweep waits until another process lets go of its run, and then trains it."""
    here = place.below("waiting")
    path = here.folder / "a.lock"
    with held(path, content) as let_go:
        child = here.train(*PACKED, *SHORT, plant=partial(_only_lock, path))
        waited = child.lives(RELEASED_AFTER)
        let_go()
        ended = child.wait()
    stands = [run["status"] for run in results_of(here.runs).values()] == ["finished"]
    said = f"a lock held for {RELEASED_AFTER:.0f} s, {content!r}: a sweep"
    if not waited:
        ended = replace(ended, out="", err=f"it did not wait: {ended.err}")
    session.judge("locks", said, ended, ["the lock"], right=waited and stands)
    here.clear()
