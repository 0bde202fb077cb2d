"""Draw Figure 1 and a companion: norms and λ, tasks × layers.

The paper's figure has one colour scale for quantities an order of magnitude apart, no numbers, a sum of absolute values
where it writes a Frobenius norm, and does not say how query and value were merged. Here query and value are figures of
their own, a column has its own scale, shared between the methods, and every cell its number.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from symlora.audit.names import CLAIMED, METHODS, TASKS
from symlora.report.figures import style
from symlora.report.figures.style import Matrix, compact, minus


@dataclass(frozen=True)
class Column:
    """One quantity of a figure."""

    key: str  # in the frame of cells
    title: str
    cmap: str
    centre: float | None = None  # middle of a diverging map; None for one that grows
    number: Callable[[float], str] = compact

    def scale(self, cells: pd.DataFrame, more: Iterable[str] = ()) -> Normalize:
        """Make a colour scale for this column, and others."""
        return style.scale_of(cells[[self.key, *more]].to_numpy(np.float64), self.centre)


FROBENIUS = (
    Column("lambda_w0_frobenius", r"$|\lambda|\,\Vert W_0\Vert_F$", "cividis"),
    Column("delta_frobenius", r"$\Vert\Delta W\Vert_F$", "cividis"),
    Column("difference_frobenius", r"$|\lambda|\,\Vert W_0\Vert_F-\Vert\Delta W\Vert_F$", "RdBu_r", 0.0),
)
AS_PAPER = (  # one map and one scale for all, as printed
    Column("lambda_w0_l1", r"$\lambda\,\Sigma|w_0|$", "viridis"),
    Column("delta_l1", r"$\Sigma|\Delta w|$", "viridis"),
    Column("difference_l1", r"$\lambda\,\Sigma|w_0|-\Sigma|\Delta w|$", "viridis"),
)
LAMBDA = Column("lambda", r"$\lambda$", "RdBu_r", 1.0, lambda value: minus(f"{value:.3f}"))
DECAYS = {"decay_only": "decay, as run", "decay_to_zero": "decay to 0"}  # the references under λ
RATIO = Column("log10_ratio", r"$\log_{10}(\Vert\Delta W\Vert_F/\Vert W_0\Vert_F)$", "cividis")
NOISY = 1 / 3  # a dot marks cells whose standard deviation over seeds is a larger share of the mean than this
_POSITIVE = ("lambda_w0_frobenius", "delta_frobenius", "delta_l1")


def matrix(cells: pd.DataFrame, method: str, projection: str, key: str) -> Matrix:
    """Arrange a quantity as [layers, tasks], the head's end first."""
    mine = cells[(cells["method"] == method) & (cells["projection"] == projection)]
    table = mine.pivot(index="layer", columns="task", values=key).sort_index(ascending=False)
    return table[list(cells["task"].unique())].to_numpy(dtype=np.float64)


@dataclass(frozen=True)
class _Panel:
    """A column of maps: one for each method."""

    column: Column
    projection: str
    scale: Normalize
    title: str
    labelled: bool  # on the left, with methods and layers


def figure1(cells: pd.DataFrame, projection: str, whose: str, note: str = "", as_paper: bool = False) -> Figure:
    """Draw |λ|‖W0‖_F, ‖ΔW‖_F and their difference, method by method.

    The cells are those of norms_frame.cells; projection is `query` or `value`.
    """
    columns = AS_PAPER if as_paper else FROBENIUS
    mine = cells[cells["projection"] == projection]
    shared = [column.key for column in columns] if as_paper else ()
    panels = [
        _Panel(column, projection, column.scale(mine, shared), column.title, column is columns[0]) for column in columns
    ]
    form = "Frobenius norms; α/r is in ΔW; scales are shared down a column."
    if as_paper:
        form = "Sums of absolute values, not Frobenius norms, λ with its sign, one scale for all: as the paper prints."
    title = f"Figure 1, {projection}{', as printed' * as_paper}: {whose}"
    return _draw(cells, panels, title, f"{form} {_caption(cells, note)}", title_size=9)


