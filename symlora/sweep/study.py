"""Run a study: grid, selection, seeds."""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

from symlora.config.compose import BEST_DIR, quote_paths
from symlora.config.overrides import check_words
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.store.folder import is_settled, read_run, run_folder, scan
from symlora.store.selection import AXES
from symlora.sweep.grid import expand, tasks_of
from symlora.sweep.launchers import cores, visible_devices
from symlora.sweep.preflight import GROUPS
from symlora.sweep.select import GridSearch, grid_search, unequal, write
from symlora.sweep.select import table as select_table
from symlora.sweep.status import Costs, RunStatus, costs, run_status
from symlora.sweep.status import table as status_table
from symlora.training.interrupt import forward_signals

METHODS = ("symlora", "lora")
FAILED_RUN = 1  # exit status of a multirun with failed runs; a grid point that diverged counts as tried
GRID = ("grid", *(f"train.{axis}" for axis in AXES))  # what a grid varies, and a selection decides


@dataclass(frozen=True)
class Study:
    """What is studied, by names of files in configs/."""

    tasks: Sequence[str]
    model: str
    protocol: str
    seeds: int = 5  # runs of each winner, seeds 0 to seeds - 1
    methods: Sequence[str] = METHODS  # all with the same grid
    # More overrides of `symlora train`, for every stage. Learning rate, batch size and seed are the grid's alone: the
    # seeds take what was selected.
    args: Sequence[str] = ()
    best_dir: Path = BEST_DIR  # where selections are written

    @classmethod
    def of(cls, chosen: argparse.Namespace) -> "Study":
        """Read the options of `symlora study`, `select` and `status`.

        Raises:
            SymloraError: There is no such protocol, task, method, model or setting.
        """
        tasks, methods = (names.replace(",", " ").split() for names in (chosen.tasks, chosen.methods))
        groups = {"model": [chosen.model], "protocol": [chosen.protocol], "task": tasks, "method": methods}
        args = more_settings(groups, chosen.overrides)
        seeds = getattr(chosen, "seeds", 1)
        return cls(tasks or tasks_of(chosen.protocol), chosen.model, chosen.protocol, seeds, methods, args)

    def overrides(self, *left_out: str) -> list[str]:
        """Return the overrides of every stage, without some keys."""
        given = [f"model={self.model}", f"protocol={self.protocol}", *self.args]
        kept = [text for text in given if text.partition("=")[0].lstrip("+") not in left_out]
        return [f"task={','.join(self.tasks)}", f"method={','.join(self.methods)}", *kept]

    def grid(self, *points: str) -> list[str]:
        """Return the overrides of the grid; `points` replace the protocol's values."""
        return ["sweep=grid", *self.overrides(*(point.partition("=")[0] for point in points)), *points]

    def repeats(self) -> list[str]:
        """Return the overrides of the seeds."""
        return ["sweep=seeds", *self.overrides(*GRID, "seed"), f"seed=range({self.seeds})"]

    @property
    def settings(self) -> list[str]:
        """Return the overrides of runs: no grid point, no launcher."""
        return [text for text in self.overrides(*GRID) if not text.lstrip("+").startswith("hydra")]

    def chosen(self) -> list[GridSearch]:
        """Read the grid of each method and task from the run folders.

        Raises:
            SymloraError: Something other than the grid's points is swept.
        """
        configs = expand(*self.settings)
        if len(configs) > len(self.tasks) * len(self.methods):
            raise SymloraError(
                f"a selection is one set of values per method and task, but {' '.join(self.args)} gives lists for "
                "settings other than train.lr and train.batch_size. Give one value each."
            )
        records = [record for _, record in scan(Path(configs[0].results_dir))]
        choices = []
        for (task, method), config in zip(product(self.tasks, self.methods), configs, strict=True):
            names = {"task": (task, config.task.name), "model": (self.model, config.model.name)}
            own = {group: name for group, (file, name) in names.items() if name != file}
            choices.append(replace(grid_search(config, records), task=task, method=method, names=own))
        return choices

    def best_file(self, method: str, task: str) -> Path:
        """Return the file that `make select` writes and `sweep=seeds` reads."""
        return self.best_dir / self.protocol / self.model / f"{method}-{task}.yaml"

    def require_grid(self, *overrides: str) -> None:
        """Check that every point of a grid finished or diverged.

        Raises:
            SymloraError: Some did not, for want of memory or data, for example.
        """
        planned = expand(*(overrides or self.grid()))
        missing = [config for config in planned if not is_settled(read_run(run_folder(config)))]
        if missing:
            raise SymloraError(
                f"{len(missing)} grid points have no result, the first {run_folder(missing[0])}: the sweep's own "
                "messages say why. Run the same command again to continue."
            )

    def widened(self, choices: Sequence[GridSearch], axes: Sequence[str] = ("lr",)) -> list[list[str]]:
        """Return grids beyond the edges, the same for all methods.

        Args:
            choices: What was chosen.
            axes: `lr`, `batch_size` or both. A grid of two batch sizes always has its best on an edge.
        """
        commands = []
        for task in dict.fromkeys(choice.task for choice in choices):
            here = [choice for choice in choices if choice.task == task]
            tried = {axis: sorted({v for choice in here for v in choice.values(axis)}) for axis in AXES}
            for axis in axes:
                if new := sorted({value for choice in here for value in choice.widened(axis)}):
                    values = {axis: new, **{other: tried[other] for other in AXES if other != axis}}
                    points = [f"train.{name}={','.join(f'{v:g}' for v in values[name])}" for name in values]
                    commands.append(replace(self, tasks=[task]).grid(*points))
                    tried[axis] = sorted({*tried[axis], *new})
        return commands

    def runs(self, now: float | None = None) -> list[RunStatus]:
        """List every run of the study with its state."""
        now = time.time() if now is None else now
        found = [run_status("grid", config, now) for config in _expanded(0, *self.grid())]
        for task in self.tasks:
            for method in self.methods:
                best = self.best_file(method, task)
                if best.is_file():
                    only = replace(self, tasks=[task], methods=[method])
                    configs = _expanded(best.stat().st_mtime_ns, *only.repeats())
                    found += [run_status("seeds", config, now) for config in configs]
                else:
                    found += [RunStatus("seeds", task, method, None)] * self.seeds
        return found

    @property
    def workers(self) -> int:
        """Count the packs at once: one a GPU, else one a core."""
        from symlora.model.device import pick_device

        (config, *_) = _expanded(0, *self.settings)
        device = pick_device("auto").type if config.device == "auto" else config.device
        if device == "mps" or device[-1:].isdigit():  # cuda:1
            return 1
        return cores() if device == "cpu" else len(visible_devices()) or cores()

    def costs(self) -> Costs:
        """Gather the seconds of finished runs of this model and protocol."""
        config = _expanded(0, *self.settings)[0]
        return costs(record for _, record in scan(Path(config.results_dir) / config.protocol.name / config.model.name))


