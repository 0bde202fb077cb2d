"""Content that can be read but says odd things, of files whose own checksums do not speak against it; and odd locks."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from faults.children import Ended
from faults.judge import Verdicts
from faults.kills import PACKED, SHORT
from faults.places import Place
from faults.runs import results_of

Odd = tuple[str, Callable[[bytes], bytes]]
"""What is odd, and the file's content made so."""

Keys = Sequence[str]
"""Keys, from the outermost."""

# --- run.json without checksums: written before there were any, or by another program -------------------------------


def _unsealed(keys: Keys, value: Any, content: bytes) -> bytes:
    """Without its checksums and with another value, or without the key where that is None."""
    record = json.loads(content)
    del record["files"], record["sha256"]
    place = record
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        place.pop(keys[-1])
    else:
        place[keys[-1]] = value
    return json.dumps(record).encode()


def _records() -> Iterator[Odd]:
    missing: Sequence[Keys] = (("status",), ("score", "value"), ("config", "protocol"), ("score",), ("config",))
    for keys in missing:
        yield f"unsealed, without {'.'.join(keys)}", partial(_unsealed, keys, None)
    others: Sequence[tuple[Keys, Any]] = (
        (("files",), {"a": {}}),
        (("files",), []),
        (("files",), {"a": 5}),
        (("status",), 5),
        (("score", "value"), "high"),
        (("config", "protocol"), "demo"),
    )
    for keys, value in others:
        yield f"unsealed, {'.'.join(keys)} is {value!r}", partial(_unsealed, keys, value)


RECORDS = tuple(_records())

# --- plans and checkpoints ------------------------------------------------------------------------------------------


def _plan(make: Callable[[list[str]], Any], content: bytes) -> bytes:
    return json.dumps(make(json.loads(content))).encode()


PLANS: Sequence[Odd] = (
    ("numbers", partial(_plan, lambda runs: [1, 2])),
    ("nested names", partial(_plan, lambda runs: [runs])),
    ("a name twice", partial(_plan, lambda runs: [runs[0], *runs])),
    ("no names", partial(_plan, lambda runs: [])),
    ("a run that nobody asked for", partial(_plan, lambda runs: [*runs, "gone/seed-0"])),
    ("a folder outside", partial(_plan, lambda runs: ["../../x", "/etc"])),
    ("null", partial(_plan, lambda runs: None)),
)


def _header(key: str, value: Any, content: bytes) -> bytes:
    """Of a checkpoint: another value in what it says of itself."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    said = json.loads(header["__metadata__"]["symlora"])
    said[key] = value(said[key]) if callable(value) else value
    header["__metadata__"]["symlora"] = json.dumps(said)
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + content[8 + size :]


def named_by_content(path: Path, content: bytes) -> Path:
    """Where a checkpoint of this content would stand: its name says what it must hash to."""
    pack = path.name.split(".")[0]
    return path.with_name(f"{pack}.{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}")


def _headers() -> Iterator[Odd]:
    odd: dict[str, Sequence[Any]] = {
        "steps": ("many", None, [1], float("inf"), 1e300),
        "runs": (lambda runs: [runs], 5, {"a": 1}, [1, 2], "abc", lambda runs: [*runs, *runs], None),
        "trained": ("no", None),
        "fingerprint": (5, "x", []),
        "format": ([1],),
        "seconds": ("x", None),
        "restarts": ("x", None),
    }
    for key, values in odd.items():
        for number, value in enumerate(values):
            text = f"as {number}" if callable(value) else repr(value)
            yield f"{key} is {text}", partial(_header, key, value)


HEADERS = tuple(_headers())

# --- locks ----------------------------------------------------------------------------------------------------------

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
    """Holds a lock file as another process does, but says odd things in it; what lets go of it before the end."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(content)
        file.flush()
        try:
            yield lambda: fcntl.flock(file, fcntl.LOCK_UN)  # children have inherited the file: closing is not enough
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _only_lock(path: Path) -> None:
    """Makes it the lock of every run."""
    from symlora.store import locks

    locks.__dict__["_lock_file"] = lambda results_dir, folder: path


def odd_locks(place: Place, status: Sequence[str], count: int, verdicts: Verdicts, tried: Callable[[], object]) -> None:
    """What a run and `make status` (its arguments are given) say of a lock with odd content; and a sweep's waiting."""
    for content in LOCKS[:count]:
        here = place.below("locked")
        path = here.folder / "a.lock"
        plant = partial(_only_lock, path)
        with held(path, content):
            for script, arguments in (("train", here.command(*SHORT)), ("status", status)):
                given = [argument.replace("{folder}", str(here.folder)) for argument in arguments]
                ended = here.ended(script, *given, plant=plant)
                said = f"a lock held by another process, {content!r}: {script}"
                verdicts.enter("locks", said, ended, ["seed-"], same=script == "status")
                tried()
        here.clear()
    if count >= len(LOCKS):
        for content in LOCKS[:2]:
            _waits(place, content, verdicts)
            tried()


def _waits(place: Place, content: bytes, verdicts: Verdicts) -> None:
    """A sweep waits until another process lets go of its run, and then trains it."""
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
        ended = Ended(ended.status, "", f"it did not wait: {ended.err}", ended.seconds)
    verdicts.enter("locks", said, ended, ["the lock"], same=waited and stands)
    here.clear()
