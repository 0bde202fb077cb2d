"""Make damaged and odd versions of a file's content: odd content has no wrong checksum."""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

Change = Callable[[bytes, random.Random], bytes]
Changes = Sequence[tuple[str, Change]]
"""What is done, and the content made so."""


def _flip(content: bytes, rng: random.Random) -> bytes:
    bit, changed = rng.randrange(8 * len(content)), bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


FLIPS: Changes = (("one bit flipped", _flip), ("another bit flipped", _flip))
VERSIONS: Changes = (
    ("empty", lambda content, rng: b""),
    ("cut short", lambda content, rng: content[: rng.randint(len(content) // 4, 3 * len(content) // 4)]),
    ("last byte cut off", lambda content, rng: content[:-1]),
    ("noise", lambda content, rng: rng.randbytes(max(64, min(len(content), 4096)))),
)


def _content(content: bytes) -> Change:
    return lambda _, rng: content


def _json(make: Callable[[Any], Any]) -> Change:
    return lambda content, rng: json.dumps(make(json.loads(content))).encode()


OTHERS: dict[str, Changes] = {  # readable content of another kind, by suffix
    ".json": (("a JSON list", _content(b"[]")), ("a JSON object of something else", _content(b'{"a": 1}'))),
    ".yaml": (
        ("a YAML list", _content(b"- 1\n- 2\n")),
        ("a YAML tag of Python", _content(b"a: !!python/object/apply:os.system ['true']\n")),
    ),
}


RECORDS: Changes = (("another status", _json(lambda record: record | {"status": "failed"})),)
PLANS: Changes = (
    ("numbers", _json(lambda runs: [1, 2])),
    ("nested names", _json(lambda runs: [runs])),
    ("a name twice", _json(lambda runs: [runs[0], *runs])),
    ("no names", _json(lambda runs: [])),
    ("a run that nobody asked for", _json(lambda runs: [*runs, "gone/seed-0"])),
    ("a folder outside", _json(lambda runs: ["../../x", "/etc"])),
    ("null", _json(lambda runs: None)),
)


def _header(key: str, value: Any, content: bytes, _: random.Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    said = json.loads(header["__metadata__"]["symlora"])
    said[key] = value(said[key]) if callable(value) else value
    header["__metadata__"]["symlora"] = json.dumps(said)
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + content[8 + size :]


_HEADERS: dict[str, Sequence[Any]] = {
    "steps": ("many", None, [1], float("inf"), 1e300),
    "runs": (lambda runs: [runs], 5, {"a": 1}, [1, 2], "abc", lambda runs: [*runs, *runs], None),
    "trained": ("no", None),
    "made_with": (5, "x", []),
    "format": ([1],),
    "seconds": ("x", None),
    "restarts": ("x", None),
}
HEADERS: Changes = tuple(
    (f"{key} is another, {number}", partial(_header, key, value))
    for key, values in _HEADERS.items()
    for number, value in enumerate(values)
)


def named_by_content(path: Path, content: bytes) -> Path:
    pack = path.name.split(".")[0]
    return path.with_name(f"{pack}.{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}")


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
