"""Damaged versions of a file: empty, cut short, bits flipped, another content."""

import random
from collections.abc import Iterator
from pathlib import Path


def versions(content: bytes, rng: random.Random, flips: int = 2) -> Iterator[tuple[str, bytes]]:
    """Name and content of each: no bytes, half, all but the last byte, `flips` with one flipped bit, and noise."""
    yield "empty", b""
    half = rng.randint(len(content) // 4, 3 * len(content) // 4)
    yield f"cut after {half} of {len(content)} bytes", content[:half]
    yield "last byte cut off", content[:-1]
    for _ in range(flips):
        bit = rng.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(changed)
    yield "noise", rng.randbytes(max(64, min(len(content), 4096)))


def others(suffix: str) -> Iterator[tuple[str, bytes]]:
    """Readable content of another kind."""
    if suffix == ".json":
        yield "a JSON list", b"[]"
        yield "a JSON object of something else", b'{"a": 1}'
    elif suffix in (".yaml", ".yml"):
        yield "a YAML list", b"- 1\n- 2\n"
        yield "a YAML tag of Python", b"a: !!python/object/apply:os.system ['true']\n"


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