def more_settings(named: Mapping[str, Sequence[str]], overrides: Sequence[str]) -> list[str]:
    """Check overrides beside the names that a command's options give; return them.

    Raises:
        SymloraError: A name or an override is wrong, or an override belongs to an option.
    """
    words = quote_paths(overrides)
    for word in words:
        if (key := word.partition("=")[0].lstrip("+")) in (*GROUPS, "sweep"):
            raise SymloraError(f"{word}: this command sets {key} itself (see --help).")
    check_words(["-m", *(f"{group}={name}" for group, names in named.items() for name in names), *words])
    return words


def command_study(chosen: argparse.Namespace) -> int:
    """Run `symlora study`."""
    return run_study(Study.of(chosen))


def command_status(chosen: argparse.Namespace) -> int:
    """Run `symlora status`: print the table, or show it live."""
    study = Study.of(chosen)
    workers = chosen.workers or study.workers
    if chosen.watch and sys.stdout.isatty():
        from symlora.sweep.watch import watch

        watch(lambda: (study.runs(), study.costs()), workers)
    else:
        print(f"protocol {study.protocol}, model {study.model}")
        print(status_table(study.runs(), study.costs(), workers))
    return 0


@lru_cache
def _expanded(written: int, *overrides: str) -> Sequence[Config]:
    """Expand a command, cached; `written` is a selection's time."""
    return expand(*overrides)


