"""Draw the score over learning rate and batch size."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symlora.audit.names import CLAIMED, METHODS, REFERENCE
from symlora.config.formatting import format_rate
from symlora.report.choice import Chosen, Key, grid_edge, measure
from symlora.report.figures.style import COLOURS, minus, plot_style, task_row

RED = "#d6002a"
DASHES = {"solid": "-", "dashed": "--", "dotted": ":", "dash-dotted": "-."}  # a batch size each


def grid_points(chosen: Mapping[Key, Chosen], model: str, protocol: str) -> pd.DataFrame:
    """List the grid points of SymLoRA and LoRA.

    Columns: seeds (that choose), value (in points: what the choice looks at, their mean), on (the split that `value` is
    of), validation (in points), optimum (the highest value; among equals the chosen one, else the first), chosen
    (stands for the method in the tables), edge (where the optimum lies, in words). Tasks where neither method has two
    points are left out.
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
    kept = grid[["task", "metric", "method", "lr", "batch_size", "seeds", "status"]]
    return kept.assign(
        value=value,
        on="the held-out slice" if chosen_by == "criterion" else "validation",
        validation=100 * grid["score"],
        optimum=optimum,
        chosen=mine,
        edge=grid_edge(replace(entry, runs=grid[optimum])),
    )


def grid_panel(points: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw scores over the learning rate, a line a batch size.

    The points are those of `grid_points`, not empty; `whose` is for the title, and `note` must stand beside this
    model's scores.
    """
    batches = sorted(set(points["batch_size"]))
    seeds = " or ".join(sorted(set(points["seeds"].astype(str))))
    lines = ", ".join(f"{name}: batch {size}" for name, size in zip(DASHES, batches, strict=False))
    caption = (
        f"Score in points on {' or '.join(sorted(set(points['on'])))}, seed {seeds} (several: their mean). Lines, "
        f"{lines}. Ring: the grid's best point, red if the grid ends there. Diamond: the configuration in the tables, "
        f"where it is another. Cross: failed. {note}"
    )
    with plot_style():
        figure, row = task_row(points, f"Score over the learning rate: {whose}", 2.1, caption)
        for mine, axes in row:
            for method in (CLAIMED, REFERENCE):
                _draw(axes, mine[mine["method"] == method], method, batches)
            rates = sorted(set(mine["lr"]))
            axes.set_xscale("log")
            axes.set_xticks(rates, [minus(format_rate(rate)) for rate in rates], size=6)
            axes.set_xticks([], minor=True)
            axes.set_xlabel("learning rate", labelpad=2)
            axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(-0.02, -0.22))
    return figure


def _draw(axes: Axes, points: pd.DataFrame, method: str, batches: list[int]) -> None:
    """Draw one method's points, and say where its best one lies."""
    colour = COLOURS[method]
    for dashes, size in zip(DASHES.values(), batches, strict=False):
        line = points[points["batch_size"] == size].sort_values("lr")
        axes.plot(line["lr"], line["value"], dashes, marker=".", ms=4, lw=1.1, color=colour)
        failed = line.loc[line["value"].isna(), "lr"]
        axes.plot(failed, [0.02] * len(failed), "x", ms=4, color=colour, transform=axes.get_xaxis_transform())
    where = str(points["edge"].iloc[0]) if len(points) else "no run"
    axes.plot([], [], color=colour, label=f"{METHODS[method]}: {where}")
    best, chosen = points[points["optimum"]], points[points["chosen"] & ~points["optimum"]]
    ring = RED if where.startswith("edge") else "black"
    axes.plot(best["lr"], best["value"], "o", ms=8, mfc="none", mec=ring, mew=1.2, clip_on=False)
    axes.plot(chosen["lr"], chosen["value"], "D", ms=5, mfc="none", mec="black", mew=0.8)
