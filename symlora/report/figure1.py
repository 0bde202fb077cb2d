"""Figure 1: how large λ W0 and ΔW became, tasks × layers, and a companion that answers what Figure 1 cannot.

The paper's figure has one colour scale for quantities an order of magnitude apart, no numbers, a sum of absolute values
where it writes a Frobenius norm, and does not say how query and value were merged. Here query and value are figures of
their own, a column has its own scale, shared between the methods, and every cell its number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from symlora.report.drawing import (
    CELL,
    Matrix,
    Page,
    centred,
    colour_bar,
    finite_limits,
    heat_map,
    look,
    minus,
    short,
)
from symlora.report.names import CLAIMED, METHODS, TASKS

LEFT, GAP, TOP, BETWEEN = 0.95, 0.45, 0.5, 0.62  # inches: labels, between columns, over the first row, between rows
STRIP = 0.08  # inches between λ and the strip of references
NARROWEST = 1.45  # inches of a column: its title fits
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
    number: Callable[[float], str] = short


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
    """Heat maps of |λ|‖W0‖_F, ‖ΔW‖_F and their difference; a row of them for each method.

    Args:
        cells: symlora.report.norms_frame.cells, of one protocol and model.
        projection: `query` or `value`.
        whose: Model and protocol, for the title.
        note: What must stand beside this model's numbers.
        as_paper: The printed form instead: sums of absolute values, λ with its sign, and one scale for all maps.
    """
    columns = AS_PAPER if as_paper else FROBENIUS
    scale = scales(cells, projection, as_paper)
    methods, tasks = _present(cells, "method"), _present(cells, "task")
    layers = cells["layer"].nunique()
    wide, high = len(tasks) * CELL, layers * CELL
    pitch = max(wide, NARROWEST) + GAP
    bars = TOP + len(methods) * (high + BETWEEN) - 0.12
    form = PRINTED if as_paper else TRUE
    with look():
        title = f"Figure 1, {projection}{', as printed' if as_paper else ''}: {whose}"
        page = Page(LEFT + len(columns) * pitch, bars + 0.4, title, f"{form} {_caption(cells, note)}")
        for position, column in enumerate(columns):
            x = LEFT + position * pitch
            page.text(x + wide / 2, 0.08, column.title, size=9, ha="center")
            for row, method in enumerate(methods):
                axes = page.axes(x, TOP + row * (high + BETWEEN), wide, high)
                _map(axes, cells, method, projection, column, scale[column.key])
                _label_layers(axes, layers, METHODS.get(method, method) if position == 0 else None)
                _label_tasks(axes, tasks)
            _bar(page, x, bars, wide, column, scale[column.key])
        return page.figure


def companion(cells: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """λ with what decay alone would have made of it, and log10 of ‖ΔW‖_F / ‖W0‖_F for every method.

    Args:
        cells: symlora.report.norms_frame.cells, of one protocol and model.
        whose: Model and protocol, for the title.
        note: What must stand beside this model's numbers.
    """
    methods, tasks = _present(cells, "method"), _present(cells, "task")
    projections, layers = sorted(set(cells["projection"])), cells["layer"].nunique()
    wide, high = len(tasks) * CELL, layers * CELL
    pitch = max(wide, NARROWEST) + GAP
    with_lambda = [m for m in methods if m == CLAIMED or cells.loc[cells["method"] == m, "decay_only"].notna().any()]
    lambda_scale = _scale(LAMBDA, *(matrix(cells, m, p, k) for m in with_lambda for p in projections for k in LAMBDAS))
    ratio_scale = _scale(RATIO, *(matrix(cells, m, p, RATIO.key) for m in methods for p in projections))
    heights = [high + (STRIP + 2 * CELL if method in with_lambda else 0.0) for method in methods]
    tops = [TOP + sum(heights[:row]) + row * BETWEEN for row in range(len(methods))]
    bars = tops[-1] + heights[-1] + BETWEEN - 0.12
    caption = (
        "The two rows under λ: what weight decay alone makes of it up to the kept epoch, exp(-wd · Σ lr); as run (1 "
        f"where λ does not decay), and had it decayed toward 0 as other weights do. {_caption(cells, note)}"
    )
    panels = [(column, projection) for column in (LAMBDA, RATIO) for projection in projections]
    with look():
        page = Page(2 * (LEFT + len(projections) * pitch), bars + 0.4, f"λ and relative update: {whose}", caption)
        for position, (column, projection) in enumerate(panels):
            first = position % len(projections) == 0
            x = LEFT + position * pitch + (LEFT if column is RATIO else 0.0)
            scale = lambda_scale if column is LAMBDA else ratio_scale
            page.text(x + wide / 2, 0.02, f"{column.title}, {projection}", size=8, ha="center")
            for method, y in zip(methods, tops, strict=True):
                name = METHODS.get(method, method)
                if column is LAMBDA and method not in with_lambda:
                    page.text(x, y + high / 2, f"{name} has no λ" if first else "", color="0.4")
                    continue
                axes = page.axes(x, y, wide, high)
                _map(axes, cells, method, projection, column, scale)
                _label_layers(axes, layers, name if first else None)
                if column is LAMBDA:
                    axes = page.axes(x, y + high + STRIP, wide, 2 * CELL)
                    strip = np.stack([matrix(cells, method, projection, key)[0] for key in LAMBDAS[1:]])
                    heat_map(axes, strip, LAMBDA.cmap, scale, LAMBDA.number)
                    axes.set_yticks([0, 1], ["decay, as run", "decay to 0"] if first else [])
                _label_tasks(axes, tasks)
            _bar(page, x, bars, wide, column, scale)
        return page.figure


def _map(axes: Axes, cells: pd.DataFrame, method: str, projection: str, column: Column, scale: Normalize) -> None:
    values = matrix(cells, method, projection, column.key)
    spread = matrix(cells, method, projection, f"{column.key}_s")
    # Of a difference or a logarithm the mean may be near 0, where a share of it means nothing.
    size = np.abs(values) if column.key in _POSITIVE else np.full_like(values, np.inf)
    marks = np.nan_to_num(spread) > NOISY * np.nan_to_num(size, nan=np.inf)
    heat_map(axes, values, column.cmap, scale, column.number, marks)


def _bar(page: Page, x: float, y: float, wide: float, column: Column, scale: Normalize) -> None:
    width = max(wide, 0.9)  # room for three numbers
    colour_bar(page, page.axes(x + (wide - width) / 2, y, width, 0.09), column.cmap, scale, column.number)


def _label_layers(axes: Axes, layers: int, method: str | None) -> None:
    names = [str(layer) for layer in range(layers, 0, -1)]
    names[0] = f"head  {names[0]}"
    names[-1] = f"embeddings  {names[-1]}" if layers > 1 else names[-1]
    axes.set_yticks(range(layers), names if method else [])
    if method:
        axes.set_title(f"{method}, layer", loc="left", weight="bold", x=-0.02, pad=4)


def _label_tasks(axes: Axes, tasks: list[str]) -> None:
    axes.set_xticks(range(len(tasks)), [TASKS.get(task, task) for task in tasks], rotation=40, ha="right")
    axes.tick_params(axis="x", pad=1)


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
