"""Write what stands below every table: counts, gaps and provenance."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from symlora.audit.names import CLAIMED, METHODS, REFERENCE, TASKS, section_name
from symlora.report.choice import Chosen, Key
from symlora.report.collect import Collected
from symlora.report.comparison import Criteria


@dataclass(frozen=True)
class Tally:
    """What a complete report would have, and this one has not."""

    found: int  # run folders
    finished: int  # with a score
    failed: tuple[str, ...]  # folders, each with its error
    bad: tuple[str, ...]  # folders and leaderboard entries that are left out, each with the reason
    seeds: Mapping[Key, tuple[int, ...]]  # that one of LoRA and SymLoRA has and the other lacks
    cells: tuple[Key, ...]  # tasks without any run of LoRA or SymLoRA

    @property
    def complete(self) -> bool:
        """True if nothing is missing, failed or bad."""
        return not (self.failed or self.bad or self.seeds or self.cells)

    @property
    def counts(self) -> str:
        """Counts in one sentence."""
        seeds, cells = sum(map(len, self.seeds.values())), len(self.cells)
        return (
            f"Runs: {self.found} found: {self.finished} finished, {len(self.failed)} failed, "
            f"{self.found - self.finished - len(self.failed)} left out. Missing: {seeds} seed{'s' * (seeds != 1)}, "
            f"{cells} cell{'s' * (cells != 1)} (a method on a task) without any run."
        )


def tally(collected: Collected, chosen: Mapping[Key, Chosen], problems: Iterable[str]) -> Tally:
    """Count what is there; list what is missing. `problems` are the leaderboard's."""
    runs = collected.runs
    broken = runs[runs["status"] == "failed"]
    pairs = {key: cell for key, cell in chosen.items() if key[3] in (REFERENCE, CLAIMED)}
    return Tally(
        found=collected.found,
        finished=len(runs) - len(broken),
        failed=tuple(
            f"{'/'.join(run['folder'].parts[-6:])}: {run['error'] or 'no error recorded'}"
            for _, run in broken.iterrows()
        ),
        bad=(*collected.bad, *problems),
        seeds={key: cell.missing for key, cell in pairs.items() if cell.missing and len(cell.runs)},
        cells=tuple(key for key, cell in pairs.items() if cell.runs.empty),
    )


def footers(counted: Tally, runs: pd.DataFrame, criteria: Criteria) -> tuple[str, ...]:
    """Write the lines below a table."""
    lines = [counted.counts]
    lines += [f"Failed: {problem}" for problem in counted.failed]
    lines += [f"Left out: {problem}." for problem in counted.bad]
    for (model, protocol, task, method), seeds in counted.seeds.items():
        where = f"{section_name(model, protocol)}, {METHODS[method]} on {TASKS.get(task, task)}"
        lines.append(f"Missing seeds: {where}: {', '.join(map(str, seeds))}.")
    lines += _without_runs(counted.cells)
    for _, own in runs.groupby(["model", "protocol"]):
        if own["chose"].eq(True).all():
            name, count = section_name(*own.iloc[0][["model", "protocol"]]), f"{len(own)} run{'s' * (len(own) > 1)}"
            lines.append(f"Grid runs only, so not in any table yet: {name}, {count}.")
    if len(runs):
        commits = sorted({f"{run['commit'][:10]}{' (dirty)' if run['dirty'] else ''}" for _, run in runs.iterrows()})
        lines.append(f"Made by commit{'s' * (len(commits) > 1)}: {', '.join(commits)}.")
        lines += [f"Versions: {text}." for text in sorted(set(runs["versions"]))]
        devices = sorted({f"{run['device']}, {run['precision']}" for _, run in runs.iterrows()})
        lines.append(f"Device and precision: {'; '.join(devices)}.")
    lines.append(
        f"Decided by configs/report.yaml: intervals {100 * criteria.level:g} %, alpha {criteria.alpha:g}, margin "
        f"±{criteria.margin:g} points, power {criteria.power:g}; {criteria.resamples:,} bootstrap resamples, seed "
        f"{criteria.seed}."
    )
    return tuple(lines)


def _without_runs(keys: Iterable[Key]) -> Iterator[str]:
    """Write a line for each section and method."""
    tasks: dict[tuple[str, str, str], list[str]] = {}
    for model, protocol, task, method in keys:
        tasks.setdefault((model, protocol, method), []).append(TASKS.get(task, task))
    for (model, protocol, method), names in tasks.items():
        which = "any task" if len(names) == len(TASKS) else ", ".join(names)
        yield f"No run: {section_name(model, protocol)}, {METHODS[method]} on {which}."
