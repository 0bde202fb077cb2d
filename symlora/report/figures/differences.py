"""Draw paired differences of SymLoRA and LoRA, with the margin."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symlora.audit.names import CLAIMED, METHODS, REFERENCE
from symlora.report.choice import Chosen, Key
from symlora.report.comparison import Paired, unpaired
from symlora.report.figures.style import heading, minus, new_figure, plot_style

ROW, WIDTH = 0.42, 5.0  # inches: of a task, and of the figure, whose left a telephone shows whole
COLOURS = {"equivalent": "#1b7837", "better": "#2166ac", "worse": "#b2182b"}
GREY = "0.25"  # any other verdict


def differences(
    pairs: Mapping[Key, Paired], chosen: Mapping[Key, Chosen], model: str, protocol: str, margin: float, alpha: float
) -> pd.DataFrame:
    """List SymLoRA less LoRA in points, by task and seed.

    Repeated for the task are mean, low and high (of the paired t interval of level 1 - alpha for this task alone;
    missing for one seed), level, margin, n, verdict (which holds over the section's tasks) and obstacle (why there is
    none: runs that failed or are at chance). A task with runs but no pair has one row without numbers.
    """
    rows: list[dict[str, object]] = []
    for key, entry in chosen.items():
        if key[:2] != (model, protocol) or key[3] != CLAIMED:
            continue
        runs = pd.concat([entry.runs, chosen[(*key[:3], REFERENCE)].runs])
        if runs.empty:
            continue
        task = {"task": key[2], "metric": runs["metric"].iloc[0], "level": 1 - alpha, "margin": margin}
        if (pair := pairs.get(key)) is None:
            why = unpaired(entry, chosen[(*key[:3], REFERENCE)])
            rows.append({**task, "n": 0, "verdict": "none" if why else "no pair", "obstacle": why})
            continue
        verdict = pair.decision.verdict if pair.decision else "none" if pair.obstacle else "one seed: no test"
        task |= {"mean": pair.difference.estimate, "low": pair.difference.low, "high": pair.difference.high}
        remark = pair.obstacle or "no spread" * (pair.difference.half_width == 0)
        task |= {"n": len(pair.seeds), "verdict": verdict, "obstacle": remark}
        by_seed = zip(pair.seeds, np.subtract(*pair.scores), strict=True)
        rows += [{**task, "seed": seed, "difference": difference} for seed, difference in by_seed]
    columns = ["task", "metric", "seed", "difference", "mean", "low", "high", "level", "margin", "n", "verdict"]
    return pd.DataFrame(rows, columns=[*columns, "obstacle"]).astype({"seed": "Int64", "mean": float, "low": float})


def difference_plot(frame: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw each task's seeds, mean, interval and verdict, and the margin."""
    rows = [mine for _, mine in frame.groupby("task", sort=False)]
    margin, level = float(frame["margin"].iloc[0]), float(frame["level"].iloc[0])
    reach = limit(frame)
    claimed, reference = METHODS[CLAIMED], METHODS[REFERENCE]
    caption = (
        f"Small dots: one seed each. Large dot and bar: mean and {100 * level:.0f} % interval over paired seeds (t), "
        "for one task alone. Verdict: equivalence (TOST) and paired t tests, after Holm over the tasks. Grey band: the "
        f"margin, ±{margin:g} points; an arrow: the bar goes on. n: seeds. Each method at its own configuration. "
        f"None: a run of either failed or is at chance, no better than a constant prediction, or rows or metric "
        f"differ. {note}"
    )
    with plot_style():
        figure = new_figure(WIDTH, ROW * len(rows) + 0.5, f"{claimed} less {reference}: {whose}", caption)
        axes = figure.subplots()
        axes.axvspan(-margin, margin, color="0.9", lw=0)
        axes.axvline(0, color="0.5", lw=0.6)
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), [f"{heading(mine)}\n{_verdict(mine)}" for mine in rows])
        for place, (mine, label) in enumerate(zip(rows, axes.get_yticklabels(), strict=True)):
            colour = COLOURS.get(str(mine["verdict"].iloc[0]), GREY)
            _draw_task(axes, place, mine, reach, colour)
            label.set(color=colour, weight="normal" if colour == GREY else "bold")
        axes.tick_params(axis="y", pad=8)  # an arrow may stand there
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="x", length=2)
        axes.xaxis.set_major_formatter(lambda value, position: minus(f"{value:+g}") if value else "0")
        axes.set_xlabel(f"difference in points   (left: {reference} scores higher, right: {claimed})")
        return figure


def limit(frame: pd.DataFrame) -> float:
    """Compute where the axis ends: beyond every seed and three margins."""
    seeds = np.abs(frame["difference"].dropna().to_numpy(dtype=np.float64))
    return 1.15 * max(3 * float(frame["margin"].iloc[0]), float(seeds.max()) if seeds.size else 0.0)


def _verdict(mine: pd.DataFrame) -> str:
    first = mine.iloc[0]
    remark = [str(first["obstacle"])] if pd.notna(first["obstacle"]) and first["obstacle"] else []
    details = [f"n = {first['n']}"] * bool(first["n"] > 1) + remark
    return f"{first['verdict']} ({', '.join(details)})" if details else str(first["verdict"])


def _draw_task(axes: Axes, row: int, mine: pd.DataFrame, reach: float, colour: str) -> None:
    first = mine.iloc[0]
    if first["n"]:
        axes.plot(mine["difference"], [row + 0.24] * len(mine), "o", ms=2.6, color=colour, alpha=0.6, mew=0)
        axes.plot([first["mean"]], [row], "o", ms=5, color=colour, zorder=4)
    if pd.notna(first["low"]):
        ends = [max(float(first["low"]), -reach), min(float(first["high"]), reach)]
        axes.plot(ends, [row, row], "-", lw=1.4, color=colour, zorder=2, solid_capstyle="butt")
        for end, cut, mark in ((ends[0], first["low"] < -reach, "<"), (ends[1], first["high"] > reach, ">")):
            width = 0.0 if cut else 1.2  # the edge is all that a | has
            axes.plot([end], [row], mark if cut else "|", ms=5, mew=width, color=colour, clip_on=False, zorder=2)
