"""What stands below every table: how many runs there were, what is missing, and what made them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from symlora.report.choice import Chosen, Key
from symlora.report.collect import Collected, Problem
from symlora.report.criteria import Criteria
from symlora.report.names import CLAIMED, METHODS, REFERENCE, TASKS, section_name


@dataclass(frozen=True)
class Tally:
    """What a complete report would have, and this one has not.

    Attributes:
        found: Run folders seen.
        finished: With a score.
        failed: Their folders and errors.
        bad: Folders and leaderboard entries left out, with the reason.
        seeds: Seeds that one of LoRA and SymLoRA has and the other lacks, one sentence a cell.
        cells: Tasks without any run of LoRA or SymLoRA, one sentence a section and method.
        missing_seeds: How many.
        empty_cells: How many.
    """

    found: int
    finished: int
    failed: tuple[Problem, ...]
    bad: tuple[Problem, ...]
    seeds: tuple[str, ...]
    cells: tuple[str, ...]
    missing_seeds: int
    empty_cells: int

    @property
    def complete(self) -> bool:
        """Nothing is missing, failed or bad."""
        return not (self.failed or self.bad or self.missing_seeds or self.empty_cells)

    @property
    def counts(self) -> str:
        """All counts in one sentence."""
        return (
            f"Runs: {self.found} found: {self.finished} finished, {len(self.failed)} failed, "
            f"{self.found - self.finished - len(self.failed)} left out. Missing: {_count(self.missing_seeds, 'seed')}, "
            f"{_count(self.empty_cells, 'cell')} (a method on a task) without any run."
        )


def tally(
    collected: Collected, chosen: Mapping[Key, Chosen], problems: Iterable[Problem], root_parts: int = 6
) -> Tally:
    """Counts and names.

    Args:
        collected: The runs, and the folders left out.
        chosen: symlora.report.choice.choose.
        problems: Of other input (the leaderboard's).
        root_parts: How many parts of a run folder's path name it.
    """
    runs = collected.runs
    broken = runs[runs["status"] == "failed"]
    failed = tuple(
        Problem("/".join(run["folder"].parts[-root_parts:]), run["error"] or "no error recorded")
        for _, run in broken.iterrows()
    )
    pairs = {key: cell for key, cell in chosen.items() if key[3] in (REFERENCE, CLAIMED)}
    short = [cell for cell in pairs.values() if cell.missing and len(cell.runs)]
    empty = [key for key, cell in pairs.items() if cell.runs.empty]
    return Tally(
        found=collected.found,
        finished=len(runs) - len(broken),
        failed=failed,
        bad=(*collected.bad, *problems),
        seeds=tuple(f"{_named(cell.key)}: {', '.join(map(str, cell.missing))}" for cell in short),
        cells=tuple(_by_section(empty)),
        missing_seeds=sum(len(cell.missing) for cell in short),
        empty_cells=len(empty),
    )


def footers(counted: Tally, runs: pd.DataFrame, criteria: Criteria) -> tuple[str, ...]:
    """The lines below a table."""
    lines = [counted.counts]
    lines += [f"Failed: {problem.place}: {problem.reason}" for problem in counted.failed]
    lines += [f"Left out: {problem.place}: {problem.reason}." for problem in counted.bad]
    lines += [f"Missing seeds: {text}." for text in counted.seeds]
    lines += [f"No run: {text}." for text in counted.cells]
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


def _named(key: Key) -> str:
    return f"{section_name(key[0], key[1])}, {METHODS.get(key[3], key[3])} on {TASKS.get(key[2], key[2])}"


def _by_section(keys: Iterable[Key]) -> Iterable[str]:
    tasks: dict[tuple[str, str, str], list[str]] = {}
    for model, protocol, task, method in keys:
        tasks.setdefault((model, protocol, method), []).append(TASKS.get(task, task))
    for (model, protocol, method), names in tasks.items():
        which = "any task" if len(names) == len(TASKS) else ", ".join(names)
        yield f"{section_name(model, protocol)}, {METHODS[method]} on {which}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
