"""Count a study's runs by state and estimate the time left."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from symlora.config.formatting import text_table
from symlora.config.schema import Config
from symlora.runner.reporter import format_duration
from symlora.store.folder import find_damage, read_run, run_folder
from symlora.store.locks import holder, read_progress

STATES = ("finished", "running", "failed", "missing")
Costs = Mapping[tuple[str, str], Sequence[float]]  # seconds of finished runs, by task and method


@dataclass(frozen=True)
class RunStatus:
    """One run of the study."""

    stage: str  # `grid` or `seeds`
    task: str
    method: str
    folder: Path | None  # None where the seeds wait for `make select`
    state: str = "missing"  # one of STATES
    elapsed: float = 0.0  # seconds since it started, if it is running
    seed: int | None = None
    by: str = ""  # host and process that train it; the runs of one are a pack
    progress: Mapping[str, Any] = field(default_factory=dict)  # symlora.runner.reporter.Reporter
    error: str = ""  # of a failed one


def run_status(stage: str, config: Config, now: float) -> RunStatus:
    """Read the state of one run from its folder and its lock.

    Args:
        stage: `grid` or `seeds`.
        config: The run.
        now: Seconds since the epoch.
    """
    folder = run_folder(config)
    running = holder(Path(config.results_dir), folder)  # looked at first: a run may end before its record is read
    record = read_run(folder)
    state, more = "missing", dict[str, Any]()
    if record is not None and record["status"] == "finished" and not find_damage(folder, record, sizes_only=True):
        state = "finished"
    elif running is not None:
        state = "running"
        more = {"elapsed": max(0.0, now - running["since"]), "by": f"{running['host']} {running['process']}"}
        more["progress"] = read_progress(Path(config.results_dir), folder)
    elif record is not None or folder.exists():  # a damaged one: `scan` says which
        state, more = "failed", {"error": (record or {}).get("error") or "damaged: `symlora verify` says how"}
    return RunStatus(stage, config.task.name, config.method.name, folder, state, seed=config.seed, **more)


def costs(records: Iterable[Mapping[str, Any]]) -> Costs:
    """Gather the seconds of finished runs from the contents of run.json files."""
    seconds = defaultdict(list)
    for record in records:
        if record["status"] == "finished":
            config = record["config"]
            seconds[config["task"]["name"], config["method"]["name"]].append(record["cost"]["seconds"])
    return seconds


def time_left(runs: Iterable[RunStatus], costs: Costs, workers: int) -> tuple[float, int]:
    """Estimate the seconds left, and count the runs of unknown cost.

    Failed runs are not counted: the next sweep trains them again, but they may fail again.
    """
    # Seed 0 of the best point is in the grid and in the seeds, and counts once.
    left = {run.folder or number: run for number, run in enumerate(runs) if run.state in ("running", "missing")}
    packs: dict[str | int, list[RunStatus]] = defaultdict(list)
    for number, run in enumerate(left.values()):
        packs[run.by or number].append(run)
    seconds = {name: seconds_left(pack, costs) for name, pack in packs.items()}
    unknown = sum(len(packs[name]) for name, found in seconds.items() if found is None)
    return sum(found or 0.0 for found in seconds.values()) / workers, unknown


def seconds_left(pack: Sequence[RunStatus], costs: Costs) -> float | None:
    """Estimate a pack's seconds left, by its steps or similar runs."""
    if by_steps := [float(run.progress["left"]) for run in pack if "left" in run.progress]:
        return min(by_steps)  # a run that left its pack reports no longer
    shares = []  # a finished run's seconds are its share of its pack's
    for run in pack:
        of_task = [second for (task, _), seconds in costs.items() if task == run.task for second in seconds]
        shares.append(costs.get((run.task, run.method), of_task))
    if not all(shares):
        return None
    return max(0.0, sum(map(fmean, shares)) - max(run.elapsed for run in pack))


def table(runs: Sequence[RunStatus], costs: Costs, workers: int) -> str:
    """Format the counts of each task, method and stage."""
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    waiting = set()
    for run in runs:
        key = (run.task, run.method, run.stage)
        counts[key][run.state] += 1
        if run.folder is None:
            waiting.add(key)
    total = sum(counts.values(), Counter())
    rows = [
        (*key, *(count[state] for state in STATES), "(waits for make select)" if key in waiting else "")
        for key, count in counts.items()
    ]
    rows.append(("all", "", "", *(total[state] for state in STATES), ""))
    lines = text_table(("task", "method", "stage", *STATES, ""), rows, "lllrrrrl")
    return f"{lines}\n{forecast(runs, costs, workers)}"


def forecast(runs: Sequence[RunStatus], costs: Costs, workers: int) -> str:
    """Say how long the runs will take."""
    states = {run.state for run in runs}
    if not states & {"running", "missing"}:
        failed = "Only failed runs are left: the next sweep trains them again."
        return failed if "failed" in states else "Nothing is left to do."
    seconds, unknown = time_left(runs, costs, workers)
    if not costs and not seconds:
        left = "The time left is unknown until a run is finished."
    else:
        at_once = f"{workers} worker{'s' * (workers > 1)}"
        known_by = "finished runs of the same tasks" if costs else "the steps of the runs in training"
        left = f"About {format_duration(seconds)} left with {at_once}, estimated from {known_by}."
        left += f" Not counted: {unknown} runs of tasks without a finished run." if unknown else ""
    return f"{left}{' Failed runs are trained again by the next sweep.' if 'failed' in states else ''}"
