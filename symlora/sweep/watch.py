"""Show a study live: packs, losses, time left, failures."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from symlora.runner.reporter import format_duration
from symlora.sweep.status import STATES, Costs, RunStatus, forecast, seconds_left
from symlora.training.interrupt import Stopped

EVERY = 3.0  # seconds between two looks
FAILURES = 8  # rows of failed runs
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 16  # characters of a sparkline
COLOURS = dict(zip(STATES, ("green", "cyan", "red", "dim"), strict=True))


def watch(look: Callable[[], tuple[Sequence[RunStatus], Costs]], workers: int, console: Console | None = None) -> None:
    """Refresh the view until nothing is left to do, or Ctrl-C."""
    with suppress(KeyboardInterrupt, Stopped), Live(console=console, auto_refresh=False) as live:
        while True:
            runs, costs = look()
            live.update(view(runs, costs, workers), refresh=True)
            if not any(run.state in ("running", "missing") for run in runs):
                return
            time.sleep(EVERY)


def view(runs: Sequence[RunStatus], costs: Costs, workers: int) -> RenderableType:
    """Draw the runs: counts, failures, and those in training by pack."""
    runs = list({run.folder or number: run for number, run in enumerate(runs)}.values())  # of both stages, once
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    head = Table.grid(padding=(0, 2))
    said = Text.assemble(*((f"{count} {state}  ", COLOURS[state]) for state, count in counts.items()))
    head.add_row(ProgressBar(total=len(runs), completed=counts["finished"], width=40), said)
    parts: list[RenderableType] = [head, Text(forecast(runs, costs, workers))]
    if failed := [run for run in runs if run.state == "failed"]:
        parts += ["", _failed(failed)]
    if running := [run for run in runs if run.state == "running"]:
        parts += ["", _running(running, costs)]
    return Group(*parts)


def sparkline(values: Sequence[float | None]) -> str:
    """Draw numbers as blocks, from low to high; missing ones as spaces."""
    if len(values) > WIDTH:
        values = [values[i * (len(values) - 1) // (WIDTH - 1)] for i in range(WIDTH)]
    known = [value for value in values if value is not None and value == value]
    low, span = min(known, default=0.0), (max(known, default=0.0) - min(known, default=0.0)) or 1.0
    return "".join(
        " " if value is None or value != value else BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))]
        for value in values
    )


def _running(runs: Sequence[RunStatus], costs: Costs) -> Table:
    table = _table(
        "in training", "pack", "task", "method", "stage", "point", "seed", "epoch", "done", "loss", "score", "left"
    )
    packs: dict[str, list[RunStatus]] = {}
    for run in runs:
        packs.setdefault(run.by, []).append(run)
    for number, pack in enumerate(packs.values(), 1):
        seconds = seconds_left(pack, costs)
        for run in pack:
            found = run.progress
            table.add_row(
                str(number),
                *_names(run),
                f"{found['epoch']}/{found['epochs']}" if found else "",
                f"{found['share']:.0%}" if found else "starts",
                _course(found.get("losses", ())),
                _course(found.get("scores", ()), found.get("metric", "")),
                "?" if seconds is None else format_duration(seconds),
            )
    return table


def _failed(runs: Sequence[RunStatus]) -> Table:
    table = _table(f"failed: {len(runs)}", "task", "method", "stage", "point", "seed", "why")
    for run in runs[-FAILURES:]:
        table.add_row(*_names(run), Text(run.error.splitlines()[0], style=COLOURS["failed"]))
    if len(runs) > FAILURES:
        table.caption = f"and {len(runs) - FAILURES} more"
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim", padding=(0, 1))
    for name in columns:
        table.add_column(name, overflow="fold" if name == "why" else "ellipsis", no_wrap=name != "why")
    return table


def _names(run: RunStatus) -> tuple[str, ...]:
    point = "" if run.folder is None else run.folder.parent.name.split("_ep-")[0]
    return run.task, run.method, run.stage, point, str(run.seed)


def _course(values: Sequence[float | None], what: str = "") -> Text:
    last = next((value for value in reversed(values) if value is not None), None)
    return Text("" if last is None else f"{sparkline(values)} {last:.3f} {what}".rstrip())
