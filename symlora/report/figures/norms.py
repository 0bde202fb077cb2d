"""Figure 1: how large λ W0 and ΔW became, tasks × layers, and a companion that answers what Figure 1 cannot.

The paper's figure has one colour scale for quantities an order of magnitude apart, no numbers, a sum of absolute values
where it writes a Frobenius norm, and does not say how query and value were merged. Here query and value are figures of
their own, a column has its own scale, shared between the methods, and every cell its number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from symlora.report.figures.style import (
    CELL,
    Matrix,
    centred,
    colour_bar,
    compact,
    finite_limits,
    heat_map,
    label_cells,
    minus,
    new_figure,
    plot_style,
)
from symlora.report.names import CLAIMED, METHODS, TASKS

NOISY = 1 / 3  # a dot marks cells whose standard deviation over seeds is a larger share of the mean than this


@dataclass(frozen=True)
class Column:
    """One quantity of a figure.

    Attributes:
        key: Its name in the frame of cells.
        title: Of the column.
        cmap: Colour map.
        centre: Middle of a diverging map; None for one that grows.
        number: Writes a value.
    """

    key: str
    title: str
    cmap: str
    centre: float | None = None
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
LAMBDAS = ("lambda", "decay_only", "decay_to_zero")  # λ and the strip of references under it
_POSITIVE = ("lambda_w0_frobenius", "delta_frobenius", "delta_l1")
TRUE = "Frobenius norms; α/r is in ΔW; scales are shared down a column."
PRINTED = (
    "Sums of absolute values in place of Frobenius norms, λ with its sign, one scale for all: as the paper prints."
)
RATIO = Column("log10_ratio", r"$\log_{10}(\Vert\Delta W\Vert_F/\Vert W_0\Vert_F)$", "cividis")


def matrix(cells: pd.DataFrame, method: str, projection: str, key: str) -> Matrix:
    """[layers, tasks], the layer nearest the head first; NaN where there is no run."""
    mine = cells[(cells["method"] == method) & (cells["projection"] == projection)]
    table = mine.pivot(index="layer", columns="task", values=key).sort_index(ascending=False)
    return table[_present(cells, "task")].to_numpy(dtype=np.float64)


def scales(cells: pd.DataFrame, projection: str, as_paper: bool = False) -> dict[str, Normalize]:
    """The scale of each column by its key: its own, shared between the methods; as printed, one for all."""
    columns = AS_PAPER if as_paper else FROBENIUS
    values = {
        column.key: np.concatenate(
            [matrix(cells, method, projection, column.key) for method in _present(cells, "method")]
        )
        for column in columns
    }
    if as_paper:
        common = Normalize(*finite_limits(*values.values()))
        return {key: common for key in values}
    return {column.key: _scale(column, values[column.key]) for column in columns}


def _present(cells: pd.DataFrame, key: str) -> list[str]:
    """Tasks or methods, in the order in which the frame has them."""
    return list(dict.fromkeys(cells[key]))


def _scale(column: Column, *values: Matrix) -> Normalize:
    return Normalize(*finite_limits(*values)) if column.centre is None else centred(column.centre, *values)


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
    scale = scales(cells, projection, as_paper)
    methods, tasks = _present(cells, "method"), _present(cells, "task")
    layers = cells["layer"].nunique()
    title = f"Figure 1, {projection}{', as printed' if as_paper else ''}: {whose}"
    size = (1.0 + len(columns) * _width(tasks), len(methods) * (layers * CELL + 0.4) + 0.6)
    with plot_style():
        figure = new_figure(size, title, f"{PRINTED if as_paper else TRUE} {_caption(cells, note)}")
        grid = figure.subplots(len(methods), len(columns), squeeze=False)
        for position, column in enumerate(columns):
            grid[0, position].set_title(column.title, size=9, pad=8)
            for row, method in enumerate(methods):
                mesh = _map(grid[row, position], cells, method, projection, column, scale[column.key])
                _label(grid[row, position], tasks, _layers(layers), method if position == 0 else None)
            colour_bar(mesh, grid[:, position], column.number, location="bottom", aspect=15, pad=0.03)
        return figure


def companion(cells: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw λ, what decay alone would have made of it, and log10 of ‖ΔW‖_F / ‖W0‖_F.

    Args:
        cells: symlora.report.figures.norms_frame.cells, of one protocol and model.
        whose: Model and protocol, for the title.
        note: What must stand beside this model's numbers.
    """
    methods, tasks = _present(cells, "method"), _present(cells, "task")
    projections, layers = sorted(set(cells["projection"])), cells["layer"].nunique()
    with_lambda = [m for m in methods if m == CLAIMED or cells.loc[cells["method"] == m, "decay_only"].notna().any()]
    lambda_scale = _scale(LAMBDA, *(matrix(cells, m, p, k) for m in with_lambda for p in projections for k in LAMBDAS))
    ratio_scale = _scale(RATIO, *(matrix(cells, m, p, RATIO.key) for m in methods for p in projections))
    heights = [layers + 2 * (method in with_lambda) for method in methods]
    caption = (
        "The two rows under λ: what weight decay alone makes of it up to the kept epoch, exp(-wd · Σ lr); as run (1 "
        f"where λ does not decay), and had it decayed toward 0 as other weights do. {_caption(cells, note)}"
    )
    panels = [(column, projection) for column in (LAMBDA, RATIO) for projection in projections]
    size = (1.0 + len(panels) * _width(tasks), sum(heights) * CELL + 0.4 * len(methods) + 0.6)
    with plot_style():
        figure = new_figure(size, f"λ and relative update: {whose}", caption)
        grid = figure.subplots(len(methods), len(panels), squeeze=False, height_ratios=heights)
        for position, (column, projection) in enumerate(panels):
            first = projection == projections[0]
            scale = lambda_scale if column is LAMBDA else ratio_scale
            grid[0, position].set_title(f"{column.title}, {projection}", pad=8)
            for axes, method in zip(grid[:, position], methods, strict=True):
                if column is LAMBDA and method not in with_lambda:
                    axes.axis("off")
                    axes.text(0, 0.5, f"{METHODS.get(method, method)} has no λ" if first else "", color="0.4")
                    continue
                mesh = _map(axes, cells, method, projection, column, scale)
                decays = ("decay, as run", "decay to 0") if column is LAMBDA else ()
                _label(axes, tasks, (*_layers(layers), *decays), method if first else None)
                axes.set_anchor("N")
            colour_bar(mesh, grid[:, position], column.number, location="bottom", aspect=15, pad=0.03)
        return figure


