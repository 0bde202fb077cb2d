"""What a table is before it is Markdown, LaTeX, CSV or HTML, and how numbers are written in one."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from symlora.stats import Interval, format_points, round_points

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: As every format shows it, but CSV where there is a value.
        value: The number behind the text, unrounded, for CSV; None where the text is all there is.
        half: What follows the ±, unrounded, for CSV.
        kind: `gap` where something that was expected is not there; `flag` where a number needs a second look.
    """

    text: str
    value: float | None = None
    half: float | None = None
    kind: Literal["", "gap", "flag"] = ""


@dataclass(frozen=True)
class Section:
    """Rows that belong together: one encoder under one protocol, or one source."""

    title: str
    notes: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table in no format yet.

    Attributes:
        name: Stem of its files.
        caption: What the columns are and what each ± is over.
        header: One name a column.
        labels: How many columns, from the left, hold words (the others are aligned right).
        footers: What holds for all sections: counts, what was left out, provenance.
    """

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    labels: int
    sections: tuple[Section, ...]
    footers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for section in self.sections:
            for row in section.rows:
                if len(row) != len(self.header):
                    raise ValueError(f"{self.name}: a row of {len(row)} cells under {len(self.header)} columns: {row}")

    def with_footers(self, footers: tuple[str, ...]) -> "Table":
        """The same table with these footers."""
        return replace(self, footers=footers)


EMPTY = Cell("")


def gap(text: str) -> Cell:
    """Something that is not there and should be."""
    return Cell(text, kind="gap")


def words(text: str) -> Cell:
    """A cell without a number."""
    return Cell(text)


def interval(found: Interval, suffix: str = "", kind: Literal["", "flag"] = "", scale: int = 1) -> Cell:
    """An estimate with its interval, in points (`scale` 100: from fractions)."""
    half = scale * found.half_width if found.symmetric and math.isfinite(found.half_width) else None
    return Cell(format_points(found, scale) + suffix, scale * found.estimate, half, kind)


def bounds(found: Interval | None) -> Cell:
    """The interval alone, in points."""
    if found is None or not math.isfinite(found.low) or not math.isfinite(found.high):
        return Cell(NOTHING)
    return Cell(f"{round_points(found.low)} to {round_points(found.high)}")


def point(value: float | None, kind: Literal["", "flag"] = "") -> Cell:
    """A number in points, one decimal."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(str(round_points(value)), value, kind=kind)


def number(value: float | int | None, spec: str = ",.0f") -> Cell:
    """A number that is not in points."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(format(value, spec), float(value))


def probability(p: float | None) -> Cell:
    """Three decimals; never 0."""
    if p is None:
        return Cell(NOTHING)
    return Cell("<0.001" if p < 0.001 else f"{p:.3f}", p)


def rate(value: float) -> str:
    """A learning rate as run folders name it: 4e-3."""
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
