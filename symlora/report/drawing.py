"""What the figures share: one look, pages measured in inches, heat maps with visible gaps, and reproducible files."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import style as mpl_style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from symlora.store.files import atomic_write

CELL = 0.34  # inches: a number of four characters stays legible in it
GREY = "0.88"
Matrix = npt.NDArray[np.float64]

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib brings it: the same letters on every machine
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.4,
    "pdf.fonttype": 42,  # TrueType, which journals ask for; Type 3 is matplotlib's default
}


@contextmanager
def look() -> Iterator[None]:
    """matplotlib's own defaults and this project's, whatever a user's matplotlibrc says. Draw and save within it."""
    with mpl_style.context("default"), matplotlib.rc_context(_STYLE):
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes <stem>.png (200 dots an inch) and <stem>.pdf: the same bytes for the same figure and matplotlib."""
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": "symlora", "Producer": None},
    }
    written = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind, content in metadata.items():
        path = stem.with_name(f"{stem.name}.{kind}")
        with look(), atomic_write(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=200, metadata=content)
        written.append(path)
    return written


class Page:
    """A figure whose parts are placed in inches from the top left corner, so that cells are square and text fits.

    Args:
        width: Inches.
        height: Inches, of the body; title and caption come on top of it.
        title: One line.
        caption: Wrapped to the page's width.
    """

    def __init__(self, width: float, height: float, title: str, caption: str) -> None:
        per_inch = 20  # characters of the caption's size
        lines = [line for part in caption.split("\n") for line in textwrap.wrap(part, int((width - 0.3) * per_inch))]
        self.head = 0.45
        self.width, self.height = width, height + self.head + 0.13 * len(lines) + 0.2
        self.figure = Figure(figsize=(self.width, self.height))
        self.text(0.15, 0.14 - self.head, title, size=9, weight="bold")
        self.text(0.15, height + 0.05, "\n".join(lines), size=6.5, color="0.25", linespacing=1.35)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text whose top left corner is at (x, y) of the body."""
        style = {"va": "top", "ha": "left", **style}
        self.figure.text(x / self.width, 1 - (y + self.head) / self.height, text, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose top left corner is at (x, y) of the body."""
        bottom = 1 - (y + self.head + height) / self.height
        return self.figure.add_axes((x / self.width, bottom, width / self.width, height / self.height))


def finite_limits(*values: Matrix) -> tuple[float, float]:
    """Smallest and largest of what is there; (0, 1) where nothing is, and apart where all is one value."""
    everything = np.concatenate([np.ravel(value) for value in values]) if values else np.empty(0)
    everything = everything[np.isfinite(everything)]
    if everything.size == 0:
        return 0.0, 1.0
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        margin = abs(low) / 2 or 1.0
        return low - margin, high + margin
    return low, high


def centred(centre: float, *values: Matrix) -> TwoSlopeNorm:
    """A scale for a diverging map: `centre` is its middle, both ends equally far from it."""
    low, high = finite_limits(*values)
    reach = max(abs(low - centre), abs(high - centre)) or 1.0
    return TwoSlopeNorm(centre, centre - reach, centre + reach)


def short(value: float) -> str:
    """A number of about three digits that fits a cell: 0.031, 4.72, 38.1, 412, 11.3k."""
    size = abs(value)
    if size >= 99_950:
        return minus(f"{value / 1000:.0f}k")
    if size >= 999.5:
        return minus(f"{value / 1000:.1f}k")
    decimals = 0 if size >= 99.95 or size == 0 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    return minus(f"{value:.{decimals}f}")


def minus(text: str) -> str:
    """With a minus sign in place of a hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")


def heat_map(
    axes: Axes,
    values: Matrix,
    cmap: str,
    norm: Normalize,
    number: Callable[[float], str],
    marks: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Square cells with their numbers; a missing one is hatched grey.

    Args:
        axes: Its limits become the cells', row 0 at the top.
        values: [rows, columns]; NaN is missing.
        cmap: A matplotlib colour map.
        norm: The scale, which other maps may share.
        number: Writes a value.
        marks: [rows, columns]; a dot in the corner where true.
    """
    colours = matplotlib.colormaps[cmap]
    rows, columns = values.shape
    for row in range(rows):
        for column in range(columns):
            value = float(values[row, column])
            corner = (column - 0.5, row - 0.5)
            if not np.isfinite(value):
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=GREY, edgecolor="0.6", hatch="////", lw=0.4))
                continue
            colour = colours(norm(value))
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", lw=0.5))
            axes.text(column, row, number(value), ha="center", va="center", size=5.5, color=ink(colour))
            if marks is not None and marks[row, column]:
                axes.plot(column + 0.36, row - 0.36, ".", ms=2, color=ink(colour))
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks(range(columns), [])
    axes.set_yticks(range(rows), [])
    for spine in axes.spines.values():
        spine.set_visible(False)


def colour_bar(
    page: Page, axes: Axes, cmap: str, norm: Normalize, number: Callable[[float], str] = short, *, upright: bool = False
) -> None:
    """Fills `axes` with the scale of heat maps."""
    mappable = ScalarMappable(norm=norm, cmap=cmap)
    bar = page.figure.colorbar(mappable, cax=axes, orientation="vertical" if upright else "horizontal")
    bar.outline.set_linewidth(0.4)
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 0.0)
    middle = norm.vcenter if isinstance(norm, TwoSlopeNorm) else (low + high) / 2
    bar.set_ticks([low, middle, high], labels=[number(value) for value in (low, middle, high)])
    axes.tick_params(labelsize=6, length=2, pad=1.5)


def ink(colour: Sequence[float]) -> str:
    """Black or white, whichever stands out from an RGB(A) colour: by relative luminance (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18 else "white"
