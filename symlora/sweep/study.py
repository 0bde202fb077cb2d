"""Run the study: grid, selection, seeds; each a Hydra multirun, or a reading of what one left behind."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from symlora.config.compose import compose
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.store.folder import read_run, run_folder, scan
from symlora.store.selection import AXES
from symlora.sweep.grid import BEST_DIR, best_file, expand, tasks_of
from symlora.sweep.select import GridSearch, grid_search, unequal, write
from symlora.sweep.select import table as select_table
from symlora.sweep.status import Costs, RunStatus, run_status
from symlora.sweep.status import table as status_table
from symlora.training.interrupt import forward_signals

METHODS = ("symlora", "lora")
FAILED_RUN = 1  # exit status of a multirun some of whose runs failed; a grid point that diverged is one that was tried
POINT = tuple(f"train.{axis}" for axis in AXES)  # what a grid varies, and a selection decides


@dataclass(frozen=True)
class Study:
    """What is studied; all but the numbers are names of files in configs/.

    Attributes:
        tasks: Names of tasks.
        model: Encoder.
        protocol: Protocol.
        seeds: Runs of each winner, seeds 0 to seeds - 1.
        methods: Names of methods, all with the same grid.
        args: More overrides, as on the command line of scripts/train.py; the same for every stage, but for learning
            rate, batch size and seed: those are the grid's, and the seeds take what was selected.
        best_dir: Where selections are written.
    """

    tasks: Sequence[str]
    model: str
    protocol: str
    seeds: int = 5
    methods: Sequence[str] = METHODS
    args: Sequence[str] = ()
    best_dir: Path = BEST_DIR

    @classmethod
    def of(cls, chosen: argparse.Namespace) -> "Study":
        """Read the options of `symlora study`, `select` and `status`.

        Raises:
            SymloraError: There is no such protocol.
        """
        return cls(
            tasks=chosen.tasks.replace(",", " ").split() or tasks_of(chosen.protocol),
            model=chosen.model,
            protocol=chosen.protocol,
            seeds=getattr(chosen, "seeds", 1),
            methods=chosen.methods.replace(",", " ").split(),
            args=chosen.overrides,
        )

    @property
    def common(self) -> list[str]:
        """Overrides of every stage."""
        return [f"model={self.model}", f"protocol={self.protocol}", *self.args]

    def grid(self, *points: str) -> list[str]:
        """Overrides of the grid; `points` take the place of the protocol's values."""
        own = without(self.common, *(point.partition("=")[0] for point in points))
        return ["sweep=grid", *_lists(self.tasks, self.methods), *own, *points]

    def repeats(self) -> list[str]:
        """Overrides of the seeds."""
        seeds = f"seed=range({self.seeds})"
        return ["sweep=seeds", *_lists(self.tasks, self.methods), *without(self.common, *POINT, "seed"), seeds]

    def chosen(self) -> list[GridSearch]:
        """The best grid point of each method and task, from the run folders.

        Raises:
            SymloraError: Something else than the grid's points is swept.
        """
        configs = expand(*_lists(self.tasks, self.methods), *without(self.common, *POINT))
        if len(configs) > len(self.tasks) * len(self.methods):
            raise SymloraError(
                f"a selection is one run's settings a method and task, but {' '.join(self.args)} has lists of others "
                "than train.lr and train.batch_size. Give one value each."
            )
        records = [record for _, record in scan(Path(configs[0].results_dir))]
        return [grid_search(config, records) for config in configs]

    def best_file(self, choice: GridSearch) -> Path:
        """Where a choice is written."""
        return best_file(self.protocol, self.model, choice.method, choice.task, self.best_dir)

    def missing(self) -> list[Config]:
        """Grid points of which there is no record at all, not even of a failure."""
        return [config for config in expand(*self.grid()) if read_run(run_folder(config)) is None]

    def widened(self, choices: Sequence[GridSearch], axes: Sequence[str] = ("lr",)) -> list[list[str]]:
        """Grids beyond the edges on which some method's best point lies: the same new points for all methods.

        Args:
            choices: What was chosen.
            axes: `lr`, `batch_size` or both. A grid of two batch sizes always has its best on an edge.
        """
        commands = []
        for task in dict.fromkeys(choice.task for choice in choices):
            here = [choice for choice in choices if choice.task == task]
            tried = {axis: sorted({v for choice in here for v in choice.values(axis)}) for axis in AXES}
            for axis in axes:
                new = sorted({value for choice in here for value in choice.widened(axis)})
                if not new:
                    continue
                other = next(name for name in AXES if name != axis)
                points = [f"train.{name}={_numbers(values)}" for name, values in ((axis, new), (other, tried[other]))]
                commands.append(Study([task], self.model, self.protocol, 1, self.methods, self.args).grid(*points))
                tried[axis] = sorted({*tried[axis], *new})
        return commands

    def runs(self, now: float | None = None) -> list[RunStatus]:
        """Every run of the study and its state."""
        now = time.time() if now is None else now
        found = [run_status("grid", config, now) for config in expand(*self.grid())]
        for task in self.tasks:
            for method in self.methods:
                if best_file(self.protocol, self.model, method, task, self.best_dir).is_file():
                    only = Study([task], self.model, self.protocol, self.seeds, [method], self.args)
                    found += [run_status("seeds", config, now) for config in expand(*only.repeats())]
                else:
                    found += [RunStatus("seeds", task, method, None)] * self.seeds
        return found

    def status(self, workers: int) -> str:
        """Return the table of `symlora status`, for so many runs at a time."""
        config = compose(f"task={self.tasks[0]}", *self.common)
        folder = Path(config.results_dir) / config.protocol.name / config.model.name
        costs = Costs.of(record for _, record in scan(folder))
        return status_table(self.runs(), costs, workers)