def _map(axes: Axes, cells: pd.DataFrame, method: str, projection: str, column: Column, scale: Normalize) -> QuadMesh:
    values = matrix(cells, method, projection, column.key)
    spread = matrix(cells, method, projection, f"{column.key}_s")
    # Of a difference or a logarithm the mean may be near 0, where a share of it means nothing.
    size = np.abs(values) if column.key in _POSITIVE else np.full_like(values, np.inf)
    marks = np.nan_to_num(spread) > NOISY * np.nan_to_num(size, nan=np.inf)
    if column is LAMBDA:  # the references stand in rows of their own, below
        values = np.vstack([values, *(matrix(cells, method, projection, key)[:1] for key in LAMBDAS[1:])])
        axes.axhline(len(marks), color="white", lw=4, zorder=3)
        marks = np.vstack([marks, np.zeros((2, marks.shape[1]), bool)])
    return heat_map(axes, values, column.cmap, scale, column.number, marks)


def _width(tasks: list[str]) -> float:
    """Inches of a column with its gap: at least what its title needs."""
    return max(len(tasks) * CELL, 1.45) + 0.35


def _layers(count: int) -> list[str]:
    names = [str(layer) for layer in range(count, 0, -1)]
    names[0] = f"head  {names[0]}"
    names[-1] = f"embeddings  {names[-1]}" if count > 1 else names[-1]
    return names


def _label(axes: Axes, tasks: list[str], rows: Sequence[str], method: str | None) -> None:
    names = [TASKS.get(task, task) for task in tasks]
    label_cells(axes, names, rows if method else [], rotation=40, ha="right", rotation_mode="anchor")
    if method:
        axes.set_ylabel(f"{METHODS.get(method, method)}, layer", weight="bold", size=8)


def _caption(cells: pd.DataFrame, note: str) -> str:
    """What every reader must know: over how many seeds, what grey means, whose numbers these are."""
    runs = cells[cells["seeds"] > 0]
    counts = sorted(set(runs["seeds"]))
    seeds = "no seeds" if not counts else "1 seed" if counts == [1] else f"{_span(counts)} seeds"
    gaps = cells[cells["seeds"] == 0][["method", "task"]].drop_duplicates()
    missing = ", ".join(
        f"{METHODS.get(method, method)} on {TASKS.get(task, task)}" for method, task in gaps.itertuples(index=False)
    )
    text = f"Mean over {seeds} of one configuration a task and method. "
    text += "A dot: s over the seeds is above a third of the mean. " if max(counts, default=0) > 1 else ""
    text += f"Hatched: no finished run ({missing}). " if missing else ""
    absent = ", ".join(name for task, name in TASKS.items() if task not in set(cells["task"]))
    text += f"Tasks without any run: {absent}. " if absent else ""
    return text + note


def _span(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
