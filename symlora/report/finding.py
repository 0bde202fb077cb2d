"""What the audit hands to its writers: findings, with their tables as rows, not as text."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True)
class Grid:
    """A small table: every cell is text already."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"a row of this table has not {len(self.header)} cells: {self.header}")


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        key: Short name, unique in an audit, fit for an HTML anchor.
        title: What it is about.
        claim: What was printed, or what a reader takes from it.
        arithmetic: The calculation, with its numbers.
        verdict: What follows, in words, from the numbers at hand.
        status: Whether the claim holds; the same as a word.
        source: Where the numbers stand, and how they are known.
        grids: Tables that belong to the arithmetic.
    """

    key: str
    title: str
    claim: str
    arithmetic: str
    verdict: str
    status: Status
    source: str
    grids: tuple[Grid, ...] = ()