def companion(cells: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw λ, what decay alone would make of it, and relative updates."""
    caption = (
        "The two rows under λ: what weight decay alone makes of it up to the kept epoch, exp(-wd · Σ lr); as run (1 "
        f"where λ does not decay), and had it decayed toward 0 as other weights do. {_caption(cells, note)}"
    )
    of_lambda = cells[cells["method"].isin(_with_lambda(cells))]
    scales = {LAMBDA: LAMBDA.scale(of_lambda, DECAYS), RATIO: RATIO.scale(cells)}
    projections = sorted(cells["projection"].unique())
    panels = [
        _Panel(column, projection, scale, f"{column.title}, {projection}", projection == projections[0])
        for column, scale in scales.items()
        for projection in projections
    ]
    return _draw(cells, panels, f"λ and relative update: {whose}", caption, title_size=8)


def _with_lambda(cells: pd.DataFrame) -> set[str]:
    return {CLAIMED, *cells.loc[cells["decay_only"].notna(), "method"]} if "decay_only" in cells else set()


def _draw(cells: pd.DataFrame, panels: Sequence[_Panel], title: str, caption: str, title_size: float) -> Figure:
    methods, with_lambda = list(cells["method"].unique()), _with_lambda(cells)
    has_lambda = any(panel.column is LAMBDA for panel in panels)
    heights = [cells["layer"].nunique() + len(DECAYS) * (has_lambda and method in with_lambda) for method in methods]
    # A column of maps with its gap has at least the width that its title needs.
    width = 1.0 + len(panels) * (max(cells["task"].nunique() * style.CELL, 1.45) + 0.35)
    with style.plot_style():
        height = sum(heights) * style.CELL + 0.4 * len(methods) + 0.6
        figure = style.new_figure(width, height, title, caption)
        grid = figure.subplots(len(methods), len(panels), squeeze=False, height_ratios=heights)
        for maps, panel in zip(grid.T, panels, strict=True):
            maps[0].set_title(panel.title, size=title_size, pad=8)
            for axes, method in zip(maps, methods, strict=True):
                axes.set_anchor("N")
                if panel.column is LAMBDA and method not in with_lambda:
                    axes.axis("off")
                    axes.text(0, 0.5, f"{METHODS.get(method, method)} has no λ" * panel.labelled, color="0.4")
                else:
                    mesh = _map(axes, cells, method, panel)
            bar = figure.colorbar(mesh, ax=maps, panchor=False, location="bottom", aspect=15, pad=0.03)
            low, high = mesh.get_clim()
            ticks = (low, (low + high) / 2, high)
            bar.set_ticks(ticks, labels=[panel.column.number(value) for value in ticks])
            bar.outline.set_linewidth(0.4)
            bar.ax.tick_params(labelsize=6, length=2, pad=1.5)
    return figure


def _map(axes: Axes, cells: pd.DataFrame, method: str, panel: _Panel) -> QuadMesh:
    """Draw square cells with their numbers; hatch what is missing."""
    column, projection = panel.column, panel.projection
    values = matrix(cells, method, projection, column.key)
    spread = matrix(cells, method, projection, f"{column.key}_s")
    # Of a difference or a logarithm the mean may be near 0, where a share of it means nothing.
    size = np.abs(values) if column.key in _POSITIVE else np.full_like(values, np.inf)
    marks = np.nan_to_num(spread) > NOISY * np.nan_to_num(size, nan=np.inf)
    rows = [str(layer) for layer in range(len(values), 0, -1)]
    rows[-1] = f"embeddings  {rows[-1]}"
    rows[0] = f"head  {len(rows)}"
    if column is LAMBDA:
        axes.axhline(len(values), color="white", lw=4, zorder=3)  # sets the references apart
        values = np.vstack([values, *(matrix(cells, method, projection, key)[:1] for key in DECAYS)])
        marks = np.vstack([marks, np.zeros((len(DECAYS), marks.shape[1]), bool)])
        rows += DECAYS.values()
    tasks = [TASKS.get(task, task) for task in cells["task"].unique()]
    axes.set_xticks(np.arange(len(tasks)) + 0.5, tasks, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5 if panel.labelled else [], rows if panel.labelled else [])
    axes.tick_params(pad=1.5)
    if panel.labelled:
        axes.set_ylabel(f"{METHODS.get(method, method)}, layer", weight="bold", size=8)
    axes.patch.set(facecolor="0.88", hatch="////", linewidth=0)  # seen where a cell is missing
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=column.cmap, norm=panel.scale, edgecolors="white", linewidth=0.5
    )
    colours = matplotlib.colormaps[column.cmap]
    for y, x in np.argwhere(np.isfinite(values)):
        value = float(values[y, x])
        colour = style.text_colour(colours(panel.scale(value)))
        axes.text(x + 0.5, y + 0.5, column.number(value), ha="center", va="center", size=5.5, color=colour)
        if marks[y, x]:
            axes.plot(x + 0.86, y + 0.14, ".", ms=2, color=colour)
    axes.set(aspect="equal", xlim=(0, values.shape[1]), ylim=(values.shape[0], 0))
    axes.spines[:].set_visible(False)
    return mesh


def _caption(cells: pd.DataFrame, note: str) -> str:
    """Write the caption: number of seeds, and what is missing."""
    counts = sorted(set(cells.loc[cells["seeds"] > 0, "seeds"]))
    span = " to ".join(dict.fromkeys(str(count) for count in (*counts[:1], *counts[-1:]))) or "no"
    most = cells.groupby(["method", "task"], sort=False)["seeds"].max()
    missing = ", ".join(f"{METHODS.get(m, m)} on {TASKS.get(task, task)}" for m, task in most[most == 0].index)
    text = f"Mean over {span} seed{'' if counts == [1] else 's'} of one configuration a task and method. "
    text += "A dot: s over the seeds is above a third of the mean. " if max(counts, default=0) > 1 else ""
    text += f"Hatched: no finished run ({missing}). " if missing else ""
    absent = ", ".join(name for task, name in TASKS.items() if task not in set(cells["task"]))
    text += f"Tasks not shown: {absent}. " if absent else ""
    return text + note
