"""Draw Figure 1 (how large λ W0 and ΔW became, tasks × layers) and a companion.

The paper's figure has one colour scale for quantities an order of magnitude apart, no numbers, a sum of absolute values
where it writes a Frobenius norm, and does not say how query and value were merged. Here query and value are figures of
their own, a column has its own scale, shared between the methods, and every cell its number.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
    """Arrange a quantity as [layers, tasks], the layer nearest the head first; NaN where there is no run."""
    mine = cells[(cells["method"] == method) & (cells["projection"] == projection)]
    table = mine.pivot(index="layer", columns="task", values=key).sort_index(ascending=False)
    return table[list(cells["task"].unique())].to_numpy(dtype=np.float64)


def _scale(cells: pd.DataFrame, column: Column, more: Iterable[str] = ()) -> Normalize:
    return style.scale_of(cells[[column.key, *more]].to_numpy(np.float64), column.centre)


def figure1(cells: pd.DataFrame, projection: str, whose: str, note: str = "", as_paper: bool = False) -> Figure:
    """Draw |λ|‖W0‖_F, ‖ΔW‖_F and their difference: a column each, with a row for each method.

    Args:
        cells: symlora.report.figures.norms_frame.cells, of one protocol and model.
        projection: `query` or `value`.
        whose: Model and protocol, for the title.
        note: What must stand beside this model's numbers.
        as_paper: The printed form instead: sums of absolute values, λ with its sign, and one scale for all maps.
    """
    columns = AS_PAPER if as_paper else FROBENIUS
    mine = cells[cells["projection"] == projection]
    shared = [column.key for column in columns] if as_paper else ()
    methods, layers = list(cells["method"].unique()), cells["layer"].nunique()
    title = f"Figure 1, {projection}{', as printed' if as_paper else ''}: {whose}"
    width, height = 1.0 + len(columns) * _width(cells), len(methods) * (layers * style.CELL + 0.4) + 0.6
    form = "Frobenius norms; α/r is in ΔW; scales are shared down a column."
    if as_paper:
        form = "Sums of absolute values, not Frobenius norms, λ with its sign, one scale for all: as the paper prints."
    with style.plot_style():
        figure = style.new_figure(width, height, title, f"{form} {_caption(cells, note)}")
        grid = figure.subplots(len(methods), len(columns), squeeze=False)
        for maps, column in zip(grid.T, columns, strict=True):
            scale = _scale(mine, column, shared)
            maps[0].set_title(column.title, size=9, pad=8)
            for axes, method in zip(maps, methods, strict=True):
                mesh = _map(axes, cells, method, projection, column, scale, labels=column is columns[0])
            _bar(mesh, maps, column)
    return figure


def companion(cells: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw λ, what decay alone would have made of it, and log10 of ‖ΔW‖_F / ‖W0‖_F.

    Args:
        cells: symlora.report.figures.norms_frame.cells, of one protocol and model.
        whose: Model and protocol, for the title.
        note: What must stand beside this model's numbers.
    """
    methods, layers = list(cells["method"].unique()), cells["layer"].nunique()
    with_lambda = {CLAIMED, *cells.loc[cells["decay_only"].notna(), "method"]}
    scale = {
        LAMBDA: _scale(cells[cells["method"].isin(with_lambda)], LAMBDA, DECAYS),
        RATIO: _scale(cells, RATIO),
    }
    heights = [layers + len(DECAYS) * (method in with_lambda) for method in methods]
    caption = (
        "The two rows under λ: what weight decay alone makes of it up to the kept epoch, exp(-wd · Σ lr); as run (1 "
        f"where λ does not decay), and had it decayed toward 0 as other weights do. {_caption(cells, note)}"
    )
    projections = sorted(cells["projection"].unique())
    panels = [(column, projection) for column in (LAMBDA, RATIO) for projection in projections]
    width, height = 1.0 + len(panels) * _width(cells), sum(heights) * style.CELL + 0.4 * len(methods) + 0.6
    with style.plot_style():
        figure = style.new_figure(width, height, f"λ and relative update: {whose}", caption)
        grid = figure.subplots(len(methods), len(panels), squeeze=False, height_ratios=heights)
        for maps, (column, projection) in zip(grid.T, panels, strict=True):
            first = projection == projections[0]
            maps[0].set_title(f"{column.title}, {projection}", pad=8)
            for axes, method in zip(maps, methods, strict=True):
                axes.set_anchor("N")
                if column is RATIO or method in with_lambda:
                    mesh = _map(axes, cells, method, projection, column, scale[column], labels=first)
                else:
                    axes.axis("off")
                    axes.text(0, 0.5, f"{METHODS.get(method, method)} has no λ" if first else "", color="0.4")
            _bar(mesh, maps, column)
    return figure


