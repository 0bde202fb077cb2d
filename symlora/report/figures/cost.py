"""Draw the score of every method over what it costs."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symlora.audit.names import METHODS
from symlora.report.choice import Chosen, Key
from symlora.report.cost import cell_pscp, mean_costs
from symlora.report.figures.style import COLOURS, compact, heading, new_figure, plot_style

AXES = {
    "parameters": "trained parameters",
    "memory_gib": "peak memory, GiB",
    "training_seconds": "training, s",
    "inference_ms": "inference, ms a sentence",
}
MARKERS = "osD^v<>Ph*X"
LEAST_SPAN = 2.0  # points of an axis of scores, so that a difference of some hundredths does not look like a lead


def cost_points(chosen: Mapping[Key, Chosen], model: str, protocol: str) -> pd.DataFrame:
    """List score and cost of every method: means over finished runs."""
    rows = []
    for key, cell in chosen.items():
        if key[:2] != (model, protocol) or cell.finished.empty:
            continue
        runs, costs = cell.finished, mean_costs(cell.finished)
        rows.append(
            {
                "task": key[2],
                "metric": runs["metric"].iloc[0],
                "method": key[3],
                "n": len(runs),
                "score": 100 * float(runs["score"].mean()),
                "parameters": costs["total"],
                "memory_gib": costs["peak_memory_bytes"] / 2**30,
                "training_seconds": costs["train_seconds"],
                "inference_ms": 1000 * costs["inference_seconds"],
                "pscp": cell_pscp(cell, chosen)[0],
            }
        )
    return pd.DataFrame(rows)


def cost_panel(points: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw scores over costs: a row per task, a column per cost."""
    tasks = [mine for _, mine in points.groupby("task", sort=False)]
    methods = list(dict.fromkeys(points["method"]))
    colours = matplotlib.colormaps["tab10" if len(methods) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    caption = (
        "Means over the finished seeds of each method's own configuration; a cost that the runs do not tell has no "
        "point. Up and left is better. Memory and times are those of the machine that ran it, alone or in a pack, and "
        f"compare methods only where both are alike. {note}"
    )
    with plot_style():
        height = max(1.5 * len(tasks) + 0.4, 0.16 * len(methods))  # the legend has one line per method
        figure = new_figure(8.0, height, f"Score over cost: {whose}", caption)
        grid = figure.subplots(len(tasks), len(AXES), squeeze=False, sharey="row")
        legend = {}
        for row, mine in zip(grid, tasks, strict=True):
            row[0].set_ylabel(heading(mine))
            for axes, column in zip(row, AXES, strict=True):
                told = mine[mine[column] > 0]
                for method, cost, score in told[["method", column, "score"]].itertuples(index=False):
                    place = methods.index(method)
                    colour = COLOURS.get(method, colours[place % len(colours)])
                    marker = MARKERS[place % len(MARKERS)]
                    (legend[METHODS.get(method, method)],) = axes.plot(cost, score, marker, ms=4, color=colour)
                axes.set_xscale("log")
                axes.margins(0.15)
                ends = sorted({told[column].min(), told[column].max()} if len(told) else ())
                axes.set_xticks(ends, [compact(end) for end in ends])
                axes.set_xticks([], minor=True)
                axes.tick_params(length=2)
                axes.spines[["top", "right"]].set_visible(False)
            middle, span = mine["score"].agg(["min", "max"]).mean(), np.ptp(mine["score"])
            if span < LEAST_SPAN:
                row[0].set_ylim(middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2)
        for axes, label in zip(grid[-1], AXES.values(), strict=True):
            axes.set_xlabel(label)
        figure.legend(legend.values(), legend, loc="outside right upper", frameon=False)
    return figure
