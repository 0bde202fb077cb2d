"""Set the figures' style: layout, scales, numbers and files."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import style as mpl_style
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from symlora.audit.names import CLAIMED, METRICS, REFERENCE, TASKS
from symlora.store.files import atomic_write

COLOURS = {CLAIMED: "#2a7ab8", REFERENCE: "#d0661a"}  # seen on white and on black
CELL = 0.34  # inches: a number of four characters stays legible in it
Matrix = npt.NDArray[np.float64]

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.4,
    "hatch.color": "0.6",
    "pdf.fonttype": 42,  # TrueType, which journals ask for; matplotlib's default is Type 3
    "svg.fonttype": "none",  # text that can be selected
}
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": "symlora", "Producer": None},
}
_TITLE, _LINE = 0.35, 0.12  # inches


@contextmanager
def plot_style() -> Iterator[None]:
    """Set the style, whatever matplotlibrc says; draw and save within it."""
    with mpl_style.context("default"), matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float, title: str, caption: str) -> Figure:
    """Make a figure with a title above and a caption below.

    Width and height are in inches; the caption is wrapped to the width, and the height is without title and caption.
    """
    # About 20 characters of the caption's size to an inch.
    lines = textwrap.wrap(caption, int(20 * width), break_on_hyphens=False)
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.07)
    figure = Figure((width, height + _TITLE + _LINE * len(lines)), layout=layout)
    figure.suptitle(title, x=0.01, ha="left", size=9, weight="bold")
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", size=6.5, color="0.25", linespacing=1.35)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write <stem>.png, .pdf and .svg: one figure, the same bytes.

    The SVG has title and caption as metadata, because a page shows them in its own letters. The figure loses them.
    """
    title, caption = figure.get_suptitle(), figure.get_supxlabel()
    about = {"Title": title, "Description": caption.replace("\n", " "), "Creator": None, "Date": None}
    salt: dict[Any, Any] = {"svg.hashsalt": f"{title} {stem.name}"}  # several on one page share no names
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    layout = figure.get_layout_engine()
    for kind, metadata in (_METADATA | {"svg": about}).items():
        figure.set_layout_engine("none" if kind == "pdf" else layout)  # a PDF is laid out as the PNG before it
        if kind == "svg":
            width, height = figure.get_size_inches()
            figure.set_size_inches(width, height - _TITLE - _LINE * (caption.count("\n") + 1))
            figure.suptitle("")
            figure.supxlabel("")
        path = stem.with_name(f"{stem.name}.{kind}")
        with plot_style(), matplotlib.rc_context(salt), atomic_write(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=200, metadata=metadata, bbox_inches="tight", pad_inches=0.15)
        written.append(path)
    return written


def scale_of(values: Matrix, centre: float | None = None) -> Normalize:
    """Make a colour scale of the finite values, centred if asked."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if centre is not None:
        return CenteredNorm(centre, max(abs(low - centre), abs(high - centre)) or 1.0)
    return Normalize(low, high) if low < high else Normalize(low - 1.0, high + 1.0)


def heading(rows: pd.DataFrame) -> str:
    """Name the task and metric of a frame's first row."""
    task, metric = rows[["task", "metric"]].iloc[0]
    return f"{TASKS.get(task, task)}, {METRICS.get(metric, metric)}"


def compact(value: float) -> str:
    """Format a number in about three digits: 0.031, 4.72, 11.3k, 2.1M."""
    size = abs(value)
    if size >= 999_500:
        return minus(f"{value / 1e6:.1f}M")
    if size >= 999.5:
        return minus(f"{value / 1000:.{int(size < 99_950)}f}k")
    decimals = 0 if size >= 99.95 or size == 0 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    return minus(f"{value:.{decimals}f}")


def minus(text: str) -> str:
    """Replace hyphens with minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def text_colour(colour: Sequence[float]) -> str:
    """Return black or white, whichever contrasts more with a colour (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18 else "white"
