"""Runs the bench: for each task every configuration in turn, round after round, beside the matmul peak just then."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from symlora.bench import growth
from symlora.bench.flops import Shape, needed
from symlora.bench.settings import BATCH_SIZE, Settings, cases, task_config
from symlora.bench.work import Case, Load, Work, measuring_rows
from symlora.bench.workers import Group, Ready, Sample, wall
from symlora.model.device import pick_device, pick_precision
from symlora.model.source import find
from symlora.sweep.launchers import cores

SCHEMA_VERSION = 1
BUSY = 0.5  # load average above which timings are not to be trusted


@dataclass
class Sides:
    """The two sides' processes, and what they measured."""

    settings: Settings
    device: torch.device
    ours: Group
    baseline: Group
    say: Callable[[str], None]
    measurements: list[dict[str, Any]] = field(default_factory=list)
    peaks: list[dict[str, Any]] = field(default_factory=list)

    def of(self, case: Case) -> Group:
        """The processes of a case's side."""
        return self.ours if case.side == "ours" else self.baseline

    def measure(self, part: str, label: str, loads: Sequence[Load], rounds: int, shape: Shape | None) -> None:
        """Builds all, then measures round by round; `shape` asks for the matmul peak in every round."""
        passes = {}
        ready: dict[str, list[Ready]] = {}
        for load in loads:
            self.say(f"{label}: {load.case.name}: load and warm up")
            name = load.case.name
            ready[name] = self.of(load.case).ask("load", load)
            seconds = max(wall([r.sample for r in ready[name]]), 1e-3)
            passes[name] = max(1, round(self.settings.min_seconds / seconds))
        for turn in range(1, rounds + 1):
            if shape is not None:
                self.peak(label, turn, shape)
            for load in loads:
                self.say(f"{label}: round {turn} of {rounds}: {load.case.name}")
                name, group = load.case.name, self.of(load.case)
                samples = group.ask("run", name, turn, passes[name])
                peaks = [r.peak_bytes for r in ready[name]]
                self.measurements.append(
                    {
                        "part": part,
                        "label": label,
                        "round": turn,
                        "case": asdict(load.case),
                        **_figures(samples),
                        "peak_bytes": None if None in peaks else max(p or 0 for p in peaks),
                    }
                )
        for group in (self.ours, self.baseline):
            group.ask("clear")

    def peak(self, label: str, turn: int, shape: Shape) -> None:
        """The matmul peak now: one process, all of our processes at once, and one process with all threads."""
        precisions = ("fp32",) if self._fast() == "fp32" else ("fp32", self._fast())
        for precision in precisions:
            arguments = (shape.width, shape.inner, precision)
            for how, answers in (
                ("1 thread", self.ours.ask("peak", *arguments, only_first=True) if turn == 1 else []),
                ("all processes", self.ours.ask("peak", *arguments)),
                ("all threads", self.baseline.ask("peak", *arguments)),
            ):
                for matmul in answers[0] if answers else ():
                    rate = sum(answer[matmul] for answer in answers)
                    entry = {"label": label, "round": turn, "precision": precision, "how": how, "matmul": matmul}
                    self.peaks.append({**entry, "flops_per_second": rate})

    def _fast(self) -> str:
        return pick_precision(self.settings.precision, self.device)


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """One measurement, all processes together."""
    seconds = wall(samples)
    sentences, run_steps = (sum(getattr(s.done, key) for s in samples) for key in ("sentences", "run_steps"))
    return {
        "processes": len(samples),
        "seconds": seconds,
        "cpu_seconds": sum(s.cpu_seconds for s in samples),
        "steps": samples[0].done.steps,
        "run_steps": run_steps,
        "sentences": sentences,
        "tokens": sum(s.done.tokens for s in samples),
        "flops": sum(s.done.flops for s in samples),
        "loss": samples[0].done.loss,
        "seconds_per_step": seconds / samples[0].done.steps,
        "seconds_per_run_step": seconds / run_steps,
        "sentences_per_second": sentences / seconds,
    }


