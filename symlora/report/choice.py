"""Which configuration stands for a method on a task, and where in its grid it lies.

A grid's runs at one seed, other than the chosen one, are how the choice was made; they take part in no mean. So runs
are grouped by configuration, one configuration is chosen for each (model, protocol, task, method), and methods are
compared at their own chosen ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from symlora.errors import SymloraError
from symlora.report.names import CLAIMED, METHODS, REFERENCE, TASKS, method_order, section_order, task_order

Key = tuple[str, str, str, str]
"""model, protocol, task, method"""
Best = Mapping[Key, Mapping[str, Any]]
"""Values of `train.*` that the selection wrote down."""


@dataclass(frozen=True)
class Chosen:
    """A method on a task, at its chosen configuration.

    Attributes:
        runs: Finished and failed runs of that configuration, one a seed, by seed; empty where there is no run at all.
        missing: Seeds that the method it is compared with has, and this one has not.
        why: How it was chosen.
        grid: One row for each configuration that differs in learning rate and batch size only, at `grid_seed`.
        grid_seed: The seed that the grid was run at: the lowest of the chosen configuration's.
    """

    key: Key
    runs: pd.DataFrame
    missing: tuple[int, ...]
    why: str
    grid: pd.DataFrame
    grid_seed: int

    @property
    def finished(self) -> pd.DataFrame:
        """Runs that have a score."""
        return self.runs[self.runs["status"] == "finished"]

    @property
    def failed(self) -> int:
        """Runs that ended without a score; they are counted, not averaged."""
        return len(self.runs) - len(self.finished)

    @property
    def best(self) -> "pd.Series[Any] | None":
        """The finished seed that scores highest on what may choose (`measure`), the lowest of equals; None of none."""
        ranked = self.finished.sort_values([measure(self.finished), "seed"], ascending=[False, True])
        return None if ranked.empty else ranked.iloc[0]


def measure(runs: pd.DataFrame) -> str:
    """What runs are chosen by: `criterion`, the held-out slice, where there is one, else `score`, on validation."""
    return "criterion" if runs["criterion"].notna().any() else "score"


def choose(runs: pd.DataFrame, best: Best, tasks: tuple[str, ...] = tuple(TASKS)) -> dict[Key, Chosen]:
    """One entry for each section (model and protocol), task and method, those without any run included.

    The configuration that the selection wrote down (configs/best); without one, that with the most seeds, failed runs
    counted, since failing is no reason to be passed over; among equals, the highest score on the slice of the training
    split that was set aside, or without such a slice on validation (which flatters it).

    Args:
        runs: symlora.report.collect's frame.
        best: Of `read_best`.
        tasks: Expected in every section; others appear where there are runs.
    """
    chosen: dict[Key, Chosen] = {}
    by_key: dict[Key, pd.DataFrame] = {
        (str(model), str(protocol), str(task), str(method)): group
        for (model, protocol, task, method), group in runs.groupby(["model", "protocol", "task", "method"])
    }
    for model, protocol in section_order((key[0], key[1]) for key in by_key):
        here = [key for key in by_key if key[:2] == (model, protocol)]
        for task in [name for name in task_order(key[2] for key in here) if name in tasks or name not in TASKS]:
            section = {}
            for method in method_order(key[3] for key in here if key[2] == task):
                key = (model, protocol, task, method)
                section[method] = _chosen(key, by_key.get(key, runs.iloc[:0]), best.get(key))
            _mark_missing(section)
            chosen |= {entry.key: entry for entry in section.values()}
    return chosen


def _chosen(key: Key, runs: pd.DataFrame, best: Mapping[str, Any] | None) -> Chosen:
    if runs.empty:
        return Chosen(key, runs, (), "no run", runs, 0)
    candidates, why = runs, ""
    if best is not None:
        matching = runs[[all(row[name] == value for name, value in best.items()) for _, row in runs.iterrows()]]
        if len(matching):
            candidates, why = matching, "as selected (configs/best)"
        else:
            why = "the selected one (configs/best) has no run; "
    seeds = candidates.groupby("configuration", sort=True)["seed"].nunique()
    names = list(seeds[seeds == seeds.max()].index)
    if not why.startswith("as"):
        why += "the only configuration" if len(seeds) == 1 else f"most seeds of {len(seeds)} configurations"
    if len(names) > 1:
        tied = candidates[candidates["configuration"].isin(names)]
        chosen_by = measure(tied)
        means = tied.groupby(["configuration", "lr", "batch_size"], sort=True)[chosen_by].mean().reset_index()
        # Equal scores: the smaller rate, then the larger batch, as symlora.sweep.select has it.
        means = means.sort_values([chosen_by, "lr", "batch_size"], ascending=[False, True, False])
        names = [str(means["configuration"].iloc[0])]
        on = "held-out slice" if chosen_by == "criterion" else "validation, which flatters it"
        why += f", {len(means)} alike; highest on {on}"
    own = runs[runs["configuration"] == names[0]].sort_values("seed", ignore_index=True)
    grid_seed = int(own["seed"].min())
    alike = (runs["grid"] == own["grid"].iloc[0]) & (runs["seed"] == grid_seed)
    return Chosen(key, own, (), why, runs[alike].sort_values(["lr", "batch_size"], ignore_index=True), grid_seed)


def _mark_missing(section: dict[str, Chosen]) -> None:
    """Between the two methods of the paper's claim alone: a bare head needs no seed for each of theirs."""
    pair = [name for name in (REFERENCE, CLAIMED) if name in section]
    seeds = {name: set(section[name].runs["seed"]) for name in pair}
    everything = set().union(*seeds.values())
    for name in pair:
        old = section[name]
        missing = tuple(sorted(everything - seeds[name]))
        section[name] = Chosen(old.key, old.runs, missing, old.why, old.grid, old.grid_seed)