def run_study(study: Study) -> int:
    """Train the grid, select, and train the seeds; the exit status.

    Raises:
        SymloraError: Some grid points have no record.
    """
    print(f"1 of 3: grid of {', '.join(study.tasks)}", flush=True)
    status = multirun(study.grid())
    if status not in (0, FAILED_RUN):
        return status
    require_grid(study)
    print("2 of 3: selection", flush=True)
    _write(study, study.chosen())
    print(f"3 of 3: {study.seeds} seeds of each", flush=True)
    return multirun(study.repeats())


def select(study: Study, widen: Sequence[str] = (), *, run: bool = False) -> int:
    """Print and write the best grid points; the exit status.

    Args:
        study: Whose grid.
        widen: Axes (`lr`, `batch_size`) to go beyond the edges of: prints the commands instead.
        run: Run these commands, and select again.
    """
    found = _tried(study)
    if widen:
        commands = study.widened(found, widen)
        if not commands:
            print(f"No best point lies on an edge of {' or '.join(widen)}: nothing to widen.")
        for command in commands:
            print("symlora train -m " + " ".join(command), flush=True)
            if run:
                multirun(command)
        if not run:
            return 0
        found = _tried(study)
    _write(study, found)
    print(f"Written to {study.best_file(found[0]).parent}. Next: make seeds")
    return 0


def _tried(study: Study) -> list[GridSearch]:
    """Return the choices among at least one grid point; warn where there is none."""
    choices = study.chosen()
    for choice in choices:
        if not choice.points:
            other = f" ({choice.others} runs have other settings: give the same ARGS)" if choice.others else ""
            print(f"WARNING: {choice.task}, {choice.method}: no grid points{other}", file=sys.stderr)
    if not any(choice.points for choice in choices):
        raise SymloraError("no grid to choose from: run `make sweep TASK=<task>` with the same MODEL and PROTOCOL.")
    return [choice for choice in choices if choice.points]


def _write(study: Study, choices: Sequence[GridSearch]) -> None:
    print(select_table(choices))
    for warning in unequal(choices):
        print(warning, file=sys.stderr)
    for choice in choices:
        write(choice, study.best_file(choice))


def without(overrides: Sequence[str], *keys: str) -> list[str]:
    """The overrides of other keys. The points of a grid are given with it, and must not reach selection and seeds."""
    return [override for override in overrides if override.partition("=")[0].lstrip("+") not in keys]


def multirun(overrides: Sequence[str]) -> int:
    """Run `symlora train -m <overrides>` in a process of its own; the exit status."""
    command = [sys.executable, "-m", "symlora", "train", "-m", *overrides]
    # A session of its own: Ctrl-C reaches it once, through here, and it may take the seconds that a checkpoint needs.
    process = subprocess.Popen(command, start_new_session=True)
    with forward_signals(process):
        return process.wait()


def require_grid(study: Study) -> None:
    """Sees to it that every grid point was tried.

    Raises:
        SymloraError: Some have no record.
    """
    missing = study.missing()
    if missing:
        raise SymloraError(
            f"{len(missing)} grid points have no run folder, the first {run_folder(missing[0])}: the sweep's own "
            "messages say why. The same command goes on where it stopped."
        )


def _lists(tasks: Sequence[str], methods: Sequence[str]) -> list[str]:
    return [f"task={','.join(tasks)}", f"method={','.join(methods)}"]


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
