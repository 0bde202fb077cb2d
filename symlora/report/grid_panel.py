"""The learning-rate × batch grid of each task and method: where its best point lies, and if it ends there."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from symlora.report.choice import Chosen, Key, edge
from symlora.report.drawing import Matrix, Page, colour_bar, finite_limits, heat_map, look, minus
from symlora.report.names import CLAIMED, METHODS, METRICS, REFERENCE, TASKS

CELL = 0.42  # inches
LEFT, GAP, TOP, BETWEEN = 1.05, 0.75, 0.55, 0.8
RED = "#d6002a"
HELD_OUT, VALIDATION = "held-out slice", "validation"


def grid_points(chosen: Mapping[Key, Chosen], model: str, protocol: str) -> pd.DataFrame:
    """The grids of one model and protocol, at one seed each: SymLoRA's and LoRA's.

    Returns:
        One row for each task, method and grid point: task, metric, method, lr, batch_size, seed, status, value (in
        points: what the choice looks at), on (the split that `value` is of), validation (in points), optimum (the
        highest value; among equals the chosen one, else the first), chosen (stands for the method in the tables), edge
        (where the optimum lies, in words). Tasks where neither method has two points are left out.
    """
    rows: list[pd.DataFrame] = []
    for task in dict.fromkeys(key[2] for key in chosen if key[:2] == (model, protocol)):
        entries = [chosen.get((model, protocol, task, method)) for method in (CLAIMED, REFERENCE)]
        if any(entry is not None and len(entry.grid) > 1 for entry in entries):
            rows += [_points(entry) for entry in entries if entry is not None and len(entry.grid)]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _points(entry: Chosen) -> pd.DataFrame:
    grid = entry.grid
    held_out = bool(grid["criterion"].notna().any())
    value = 100 * grid["criterion" if held_out else "score"]
    mine = (grid["configuration"] == entry.runs["configuration"].iloc[0]).to_numpy()
    best = (value == value.max()).to_numpy()
    first = np.flatnonzero(best & mine if (best & mine).any() else best)[:1]
    optimum = np.isin(np.arange(len(grid)), first)
    return pd.DataFrame(
        {
            "task": entry.key[2],
            "metric": grid["metric"],
            "method": entry.key[3],
            "lr": grid["lr"],
            "batch_size": grid["batch_size"],
            "seed": entry.grid_seed,
            "status": grid["status"],
            "value": value,
            "on": HELD_OUT if held_out else VALIDATION,
            "validation": 100 * grid["score"],
            "optimum": optimum,
            "chosen": mine,
            "edge": edge(replace(entry, runs=grid[optimum])),
        }
    )


def grid_panel(points: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """A row a task, a column a method: the score over learning rate and batch size.

    Args:
        points: Of `grid_points`; not empty.
        whose: Model and protocol, for the title.
        note: What must stand beside this model's scores.
    """
    tasks = list(dict.fromkeys(points["task"]))
    axes_of = {task: _axes(points[points["task"] == task]) for task in tasks}
    wide = CELL * max(len(rates) for rates, _ in axes_of.values())
    heights = [CELL * len(batches) for _, batches in axes_of.values()]
    tops = [TOP + sum(heights[:row]) + row * BETWEEN for row in range(len(tasks))]
    seeds = ", ".join(str(seed) for seed in sorted(set(points["seed"])))
    caption = (
        f"Score in points on the {' or '.join(sorted(set(points['on'])))}, seed {seeds}. Thick frame: the grid's best "
        "point; red side: the grid ends there; diamond: the configuration in the tables, where it is another; hatched: "
        f"not run or failed. One scale a task. {note}"
    )
    width = max(LEFT + 2 * (wide + GAP) + 0.35, 5.2)
    with look():
        page = Page(width, tops[-1] + heights[-1] + 0.65, f"Learning rate × batch: {whose}", caption)
        for task, y, high in zip(tasks, tops, heights, strict=True):
            mine = points[points["task"] == task]
            rates, batches = axes_of[task]
            scale = Normalize(*finite_limits(mine["value"].to_numpy(dtype=np.float64)))
            metric = mine["metric"].iloc[0]
            page.text(0.15, y + high / 2 - 0.12, f"{TASKS.get(task, task)}\n{METRICS.get(metric, metric)}", va="center")
            for column, method in enumerate((CLAIMED, REFERENCE)):
                own = mine[mine["method"] == method]
                x = LEFT + column * (wide + GAP)
                axes = page.axes(x, y, CELL * len(rates), high)
                heat_map(axes, table(own, rates, batches), "cividis", scale, lambda value: minus(f"{value:.1f}"))
                _mark(axes, own, rates, batches)
                axes.set_xticks(range(len(rates)), [_rate(rate) for rate in rates])
                axes.set_yticks(range(len(batches)), [str(batch) for batch in batches])
                axes.set_ylabel("batch" if column == 0 else "", labelpad=2)
                axes.set_xlabel("learning rate" if task == tasks[-1] else "", labelpad=2)
                said = str(own["edge"].iloc[0]) if len(own) else "no run"
                page.text(x, y - 0.36, METHODS[method], weight="bold")
                page.text(x, y - 0.19, said, size=6.5, color=RED if said.startswith("edge") else "0.35")
            bar = page.axes(LEFT + 2 * wide + GAP + 0.12, y, 0.08, high)
            colour_bar(page, bar, "cividis", scale, lambda value: minus(f"{value:.1f}"), upright=True)
        return page.figure


def table(points: pd.DataFrame, rates: list[float], batches: list[int]) -> Matrix:
    """[batches, rates], the largest batch first; NaN where there is no score."""
    values = np.full((len(batches), len(rates)), np.nan)
    for point in points.to_dict("records"):
        values[batches.index(point["batch_size"]), rates.index(point["lr"])] = point["value"]
    return values


def _axes(points: pd.DataFrame) -> tuple[list[float], list[int]]:
    return sorted(set(points["lr"])), sorted(set(points["batch_size"]), reverse=True)


def _mark(axes: Axes, own: pd.DataFrame, rates: list[float], batches: list[int]) -> None:
    for point in own[own["optimum"] | own["chosen"]].to_dict("records"):
        column, row = rates.index(point["lr"]), batches.index(point["batch_size"])
        if not point["optimum"]:
            axes.plot([column - 0.34], [row - 0.32], "D", ms=2.5, color="white", mec="black", mew=0.5)
            continue
        box = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(box, 1, 1, fill=False, edgecolor="black", lw=1.8, clip_on=False, zorder=4))
        x = column + (-0.5 if "lr lowest" in point["edge"] else 0.5)
        y = row + (0.5 if "batch lowest" in point["edge"] else -0.5)
        if "lr " in point["edge"] and "lr inside" not in point["edge"]:
            axes.plot([x, x], [row - 0.5, row + 0.5], color=RED, lw=2.6, clip_on=False, zorder=5)
        if "batch lowest" in point["edge"] or "batch highest" in point["edge"]:
            axes.plot([column - 0.5, column + 0.5], [y, y], color=RED, lw=2.6, clip_on=False, zorder=5)


def _rate(rate: float) -> str:
    mantissa, exponent = f"{rate:.2e}".split("e")
    return minus(f"{float(mantissa):g}e{int(exponent)}")