def run_study(study: Study, widen: int = 0) -> int:
    """Train the grid, select, and train the seeds; return the exit status.

    Beyond an edge where a best point lies the grid gets at most `widen` more learning rates a task.

    Raises:
        SymloraError: Some grid points have no result.
    """
    print(f"1 of 3: grid of {', '.join(study.tasks)}", flush=True)
    status = multirun(study.grid())
    if status not in (0, FAILED_RUN):
        return status
    study.require_grid()
    planned, before = {config.train.lr for config in expand(*study.grid())}, None
    while (found := study.chosen()) != before:  # until a round adds no point
        before = found
        more = {task: {lr for each in found if each.task == task for lr in each.values("lr")} for task in study.tasks}
        if status := _widen(study, study.widened([each for each in found if len(more[each.task] - planned) < widen])):
            return status
    print("2 of 3: selection", flush=True)
    _write(study, found)
    print(f"3 of 3: {study.seeds} seeds of each", flush=True)
    return multirun(study.repeats())


def command_select(chosen: argparse.Namespace) -> int:
    """Run `symlora select`: print and write the best grid points."""
    if chosen.run_widened and not chosen.widen:
        raise SymloraError("--run goes with --widen.")
    study, axes = Study.of(chosen), AXES if chosen.axis == "both" else (chosen.axis,)
    found = _tried(study)
    if chosen.widen:
        commands = study.widened(found, axes)
        if not commands:
            print(f"No best point lies on an edge of {' or '.join(axes)}: nothing to widen.")
        if not chosen.run_widened:
            sys.stdout.writelines(f"symlora train -m {shlex.join(command)}\n" for command in commands)
            return 0
        if status := _widen(study, commands):
            return status
        found = _tried(study)
    _write(study, found)
    print(f"Written to {study.best_dir / study.protocol / study.model}. Next: make seeds")
    return 0


def _tried(study: Study) -> list[GridSearch]:
    """Return the grids that have points; warn about the others."""
    choices = study.chosen()
    with suppress(SymloraError):  # the protocol has no grid
        planned = expand(*study.grid())
        if missing := sum(read_run(run_folder(config)) is None for config in planned):
            print(f"WARNING: {missing} of {len(planned)} runs of the grid are missing", file=sys.stderr)
    for choice in choices:
        if not choice.points:
            other = f" ({choice.others} runs have other settings: give the same ARGS)" if choice.others else ""
            print(f"WARNING: {choice.task}, {choice.method}: no grid points{other}", file=sys.stderr)
    if not any(choice.points for choice in choices):
        raise SymloraError("no grid to choose from: run `make sweep TASK=<task>` with the same MODEL and PROTOCOL.")
    return [choice for choice in choices if choice.points]


def _write(study: Study, choices: Sequence[GridSearch]) -> None:
    scored = [choice for choice in choices if any(point.score is not None for point in choice.points)]
    if scored:
        print(select_table(scored))
    sys.stderr.writelines(f"{warning}\n" for warning in unequal(scored))
    for choice in sorted(choices, key=scored.__contains__, reverse=True):  # one without a score raises
        write(choice, study.best_file(choice.method, choice.task))


def _widen(study: Study, commands: Sequence[Sequence[str]]) -> int:
    """Run the wider grids; return the status that ends them, or 0."""
    for command in commands:
        print("a best point lies on an edge: symlora train -m " + shlex.join(command), flush=True)
        if (status := multirun(command)) not in (0, FAILED_RUN):
            return status
        study.require_grid(*command)
    return 0


def multirun(overrides: Sequence[str]) -> int:
    """Run `symlora train -m <overrides>`; return the exit status."""
    return symlora("train", "-m", *overrides)


def symlora(*words: str) -> int:
    """Run a command of symlora as a child; return its exit status."""
    # A session of its own: Ctrl-C reaches it once, through here, and it may take the seconds that a checkpoint needs.
    process = subprocess.Popen([sys.executable, "-m", "symlora", *words], start_new_session=True)
    with forward_signals(process):
        return process.wait()
