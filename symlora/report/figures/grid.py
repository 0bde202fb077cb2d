"""Draw the grid of learning rate and batch size."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from symlora.audit.names import CLAIMED, METHODS, METRICS, REFERENCE, TASKS
from symlora.config.formatting import format_rate
from symlora.report.choice import Chosen, Key, grid_edge, measure
from symlora.report.figures import style

CELL = 0.42  # inches
RED = "#d6002a"


def grid_points(chosen: Mapping[Key, Chosen], model: str, protocol: str) -> pd.DataFrame:
    """List the grid points of SymLoRA and LoRA, at one seed each.

    Columns: value (in points: what the choice looks at), on (the split that `value` is of), validation (in points),
    optimum (the highest value; among equals the chosen one, else the first), chosen (stands for the method in the
    tables), edge (where the optimum lies, in words). Tasks where neither method has two points are left out.
    """
    rows: list[pd.DataFrame] = []
    for task in dict.fromkeys(key[2] for key in chosen if key[:2] == (model, protocol)):
        entries = [chosen.get((model, protocol, task, method)) for method in (CLAIMED, REFERENCE)]
        if any(entry is not None and len(entry.grid) > 1 for entry in entries):
            rows += [_points(entry) for entry in entries if entry is not None and len(entry.grid)]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _points(entry: Chosen) -> pd.DataFrame:
    grid = entry.grid
    chosen_by = measure(grid)
    value = 100 * grid[chosen_by]
    mine = (grid["configuration"] == entry.runs["configuration"].iloc[0]).to_numpy()
    best = (value == value.max()).to_numpy()
    first = np.flatnonzero(best & mine if (best & mine).any() else best)[:1]
    optimum = np.isin(np.arange(len(grid)), first)
    kept = grid[["task", "metric", "method", "lr", "batch_size", "seed", "status"]]
    return kept.assign(
        value=value,
        on="held-out slice" if chosen_by == "criterion" else "validation",
        validation=100 * grid["score"],
        optimum=optimum,
        chosen=mine,
        edge=grid_edge(replace(entry, runs=grid[optimum])),
    )


def grid_panel(points: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw scores over learning rate and batch, by task and method.

    The points are those of `grid_points`, not empty; `whose` is for the title, and `note` must stand beside this
    model's scores.
    """
    tasks = {str(task): mine for task, mine in points.groupby("task", sort=False)}
    heights = [mine["batch_size"].nunique() for mine in tasks.values()]
    seeds = ", ".join(str(seed) for seed in sorted(set(points["seed"])))
    caption = (
        f"Score in points on the {' or '.join(sorted(set(points['on'])))}, seed {seeds}. Thick frame: the grid's best "
        "point; red side: the grid ends there; diamond: the configuration in the tables, where it is another; hatched: "
        f"not run or failed. One scale a task. {note}"
    )
    width = 2 * CELL * max(mine["lr"].nunique() for mine in tasks.values()) + 2.2
    with style.plot_style():
        height = CELL * sum(heights) + 0.75 * len(tasks) + 0.2
        figure = style.new_figure(max(width, 5.2), height, f"Learning rate × batch: {whose}", caption)
        grid = figure.subplots(len(tasks), 2, squeeze=False, height_ratios=heights)
        for (task, mine), maps in zip(tasks.items(), grid, strict=True):
            scale, metric = style.scale_of(mine["value"].to_numpy(np.float64)), mine["metric"].iloc[0]
            maps[0].set_ylabel(f"{TASKS.get(task, task)}, {METRICS.get(metric, metric)}\nbatch")
            for axes, method in zip(maps, (CLAIMED, REFERENCE), strict=True):
                mesh = _map(axes, mine, method, scale)
            style.colour_bar(mesh, maps, _one_decimal, location="right", aspect=10, pad=0.02)
        for axes in grid[-1]:
            axes.set_xlabel("learning rate", labelpad=2)
    return figure


def table(points: pd.DataFrame, rates: list[float], batches: list[int]) -> style.Matrix:
    """Arrange one method's scores as [batches, rates]."""
    values = points.pivot(index="batch_size", columns="lr", values="value")
    return values.reindex(index=batches, columns=rates).to_numpy(np.float64)


def _map(axes: Axes, points: pd.DataFrame, method: str, scale: Normalize) -> QuadMesh:
    rates, batches = sorted(set(points["lr"])), sorted(set(points["batch_size"]), reverse=True)
    own = points[points["method"] == method]
    for point in own[own["optimum"] | own["chosen"]].to_dict("records"):
        _mark(axes, point, rates.index(point["lr"]), batches.index(point["batch_size"]))
    where = str(own["edge"].iloc[0]) if len(own) else "no run"
    axes.set_title(METHODS[method], loc="left", weight="bold", size=7, pad=14)
    axes.text(0, -0.1, where, size=6.5, color=RED if where.startswith("edge") else "0.35")
    style.label_cells(axes, [style.minus(format_rate(rate)) for rate in rates], [str(batch) for batch in batches])
    return style.heat_map(axes, table(own, rates, batches), "cividis", scale, _one_decimal)


def _mark(axes: Axes, point: dict[Any, Any], left: int, top: int) -> None:
    if not point["optimum"]:
        axes.plot([left + 0.16], [top + 0.18], "D", ms=2.5, color="white", mec="black", mew=0.5)
        return
    axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor="black", lw=1.8, clip_on=False, zorder=4))
    side: dict[str, Any] = {"color": RED, "lw": 2.6, "clip_on": False, "zorder": 5}
    if "lr lowest" in point["edge"] or "lr highest" in point["edge"]:
        axes.plot([left + ("lr highest" in point["edge"])] * 2, [top, top + 1], **side)
    if "batch lowest" in point["edge"] or "batch highest" in point["edge"]:
        axes.plot([left, left + 1], [top + ("batch lowest" in point["edge"])] * 2, **side)


def _one_decimal(value: float) -> str:
    return style.minus(f"{value:.1f}")
