"""What of a study is done: its grid and its seeds, each run finished, running, failed or missing; and the time left."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from symlora.config.schema import Config
from symlora.runner.reporter import format_duration
from symlora.store.folder import find_damage, read_run, run_folder
from symlora.store.locks import holder

STATES = ("finished", "running", "failed", "missing")


@dataclass(frozen=True)
class RunStatus:
    """One run of the study.

    Attributes:
        stage: `grid` or `seeds`.
        task: Name.
        method: Name.
        folder: Its run folder; None where the seeds wait for `make select`.
        state: One of STATES.
        elapsed: Seconds since it started, where it is running.
    """

    stage: str
    task: str
    method: str
    folder: Path | None
    state: str = "missing"
    elapsed: float = 0.0


def run_status(stage: str, config: Config, now: float) -> RunStatus:
    """The state of one run, from its folder and its lock.

    Args:
        stage: `grid` or `seeds`.
        config: The run.
        now: Seconds since the epoch.
    """
    folder = run_folder(config)
    record = read_run(folder)
    state, elapsed = "missing", 0.0
    if record is not None and record["status"] == "finished" and not find_damage(folder, record, sizes_only=True):
        state = "finished"
    elif (running := holder(Path(config.results_dir), folder)) is not None:
        state, elapsed = "running", max(0.0, now - running["since"])
    elif record is not None or folder.exists():  # a damaged one: `scan` says which
        state = "failed"
    return RunStatus(stage, config.task.name, config.method.name, folder, state, elapsed)


@dataclass
class Costs:
    """Seconds of finished runs, to judge the others by.

    Attributes:
        seconds: By (task, method).
    """

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> "Costs":
        """From the contents of run.json files."""
        costs = cls()
        for record in records:
            if record["status"] == "finished":
                config = record["config"]
                key = (config["task"]["name"], config["method"]["name"])
                costs.seconds.setdefault(key, []).append(record["cost"]["seconds"])
        return costs

    def expected(self, run: RunStatus) -> float | None:
        """Mean seconds of the task's finished runs with this method, else with any; None where there are none."""
        same = self.seconds.get((run.task, run.method))
        if same is None:
            same = [second for (task, _), seconds in self.seconds.items() if task == run.task for second in seconds]
        return fmean(same) if same else None


def time_left(runs: Iterable[RunStatus], costs: Costs, workers: int) -> tuple[float, int]:
    """Seconds until all runs are finished, and for how many nothing is known.

    A failed run is not counted: it is trained again by the next sweep, but nobody knows whether it will fail again.
    """
    seconds, unknown = 0.0, 0
    open_runs: dict[Any, RunStatus] = {}
    for number, run in enumerate(runs):
        if run.state in ("running", "missing"):
            open_runs.setdefault(run.folder or number, run)  # seed 0 of the best point is in the grid and in the seeds
    for run in open_runs.values():
        expected = costs.expected(run)
        if expected is None:
            unknown += 1
        else:
            seconds += max(0.0, expected - run.elapsed)
    return seconds / workers, unknown


def table(runs: Sequence[RunStatus], costs: Costs, workers: int) -> str:
    """Counts for each task, method and stage, and the time left."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for run in runs:
        counts.setdefault((run.task, run.method, run.stage), Counter())[run.state] += 1
    lines = [f"{'task':6} {'method':8} {'stage':6} " + " ".join(f"{state:>8}" for state in STATES)]
    for (task, method, stage), count in counts.items():
        waits = any(run.folder is None for run in runs if (run.task, run.method, run.stage) == (task, method, stage))
        lines.append(
            f"{task:6} {method:8} {stage:6} "
            + " ".join(f"{count[state]:>8}" for state in STATES)
            + ("  (waits for make select)" if waits else "")
        )
    total = sum(counts.values(), Counter())
    lines.append(f"{'all':22} " + " ".join(f"{total[state]:>8}" for state in STATES))
    seconds, unknown = time_left(runs, costs, workers)
    plural = "s" if workers > 1 else ""
    left = (
        f"About {format_duration(seconds)} left with {workers} worker{plural}, by finished runs of the same tasks."
        if costs.seconds
        else "How long they take is not known before a run is finished."
    )
    if unknown and costs.seconds:
        left += f" Not counted: {unknown} runs of tasks without a finished run."
    if total["failed"]:
        left += " Failed runs are trained again by the next sweep."
    return "\n".join([*lines, left if total["running"] + total["missing"] else "Nothing is left to do."])
