"""Reproduce the paper's Table 1: `make paper`.

    1  MNLI, then the other tasks: grid, selection, seeds        protocol paper
    2  RTE, MRPC and STS-B again, from each method's MNLI run    protocol paper_mnli
    3  a zip for the GLUE server of each method, and the report

Before it starts, a few steps of every grid point tell what all of it takes on this machine. Every part can be stopped;
the same command goes on.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from symlora.config.formatting import text_table
from symlora.data.splits import load_splits
from symlora.errors import PARTIAL, SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.runner.reporter import format_duration
from symlora.store.folder import finished_record, run_folder
from symlora.sweep.grid import expand, tasks_of
from symlora.sweep.study import FAILED_RUN, METHODS, Study, more_settings, multirun, run_study, symlora

PROTOCOL, FROM_MNLI = "paper", "paper_mnli"
STARTED_FROM_MNLI = ("rte", "mrpc", "stsb")  # in LoRA's recipe
# Steps of each grid point in the calibration, at the grid's larger batch: on a GPU enough to outweigh its start
STEPS = {"cpu": 20, "cuda": 200, "mps": 20}
CALIBRATION = Path(".cache/calibration")
BYTES_A_ROW = 8  # of predictions.parquet, measured on the committed runs


@dataclass(frozen=True)
class Paper:
    """Say what is reproduced: tasks, encoder, seeds, overrides."""

    tasks: Sequence[str]
    model: str = "roberta-base"
    seeds: int = 5
    args: Sequence[str] = ()

    def study(self, *tasks: str, protocol: str = PROTOCOL, methods: Sequence[str] = METHODS, start: str = "") -> Study:
        """Return the study of some tasks."""
        started = [f"init_from={start}"] if start else []
        return Study(tasks, self.model, protocol, self.seeds, methods, (*self.args, "predict_test=true", *started))

    @property
    def restarted(self) -> list[str]:
        """List the tasks that start from MNLI too."""
        return [task for task in STARTED_FROM_MNLI if task in self.tasks and "mnli" in self.tasks]

    def estimate(self) -> str:
        """Estimate hours and gigabytes of everything; return them as a table.

        Raises:
            SymloraError: None of a task's grid points could be trained.
        """
        needed = {task: self._needed(task) for task in self.tasks}
        runs, seconds, size = (sum(column) for column in zip(*needed.values(), strict=True))
        needed["all"] = int(runs), seconds, size
        rows = [(task, count, format_duration(s), f"{b / 1e9:.2f}") for task, (count, s, b) in needed.items()]
        workers = self.study(*self.tasks).workers
        return (
            f"{text_table(('task', 'runs', 'time', 'GB'), rows, 'lrrr')}\n"
            f"About {format_duration(seconds / workers)} with {workers} at a time, estimated from the first steps of "
            "every grid point. Runs that are already finished are included, learning rates beyond the grid are not."
        )

    def _needed(self, task: str) -> tuple[int, float, float]:
        """Return the runs, seconds and bytes of a task."""
        from symlora.model.device import pick_device
        from symlora.runner.provenance import device_name

        grid = self.study(task).grid()
        points = expand(*grid)
        device = pick_device(points[0].device)
        rows = STEPS[device.type] * max(config.train.batch_size for config in points)
        here = re.sub(r"\W+", "-", device_name(device))  # the time is of this device
        few = [f"data.train_limit={rows}", "train.epochs=1", f"results_dir={CALIBRATION / here}"]
        few += ["predict_test=false", "force=false", "logger.name=none"]  # a forced run counts as not done yet
        print(f"calibration on {here}: {rows} training rows of {task}", flush=True)
        if (status := multirun([*grid, *few])) not in (0, FAILED_RUN):
            raise SystemExit(status)
        seconds, size = [], []
        for config, short in zip(points, expand(*grid, *few), strict=True):
            if (record := finished_record(short)) is None:
                continue
            (epoch,), train = record["epochs"], record["cost"]["train_seconds"]
            facts, longer = config.task, config.task.splits["train"] / record["data"]["train"]["rows"]
            seconds.append(config.train.epochs * (train * longer + epoch["seconds"] - train))
            tested = sum(facts.splits[split] for split in facts.test) * BYTES_A_ROW
            size.append(tested + sum(path.stat().st_size for path in run_folder(short).rglob("*") if path.is_file()))
        if not seconds:
            raise SymloraError(f"no grid point of {task} could be trained; the messages above say why.")
        go_offline_if_unreachable()
        load_splits(facts, points[0].data, facts.test)  # so that training needs no network
        runs = (len(points) + len(METHODS) * (self.seeds - 1)) * (2 if task in self.restarted else 1)
        return runs, runs * fmean(seconds), runs * fmean(size)

    def start_of(self, method: str) -> str:
        """Return the folder of a method's best MNLI run at seed 0.

        Raises:
            SymloraError: There is none.
        """
        study = self.study("mnli", methods=[method])
        (choice,) = study.chosen()
        best = (f"train.lr={choice.best.lr!r}", f"train.batch_size={choice.best.batch_size}")
        (config,) = expand(*study.settings, *best)
        return str(run_folder(config))

    def studies(self) -> Iterator[Study]:
        """Yield what is trained, in order: the second part needs MNLI's runs."""
        yield from map(self.study, self.tasks)
        for method in METHODS if self.restarted else ():
            yield self.study(*self.restarted, protocol=FROM_MNLI, methods=[method], start=self.start_of(method))

    def run(self) -> int:
        """Train everything, make the zips and the report; return the exit status."""
        worst, own_rates = 0, any(word.startswith("train.lr=") for word in self.args)
        for study in self.studies():
            if (status := run_study(study, widen=0 if own_rates else 3)) not in (0, FAILED_RUN):
                return status
            worst = max(worst, status)  # a seed that diverges does so again, and the other tasks go on
        where = ("--results-dir", expand(*self.study(*self.tasks).settings)[0].results_dir)
        for method in METHODS:
            zipped = ("--protocol", PROTOCOL, "--model", self.model, "--method", method)
            if (status := symlora("submission", *zipped, *where)) not in (0, FAILED_RUN, PARTIAL):
                return status
        return symlora("report", *where) or worst


def command(chosen: argparse.Namespace) -> int:
    """Run `symlora paper`."""
    tasks = chosen.tasks.replace(",", " ").split() or tasks_of(PROTOCOL)
    args = more_settings({"model": [chosen.model], "task": tasks}, chosen.overrides)
    paper = Paper(tasks, chosen.model, chosen.seeds, args)
    print(paper.estimate(), flush=True)
    return 0 if chosen.estimate else paper.run()
