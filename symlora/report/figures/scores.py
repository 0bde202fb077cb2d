"""Draw scores over epochs and learning rates, one plot per task."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from symlora.audit.names import CLAIMED, METHODS, REFERENCE
from symlora.config.formatting import format_rate
from symlora.config.schema import HELD_OUT
from symlora.report.choice import Chosen, Key, grid_edge, measure
from symlora.report.figures.style import COLOURS, heading, minus, new_figure, plot_style
from symlora.store.folder import read_run

RED = "#d6002a"
# One per batch size
DASHES: dict[str, Any] = {
    "solid": "-", "dashed": "--", "dotted": ":", "dash-dotted": "-.",
    "long dashes": (0, (10, 3)), "dash and two dots": (0, (4, 1, 1, 1, 1, 1)),
}  # fmt: skip


def curves(chosen: Mapping[Key, Chosen], model: str, protocol: str) -> pd.DataFrame:
    """List the scores of SymLoRA and LoRA after each epoch, by seed.

    Columns: on (the split that chooses the epoch), score (in points), train_loss. Runs are the finished ones of each
    method's own configuration, of two epochs or more.
    """
    rows = []
    for key, cell in chosen.items():
        if key[:2] != (model, protocol) or key[3] not in COLOURS:
            continue
        for run in cell.finished.to_dict("records"):
            epochs = (read_run(run["folder"]) or {}).get("epochs") or []
            split = HELD_OUT if epochs and HELD_OUT in epochs[0]["metrics"] else run["split"]
            rows += [
                {
                    **{name: run[name] for name in ("task", "metric", "method", "seed")},
                    "on": "the held-out slice" if split == HELD_OUT else "validation",
                    "epoch": epoch["number"],
                    "score": 100 * _number(epoch["metrics"][split][run["metric"]]),
                    "train_loss": epoch["train_loss"],
                }
                for epoch in (epochs if len(epochs) > 1 else ())
            ]
    return pd.DataFrame(rows)


def _number(value: float | None) -> float:
    """Return NaN where a metric was not defined."""
    return math.nan if value is None else value


def curve_panel(points: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw each task's curves: thin for seeds, thick for the mean."""
    caption = (
        f"Score in points on {' or '.join(sorted(set(points['on'])))} after each epoch, at each method's own "
        f"configuration. Thin: one seed; thick: the mean. {note}"
    )
    with plot_style():
        figure, row = _task_row(points, f"Training curves: {whose}", 2.0, caption)
        for mine, axes in row:
            for method, own in mine.groupby("method", sort=False):
                colour = COLOURS[str(method)]
                scores = own.pivot(index="epoch", columns="seed", values="score")
                axes.plot(scores.index, scores, color=colour, lw=0.4, alpha=0.5)
                axes.plot(scores.index, scores.mean(axis=1), color=colour, lw=1.6, label=METHODS[str(method)])
            axes.set_xlabel("epoch", labelpad=2)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0][1].legend(frameon=False)
    return figure


def grid_points(chosen: Mapping[Key, Chosen], model: str, protocol: str) -> pd.DataFrame:
    """List the grid points of SymLoRA and LoRA.

    Columns: seeds (that choose), value (in points: what the choice looks at, their mean), on (the split that `value` is
    of), validation (in points), optimum (the highest value; among equals the chosen one, else the first), chosen
    (stands for the method in the tables), edge (where the optimum lies, in words). Tasks where neither method has two
    points are left out.
    """
    rows: list[pd.DataFrame] = []
    for task in dict.fromkeys(key[2] for key in chosen if key[:2] == (model, protocol)):
        entries = [chosen[model, protocol, task, method] for method in (CLAIMED, REFERENCE)]
        if any(len(entry.grid) > 1 for entry in entries):
            rows += [_points(entry) for entry in entries if len(entry.grid)]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _points(entry: Chosen) -> pd.DataFrame:
    grid = entry.grid
    chosen_by = measure(grid)
    value = 100 * grid[chosen_by]
    mine = grid["configuration"] == entry.runs["configuration"].iloc[0]
    best = value.round(10) == value.round(10).max()  # means that are equal but for rounding
    best = best & mine if (best & mine).any() else best
    optimum = best & (best.cumsum() == 1)
    kept = grid[["task", "metric", "method", "lr", "batch_size", "seeds", "status"]]
    return kept.assign(
        value=value,
        on="the held-out slice" if chosen_by == "criterion" else "validation",
        validation=100 * grid["score"],
        optimum=optimum,
        chosen=mine,
        edge=grid_edge(replace(entry, runs=grid[optimum])) or "no score",
    )


def grid_panel(points: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw scores over the learning rate, one line per batch size."""
    batches = sorted(set(points["batch_size"]))
    seeds = " or ".join(sorted(set(points["seeds"].astype(str))))
    lines = ", ".join(f"{name}: batch {size}" for name, size in zip(cycle(DASHES), batches, strict=False))
    caption = (
        f"Score in points on {' or '.join(sorted(set(points['on'])))}, seed {seeds} (several: their mean). Lines, "
        f"{lines}. Ring: the grid's best point, red if the grid ends there. Diamond: the configuration in the tables, "
        f"where it is another. Cross: failed. {note}"
    )
    with plot_style():
        figure, row = _task_row(points, f"Score over the learning rate: {whose}", 2.1, caption)
        for mine, axes in row:
            for method in (CLAIMED, REFERENCE):
                _draw_grid(axes, mine[mine["method"] == method], method, batches)
            rates = sorted(set(mine["lr"]))
            axes.set_xscale("log")
            axes.set_xticks(rates, [minus(format_rate(rate)) for rate in rates], size=5)
            axes.set_xticks([], minor=True)
            axes.set_xlabel("learning rate", labelpad=2)
            axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(-0.02, -0.22))
    return figure


def _draw_grid(axes: Axes, points: pd.DataFrame, method: str, batches: list[int]) -> None:
    """Draw one method's points, and say where its best one lies."""
    colour = COLOURS[method]
    for dashes, size in zip(cycle(DASHES.values()), batches, strict=False):
        line = points[points["batch_size"] == size].sort_values("lr")
        axes.plot(line["lr"], line["value"], ls=dashes, marker=".", ms=4, lw=1.1, color=colour)
        failed = line.loc[line["value"].isna(), "lr"]
        axes.plot(failed, [0.02] * len(failed), "x", ms=4, color=colour, transform=axes.get_xaxis_transform())
    where = str(points["edge"].iloc[0]) if len(points) else "no run"
    axes.plot([], [], color=colour, label=f"{METHODS[method]}: {where}")
    best, chosen = points[points["optimum"]], points[points["chosen"] & ~points["optimum"]]
    ring = RED if where.startswith("edge") else "black"
    axes.plot(best["lr"], best["value"], "o", ms=8, mfc="none", mec=ring, mew=1.2, clip_on=False)
    axes.plot(chosen["lr"], chosen["value"], "D", ms=5, mfc="none", mec="black", mew=0.8)


def _task_row(
    points: pd.DataFrame, title: str, height: float, caption: str
) -> tuple[Figure, list[tuple[pd.DataFrame, Axes]]]:
    """Make a figure with one plot per task; pair points and axes."""
    tasks = [mine for _, mine in points.groupby("task", sort=False)]
    figure = new_figure(max(5.2, 2.4 * len(tasks)), height, title, caption)
    row = figure.subplots(1, len(tasks), squeeze=False)[0]
    for mine, axes in zip(tasks, row, strict=True):
        axes.set_title(heading(mine), loc="left", size=7, weight="bold")
        axes.tick_params(length=2)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(zip(tasks, row, strict=True))
