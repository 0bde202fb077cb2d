"""Hold a table before it is Markdown, LaTeX or CSV."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from symlora.stats import Interval, round_points

NOTHING = "–"
Kind = Literal["", "gap", "flag"]
"""Something expected is not there (gap); a number needs a second look (flag)."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str  # as every format shows it, but CSV where there is a value
    value: float | None = None  # the number behind the text, unrounded, for CSV; None where the text is all there is
    half: float | None = None  # what follows the ±, unrounded, for CSV
    kind: Kind = ""


@dataclass(frozen=True)
class Section:
    """Rows of one encoder under one protocol, or of one source."""

    title: str
    notes: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table in no format yet."""

    name: str  # stem of its files
    title: str
    caption: str  # what the columns are and what each ± is over
    header: tuple[str, ...]
    sections: tuple[Section, ...]
    footers: tuple[str, ...] = ()  # what holds for all sections: counts, what was left out, provenance
    labels: int = 2  # how many columns, from the left, hold words; the others are aligned right
    breaks: tuple[int, ...] = ()  # columns before which a page goes on in a table below


EMPTY = Cell("")


def gap(text: str) -> Cell:
    """Mark a missing value."""
    return Cell(text, kind="gap")


def bounds(found: Interval | None) -> Cell:
    """Write an interval alone, in points."""
    if found is None or math.isnan(found.low):
        return Cell(NOTHING)
    return Cell(f"{round_points(found.low)} to {round_points(found.high)}")


def point(value: float | None, suffix: str = "", kind: Kind = "") -> Cell:
    """Write a number in points, with one decimal."""
    return _number(value, lambda found: f"{round_points(found)}{suffix}", kind)


def number(value: float | None, spec: str = ",.0f", kind: Kind = "") -> Cell:
    """Write a number that is not in points."""
    return _number(value, lambda found: format(found, spec), kind)


def count(value: int) -> Cell:
    """Write a count of problems."""
    return number(value, kind="flag" if value else "")


def probability(p: float | None) -> Cell:
    """Write a p value with three decimals; never 0."""
    return _number(p, lambda found: "<0.001" if found < 0.001 else f"{found:.3f}")


def _number(value: float | None, write: Callable[[float], str], kind: Kind = "") -> Cell:
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(write(value), float(value), kind=kind)
