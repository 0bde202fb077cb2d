"""Choose the configuration that represents a method on a task.

A grid's other runs show how the choice was made; they take part in no mean. So one configuration is chosen for each
(model, protocol, task, method), and methods are compared at their own chosen ones.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from symlora.audit.names import CLAIMED, METHODS, REFERENCE, TASKS, known_first, section_order
from symlora.config.typed import read_yaml
from symlora.report.collect import NUMBERS
from symlora.store.selection import AXES, edge, rank

Key = tuple[str, str, str, str]
"""model, protocol, task, method"""
Best = Mapping[Key, Mapping[str, Any]]
"""Values of `train.*` that `make select` wrote."""


@dataclass(frozen=True)
class Chosen:
    """A method on a task, at its chosen configuration."""

    key: Key
    runs: pd.DataFrame  # finished and failed runs of that configuration, by seed; empty where there is no run at all
    missing: tuple[int, ...]  # seeds that the method it is compared with has, and this one has not
    why: str  # how it was chosen
    grid: pd.DataFrame  # at its lowest seed, runs that differ from it in learning rate and batch size only

    @property
    def finished(self) -> pd.DataFrame:
        """Runs that have a score."""
        return self.runs[self.runs["status"] == "finished"]

    @property
    def failed(self) -> int:
        """Number of runs without a score: counted, not averaged."""
        return len(self.runs) - len(self.finished)

    @property
    def best(self) -> "pd.Series[Any] | None":
        """Finished run with the highest `measure`; lowest seed of equals."""
        ranked = self.finished.sort_values([measure(self.finished), "seed"], ascending=[False, True])
        return None if ranked.empty else ranked.iloc[0]


def measure(runs: pd.DataFrame) -> str:
    """Return the deciding column: `criterion` if known, else `score`."""
    return "criterion" if runs["criterion"].notna().any() else "score"


def choose(runs: pd.DataFrame, best: Best, tasks: tuple[str, ...] = tuple(TASKS)) -> dict[Key, Chosen]:
    """Choose a configuration for each section (model and protocol), task and method.

    It is the one that `make select` wrote (configs/best); without one, that with the most seeds, failed runs counted
    (failing is no reason to be passed over); among equals, the first by symlora.store.selection.rank. `tasks` are
    expected in every section, with or without runs; others appear where there are runs.
    """
    chosen: dict[Key, Chosen] = {}
    by_key: dict[Any, pd.DataFrame] = dict(iter(runs.groupby(["model", "protocol", "task", "method"])))
    reported = runs[~runs["chose"].eq(True)]  # a section with only grid runs is not shown
    for model, protocol in section_order(zip(reported["model"], reported["protocol"], strict=True)):
        here = [key for key in by_key if key[:2] == (model, protocol)]
        trained = reported.loc[(reported["model"] == model) & (reported["protocol"] == protocol), "task"]
        for task in known_first(TASKS, [*tasks, *trained]):
            methods = known_first(METHODS, [REFERENCE, CLAIMED, *(key[3] for key in here if key[2] == task)])
            keys = [(model, protocol, task, method) for method in methods]
            cells = {key[3]: _chosen(key, by_key.get(key, runs.iloc[:0]), best.get(key)) for key in keys}
            # Seeds are missing between the paper's two methods alone: the head alone needs no seed for each of theirs.
            seeds = {name: set(cells[name].runs["seed"]) for name in (REFERENCE, CLAIMED)}
            for name, own in seeds.items():
                cells[name] = replace(cells[name], missing=tuple(sorted(set().union(*seeds.values()) - own)))
            chosen |= {cell.key: cell for cell in cells.values()}
    return chosen


def _chosen(key: Key, runs: pd.DataFrame, best: Mapping[str, Any] | None) -> Chosen:
    own = runs[~runs["chose"].eq(True)]
    if own.empty:
        return Chosen(key, own, (), "no run" if runs.empty else "no run but the grid's", own)
    candidates, why = own, ""
    if best is not None:
        matching = own[[all(row[name] == value for name, value in best.items()) for _, row in own.iterrows()]]
        if len(matching):
            candidates, why = matching, "as selected (configs/best)"
            if (alike := matching["configuration"].nunique()) > 1:  # other settings than those that a grid varies
                why = f"as selected (configs/best), which {alike} configurations match"
        else:
            why = "the selected one (configs/best) has no run; "
    seeds = candidates.groupby("configuration", sort=True)["seed"].nunique()
    names = list(seeds[seeds == seeds.max()].index)
    if not why.startswith("as"):
        why += "the only configuration" if len(seeds) == 1 else f"most seeds of {len(seeds)} configurations"
    if len(names) > 1:
        tied = candidates[candidates["configuration"].isin(names)]
        chosen_by = measure(tied)
        means = tied.groupby(["configuration", *AXES])[chosen_by].agg(lambda scores: scores.mean(skipna=False))
        names = [str(min(means.index, key=lambda name: rank(means[name], *name[1:]))[0])]
        on = "held-out slice" if chosen_by == "criterion" else "validation, which flatters it"
        why += f", {len(means)} alike; highest on {on}"
    own = own[own["configuration"] == names[0]].sort_values("seed", ignore_index=True)
    alike = runs[runs["grid"] == own["grid"].iloc[0]]
    chose = alike["chose"].eq(True)
    tried = alike[chose if chose.any() else alike["seed"] == own["seed"].min()]
    counts = tried.groupby("configuration")["seed"].transform("nunique")
    tried = tried[counts == counts.max()]  # the others are not finished
    # The mean over the seeds that chose; nothing where one failed.
    means = tried.groupby("configuration")[list(NUMBERS)].transform(lambda values: values.mean(skipna=False))
    seeds = tried.groupby("configuration")["seed"].transform(lambda own: ", ".join(map(str, sorted(own))))
    points = tried.assign(**means, seeds=seeds).sort_values("status").drop_duplicates("configuration")
    return Chosen(key, own, (), why, points.sort_values(list(AXES), ignore_index=True))


def grid_edge(chosen: Chosen) -> str:
    """Say where the chosen point lies in the grid of run folders.

    An optimum on an edge says that the grid is too small. An axis of fewer than three values has no inside.
    """
    if chosen.runs.empty:
        return ""
    if len(chosen.grid) < 2:
        return "no grid"
    places: list[str] = []
    for axis, name in zip(AXES, ("lr", "batch"), strict=True):
        values = set(chosen.grid[axis])
        if len(values) >= 3:
            place = edge(chosen.runs[axis].iloc[0], values)
            places.append(f"{name} {place} {len(values)}" if place == "inside" else f"{name} {place} of {len(values)}")
    if edges := [place for place in places if "inside" not in place]:
        return "edge: " + ", ".join(edges)
    return ", ".join(places) or f"{len(chosen.grid)} points, no inside"


def unlike(cells: Mapping[Key, Chosen]) -> list[str]:
    """List where methods differ from LoRA in grid points or settings."""
    grids, settings = list[str](), list[str]()
    for key, cell in cells.items():
        if key[3] == REFERENCE:
            continue
        pair, task = (cells[(*key[:3], REFERENCE)], cell), TASKS.get(key[2], key[2])
        names = f"{METHODS[REFERENCE]} and {METHODS.get(key[3], key[3])}"
        points = [set(each.grid[list(AXES)].itertuples(index=False, name=None)) for each in pair]
        if key[3] == CLAIMED and all(points) and points[0] != points[1] and max(map(len, points)) > 1:
            counts = f"{METHODS[REFERENCE]} {len(points[0])}, {METHODS[CLAIMED]} {len(points[1])}"
            grids.append(f"{task}: not tried at the same grid points ({counts}).")
        if all(len(each.runs) for each in pair):
            theirs, ours = (_flat(each.runs["grid"].iloc[0]) for each in pair)
            differing = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
            if not cell.runs[["adapter", "encoder"]].to_numpy().any():
                differing.discard("train.head_lr")  # there `train.lr` is the head's
            both = pd.concat([each.runs for each in pair])
            differing |= {name for name in ("precision", "weights") if both[name].nunique() > 1}
            if differing:
                settings.append(f"{task}: {names} differ in other settings ({', '.join(sorted(differing))}).")
    return grids + settings


def _flat(grid: str) -> dict[str, Any]:
    """Read a grid's shared settings by dotted name, without the method."""
    content = json.loads(grid)
    content["init_from"] = content["init_from"] is not None  # each method starts from its own run
    groups = {name: group if isinstance(group, dict) else {"": group} for name, group in content.items()}
    del groups["method"], groups["precision"]  # as asked for; `auto` is another one on another machine
    return {f"{name}.{key}".rstrip("."): value for name, group in groups.items() for key, value in group.items()}


@dataclass
class _Selected:
    """What `make select` writes."""

    train: dict[str, Any]
    task: dict[str, str] = field(default_factory=dict)  # the name of a user's own table or encoder
    model: dict[str, str] = field(default_factory=dict)


def read_best(folder: Path) -> Best:
    """Read the selected values from <folder>/<protocol>/<model>/<method>-<task>.yaml."""
    best: dict[Key, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*/*/*-*.yaml")):
        method, task = path.stem.rsplit("-", 1)
        found = read_yaml(path, _Selected, "Run `make select` again.")
        known = {name: found.train[name] for name in (*AXES, "epochs") if name in found.train}
        model = found.model.get("name", path.parent.name)
        best[(model, path.parent.parent.name, found.task.get("name", task), method)] = known
    return best
