"""Hold a table before it is Markdown, LaTeX or CSV, and write its numbers."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from symlora.stats import Interval, format_points, round_points

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str  # as every format shows it, but CSV where there is a value
    value: float | None = None  # the number behind the text, unrounded, for CSV; None where the text is all there is
    half: float | None = None  # what follows the ±, unrounded, for CSV
    kind: Literal["", "gap", "flag"] = ""  # something expected is not there; a number needs a second look


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
    labels: int  # how many columns, from the left, hold words; the others are aligned right
    sections: tuple[Section, ...]
    footers: tuple[str, ...] = ()  # what holds for all sections: counts, what was left out, provenance

    def __post_init__(self) -> None:
        for section in self.sections:
            for row in section.rows:
                if len(row) != len(self.header):
                    raise ValueError(f"{self.name}: a row of {len(row)} cells under {len(self.header)} columns: {row}")

    def with_footers(self, footers: tuple[str, ...]) -> "Table":
        """Return the same table with these footers."""
        return replace(self, footers=footers)


EMPTY = Cell("")


def gap(text: str) -> Cell:
    """Mark something that is not there and should be."""
    return Cell(text, kind="gap")


def words(text: str) -> Cell:
    """Write a cell without a number."""
    return Cell(text)


def interval(found: Interval, suffix: str = "", kind: Literal["", "flag"] = "") -> Cell:
    """Write an estimate with its interval, in points."""
    half = found.half_width if found.symmetric and not math.isnan(found.half_width) else None
    return Cell(format_points(found) + suffix, found.estimate, half, kind)


def bounds(found: Interval | None) -> Cell:
    """Write an interval alone, in points."""
    if found is None or not math.isfinite(found.low) or not math.isfinite(found.high):
        return Cell(NOTHING)
    return Cell(f"{round_points(found.low)} to {round_points(found.high)}")


def point(value: float | None, kind: Literal["", "flag"] = "") -> Cell:
    """Write a number in points, with one decimal."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(str(round_points(value)), value, kind=kind)


def number(value: float | int | None, spec: str = ",.0f") -> Cell:
    """Write a number that is not in points."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(format(value, spec), float(value))


def probability(p: float | None) -> Cell:
    """Write a p value with three decimals; never 0."""
    if p is None:
        return Cell(NOTHING)
    return Cell("<0.001" if p < 0.001 else f"{p:.3f}", p)