def planned(settings: Settings) -> int:
    """Lines of progress that `run` will say."""
    task = len(cases(settings, pick_device(settings.device))) * (settings.rounds + 1)
    grown = sum(len(sizes) for sizes in settings.growth) * (min(2, settings.rounds) + 1)
    return 1 + len(settings.tasks) * task + grown


def run(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole bench: the raw record, without what follows from it (symlora.bench.record).

    Args:
        settings: What to measure.
        say: Takes a line of progress.
    """
    load_average = os.getloadavg()[0]
    device = pick_device(settings.device)
    if load_average > BUSY:
        print(
            f"WARNING: load average {load_average:.1f}: this machine is busy, its timings are worth little", flush=True
        )
    with growth.folder() as folder, _sides(settings, device, say) as sides:
        say("starting the workers")
        about, other = sides.ours.ask("about")[0], sides.baseline.ask("about")[0]
        data: dict[str, Any] = {}
        encoder: dict[str, Any] = {}
        for task in settings.tasks:
            loads, shape, described = task_loads(settings, task, device, folder)
            data[task], encoder = described, shape.as_dict()
            sides.measure("task", task, loads, settings.rounds, shape)
        grown = growth.loads(settings, folder, pick_precision(settings.precision, device))
        for part, values in grown.items():
            sides.measure(part, part, values, min(2, settings.rounds), None)
    return {
        "schema_version": SCHEMA_VERSION,
        "provenance": {key: value for key, value in about.items() if key != "threads"},
        "device_type": device.type,
        "cores": cores() if settings.cores is None else settings.cores,
        "load_average": load_average,
        "threads": {"ours": [about["threads"]] * sides.ours.processes, "baseline": [other["threads"]]},
        "settings": {**asdict(settings), "model_path": settings.model_path and Path(settings.model_path).name},
        "batch_size": BATCH_SIZE,
        "encoder": encoder,
        "data": data,
        "peaks": sides.peaks,
        "measurements": sides.measurements,
    }


@contextmanager
def _sides(settings: Settings, device: torch.device, say: Callable[[str], None]) -> Iterator[Sides]:
    number = cores() if settings.cores is None else settings.cores
    gpu = device.type == "cuda"
    ours = Group(1 if gpu else number, None if gpu else 1, str(device))
    baseline = Group(1, None if gpu else number, str(device))
    try:
        yield Sides(settings, device, ours, baseline, say)
    finally:
        ours.close()
        baseline.close()


def task_loads(
    settings: Settings, task: str, device: torch.device, folder: Path
) -> tuple[list[Load], Shape, dict[str, Any]]:
    """Every configuration of a task, the encoder's size, and what the record says of the data."""
    from transformers import AutoConfig

    from symlora.runner.prepare import prepare_data

    config = {method: task_config(settings, task, method) for method in ("lora", settings.method)}
    data = prepare_data(config["lora"])[1]["train"]
    if settings.model_shape is not None:
        path = growth.random_encoder(config["lora"], folder, *settings.model_shape)
        for own in config.values():
            own.model.path, own.model.shape = str(path), {}
    source = find(config["lora"].model)
    hf_config = AutoConfig.from_pretrained(source.name_or_path, **source.arguments)
    rank = int(config[settings.method].method.peft_config["r"])
    shape = Shape.of(hf_config, len(config["lora"].task.labels) or 1, rank)
    rows = measuring_rows(data, settings.steps * BATCH_SIZE)
    work = Work(rows, BATCH_SIZE, needed(shape, rows.lengths))
    described = {
        "source": config["lora"].data.source,
        "rows": len(data),
        "mean_tokens": float(data.lengths.mean()),
        "measured_rows": len(rows),
        "measured_mean_tokens": float(rows.lengths.mean()),
    }
    return [Load(case, config[case.method], work) for case in cases(settings, device)], shape, described