def edge(chosen: Chosen) -> str:
    """Where the chosen point lies in the grid of run folders: an optimum on an edge says that the grid is too small.

    An axis of fewer than three values has no inside, and is not called an edge.
    """
    if chosen.runs.empty:
        return ""
    point, said, inside = chosen.runs.iloc[0], [], []
    for axis, name in (("lr", "lr"), ("batch_size", "batch")):
        values = sorted(set(chosen.grid[axis]))
        if len(values) >= 3:
            if point[axis] in (values[0], values[-1]):
                said.append(f"{name} {'lowest' if point[axis] == values[0] else 'highest'} of {len(values)}")
            else:
                inside.append(f"{name} inside {len(values)}")
    if len(chosen.grid) < 2:
        return "no grid"
    if said:
        return "edge: " + ", ".join(said)
    return ", ".join(inside) or f"{len(chosen.grid)} points, no inside"


def unequal_grids(cells: Mapping[Key, Chosen]) -> list[str]:
    """A sentence for each task of a section whose two compared methods were not tried at the same points."""
    found = []
    for key, cell in cells.items():
        if key[3] == CLAIMED and not cell.runs.empty and not cells[(*key[:3], REFERENCE)].runs.empty:
            grids = [cells[(*key[:3], method)].grid[["lr", "batch_size"]] for method in (REFERENCE, CLAIMED)]
            points = [set(grid.itertuples(index=False, name=None)) for grid in grids]
            if points[0] != points[1] and max(map(len, points)) > 1:
                counts = f"{METHODS[REFERENCE]} {len(points[0])}, {METHODS[CLAIMED]} {len(points[1])}"
                found.append(f"{TASKS.get(key[2], key[2])}: not tried at the same grid points ({counts}).")
    return found


def read_best(folder: Path) -> Best:
    """What the selection chose: <folder>/<protocol>/<model>/<method>-<task>.yaml, each with a mapping `train`.

    Raises:
        SymloraError: A file cannot be read as such.
    """
    best: dict[Key, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*/*/*-*.yaml")):
        method, task = path.stem.rsplit("-", 1)
        try:
            content: Any = OmegaConf.to_container(OmegaConf.load(path))  # it reads 4e-3 as a number, PyYAML as text
            train = content["train"]
            known = {name: train[name] for name in ("lr", "batch_size", "epochs") if name in train}
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise SymloraError(f"{path} is not what `make select` writes ({error}). Run it again.") from error
        best[(path.parent.name, path.parent.parent.name, task, method)] = known
    return best