def _map(
    axes: Axes, cells: pd.DataFrame, method: str, projection: str, column: Column, scale: Normalize, *, labels: bool
) -> QuadMesh:
    values = matrix(cells, method, projection, column.key)
    spread = matrix(cells, method, projection, f"{column.key}_s")
    # Of a difference or a logarithm the mean may be near 0, where a share of it means nothing.
    size = np.abs(values) if column.key in _POSITIVE else np.full_like(values, np.inf)
    marks = np.nan_to_num(spread) > NOISY * np.nan_to_num(size, nan=np.inf)
    rows = _layer_names(len(values))
    if column is LAMBDA:
        axes.axhline(len(values), color="white", lw=4, zorder=3)  # sets the references apart
        values = np.vstack([values, *(matrix(cells, method, projection, key)[:1] for key in DECAYS)])
        marks = np.vstack([marks, np.zeros((len(DECAYS), marks.shape[1]), bool)])
        rows += DECAYS.values()
    tasks = [TASKS.get(task, task) for task in cells["task"].unique()]
    style.label_cells(axes, tasks, rows if labels else [], rotation=40, ha="right", rotation_mode="anchor")
    if labels:
        axes.set_ylabel(f"{METHODS.get(method, method)}, layer", weight="bold", size=8)
    return style.heat_map(axes, values, column.cmap, scale, column.number, marks)


def _bar(mesh: QuadMesh, maps: Sequence[Axes], column: Column) -> None:
    style.colour_bar(mesh, maps, column.number, location="bottom", aspect=15, pad=0.03)


def _width(cells: pd.DataFrame) -> float:
    """Compute the inches of a column of maps with its gap: at least what its title needs."""
    return max(cells["task"].nunique() * style.CELL, 1.45) + 0.35


def _layer_names(count: int) -> list[str]:
    names = [str(layer) for layer in range(count, 0, -1)]
    names[0] = f"head  {names[0]}"
    names[-1] = f"embeddings  {names[-1]}" if count > 1 else names[-1]
    return names


def _caption(cells: pd.DataFrame, note: str) -> str:
    """Say what every reader must know: over how many seeds, what grey means, whose numbers these are."""
    counts = sorted(set(cells.loc[cells["seeds"] > 0, "seeds"]))
    span = " to ".join(dict.fromkeys(str(count) for count in (*counts[:1], *counts[-1:]))) or "no"
    gaps = cells[cells["seeds"] == 0][["method", "task"]].drop_duplicates()
    missing = ", ".join(
        f"{METHODS.get(method, method)} on {TASKS.get(task, task)}" for method, task in gaps.itertuples(index=False)
    )
    text = f"Mean over {span} seed{'' if counts == [1] else 's'} of one configuration a task and method. "
    text += "A dot: s over the seeds is above a third of the mean. " if max(counts, default=0) > 1 else ""
    text += f"Hatched: no finished run ({missing}). " if missing else ""
    absent = ", ".join(name for task, name in TASKS.items() if task not in set(cells["task"]))
    text += f"Tasks without any run: {absent}. " if absent else ""
    return text + note
