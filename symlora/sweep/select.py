"""Choose the best grid points and write them to configs/best.

symlora.store.selection holds the rule. A failed run, or one whose score is not defined, is a point that was tried, and
is never chosen.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from symlora.config.formatting import text_table
from symlora.config.identity import config_hash
from symlora.config.schema import HELD_OUT, Config
from symlora.errors import SymloraError
from symlora.store.files import atomic_write
from symlora.store.selection import AXES, criterion, edge, rank


@dataclass(frozen=True)
class Point:
    """Hold a grid point and its score; None where undefined."""

    lr: float
    batch_size: int
    score: float | None


@dataclass(frozen=True)
class GridSearch:
    """The points that one method was tried at on one task."""

    method: str
    task: str
    metric: str
    rule: str  # where the score is read
    points: tuple[Point, ...]  # by learning rate and batch size
    others: int = 0  # runs of the same method and task with other settings: no points of this grid
    names: Mapping[str, str] = field(default_factory=dict)  # of a user's own `task` or `model`

    @property
    def best(self) -> Point:
        """Return the point that symlora.store.selection.rank puts first.

        Raises:
            SymloraError: No point has a score.
        """
        scored = [point for point in self.points if point.score is not None]
        if not scored:
            raise SymloraError(
                f"{self.method} on {self.task}: none of {len(self.points)} grid points has a score. `make sweep "
                f"TASK={self.task}` trains the grid; failed runs say why in their run.json."
            )
        return min(scored, key=lambda point: rank(point.score, point.lr, point.batch_size))

    def values(self, axis: str) -> list[float]:
        """Return the values tried on `lr` or `batch_size`, rising."""
        return sorted({getattr(point, axis) for point in self.points})

    def edge(self, axis: str) -> str:
        """Say where the best point lies on an axis (symlora.store.selection.edge)."""
        return edge(getattr(self.best, axis), self.values(axis))

    def widened(self, axis: str) -> list[float]:
        """Return one value beyond the edge where the best point lies."""
        values, edge = self.values(axis), self.edge(axis)
        if edge == "lowest":
            beyond = values[0] * values[0] / values[1]
        elif edge == "highest":
            beyond = values[-1] * values[-1] / values[-2]
        else:
            return []
        if axis == "batch_size":
            return [round(beyond)] if round(beyond) >= 1 and round(beyond) not in values else []
        return [float(f"{beyond:.3g}")]


def grid_search(config: Config, records: Iterable[Mapping[str, Any]]) -> GridSearch:
    """Gather the grid points of one method and task from run records.

    Args:
        config: The run as its protocol and the command line have it; the grid changes its learning rate, batch size
            and, if the protocol chooses by several seeds, seed. A point that lacks one of these seeds is left out.
        records: Contents of run.json files (symlora.store.folder.scan), of any runs.
    """
    wanted = (config.protocol.name, config.model.name, config.method.name, config.task.name)
    held_out = config.protocol.held_out > 0
    rule, split = (HELD_OUT, HELD_OUT) if held_out else (config.protocol.selection, config.task.validation[0])
    seeds = config.protocol.grid_seeds or [config.seed]
    found: dict[tuple[float, int], dict[int, float | None]] = defaultdict(dict)
    others = 0
    for record in records:
        run = record["config"]
        if tuple(run[group]["name"] for group in ("protocol", "model", "method", "task")) != wanted:
            continue
        if run["seed"] not in seeds:
            continue
        lr, batch_size = run["train"]["lr"], run["train"]["batch_size"]
        at_point = dataclasses.replace(config, train=dataclasses.replace(config.train, lr=lr, batch_size=batch_size))
        if record["config_hash"] != config_hash(at_point):
            others += 1
            continue
        found[lr, batch_size][run["seed"]] = criterion(record)[0] if record["status"] == "finished" else None
    return GridSearch(
        method=config.method.name,
        task=config.task.name,
        metric=config.task.score,
        rule=f"{split} at the {rule} epoch, {'mean of seeds' if seeds[1:] else 'seed'} {', '.join(map(str, seeds))}",
        points=tuple(Point(*at, _mean(found[at].values())) for at in sorted(found) if len(found[at]) == len(seeds)),
        others=others,
    )


def _mean(scores: Collection[float | None]) -> float | None:
    """Return the mean over the seeds; None if one failed."""
    known = [score for score in scores if score is not None]
    return fmean(known) if len(known) == len(scores) else None


def unequal(choices: Sequence[GridSearch]) -> list[str]:
    """Warn of every task whose methods were tried at other points."""
    warnings = []
    for task in dict.fromkeys(choice.task for choice in choices):
        grids = {
            choice.method: {(p.lr, p.batch_size) for p in choice.points} for choice in choices if choice.task == task
        }
        if len({frozenset(grid) for grid in grids.values()}) > 1:
            counts = ", ".join(f"{method} {len(grid)}" for method, grid in grids.items())
            warnings.append(
                f"WARNING: {task}: the methods were not tried at the same grid points ({counts}). The comparison is "
                f"not fair until `make sweep TASK={task}` has finished for all."
            )
    return warnings


def write(choice: GridSearch, path: Path) -> None:
    """Write the values as a configuration that `sweep=seeds` takes.

    Says which other values it replaces.
    """
    best = choice.best
    edges = ", ".join(f"train.{axis} {_edge(choice, axis)}" for axis in AXES)
    lines = [
        "# @package _global_",
        f"# Written by `make select`: {choice.method} on {choice.task}, the best of {len(choice.points)} grid points",
        f"# by {choice.metric} on {choice.rule}; ties: smaller lr, then larger batch.",
        f"# On its grid: {edges}.",
        "#",
        "#        lr  batch   score",
    ]
    lines += [
        f"#   {point.lr:>7g}  {point.batch_size:>5}  {_score(point.score)}{'  *' if point == best else ''}".rstrip()
        for point in choice.points
    ]
    lines += [f"{group}:\n  name: {name}" for group, name in choice.names.items()]
    values = [f"  lr: {best.lr!r}", f"  batch_size: {best.batch_size}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and (before := path.read_text().splitlines()[-2:]) != values:
        print(f"{path} is replaced; it held {' '.join(' '.join(before).split())}")
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join([*lines, "train:", *values, ""]))


def _edge(choice: GridSearch, axis: str) -> str:
    values = ", ".join(f"{value:g}" for value in choice.values(axis))
    return f"{choice.edge(axis)} of {values}" if choice.edge(axis) != "inside" else f"inside {values}"


def _score(score: float | None) -> str:
    return " failed" if score is None else f"{100 * score:7.2f}"


def table(choices: Sequence[GridSearch]) -> str:
    """Format what was chosen, one line a method and task."""
    header = ("task", "method", "metric", "points", "failed", "best", "lr", "batch", "on the grid")
    rows = [
        (
            *(choice.task, choice.method, choice.metric, len(choice.points)),
            sum(point.score is None for point in choice.points),
            *(_score(choice.best.score), f"{choice.best.lr:g}", choice.best.batch_size),
            "; ".join(f"{axis} {_edge(choice, axis)}" for axis in AXES),
        )
        for choice in choices
    ]
    rules = " / ".join(dict.fromkeys(choice.rule for choice in choices))
    return f"{text_table(header, rows, 'lllrrrrrl')}\nCompared by the score on {rules}."
