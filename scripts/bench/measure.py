"""Measure every case of each task in turn, round after round."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.utils.benchmark import Timer

from bench import workers
from bench.cases import Settings, cases, task_loads
from bench.flops import Shape
from bench.trainers import Ours
from bench.work import BATCH_SIZE, Load
from symlora.config.schema import CheckpointConfig
from symlora.model.device import pick_device, pick_precision
from symlora.sweep.launchers import cores, gpus_of
from symlora.training.checkpoint import Checkpoint

SCHEMA_VERSION = 2  # 1 kept the tables too, which follow from what is measured


@dataclass
class Sides:
    """The two sides' processes, and what they measured."""

    settings: Settings
    precision: str  # of our fast cases
    ours: workers.Group
    baseline: workers.Group
    say: Callable[[str], object]
    measurements: list[dict[str, Any]] = field(default_factory=list)
    peaks: list[dict[str, Any]] = field(default_factory=list)

    def measure(self, label: str, loads: Sequence[Load], shape: Shape) -> None:
        """Build all cases, then measure them and the matmul peak round by round."""
        ready = []
        for load in loads:
            self.say(f"{label}: {load.case.name}: load and warm up")
            group = self.ours if load.case.side == "ours" or load.case.spread else self.baseline
            samples, memory = zip(*group.ask(workers.load, load), strict=True)
            passes = max(1, round(self.settings.min_seconds / max(figures(samples)["seconds"], 1e-3)))
            ready.append((load.case, group, passes, max((m for m in memory if m is not None), default=None)))
        for turn in range(1, self.settings.rounds + 1):
            self.peak(label, turn, shape)
            for case, group, passes, peak_bytes in ready:
                self.say(f"{label}: round {turn} of {self.settings.rounds}: {case.name}")
                found = figures(group.ask(workers.run, case.name, turn, passes))
                entry = {"label": label, "round": turn, "case": asdict(case)}
                self.measurements.append({**entry, **found, "peak_bytes": peak_bytes})
        for group in (self.ours, self.baseline):
            group.ask(workers.clear)

    def peak(self, label: str, turn: int, shape: Shape) -> None:
        """Measure the matmul peak now: of one process, of all of ours at once, and of one with all threads."""
        for precision in dict.fromkeys(("fp32", self.precision)):
            call = (workers.matmul_rates, shape.width, shape.inner, precision)
            answers = {"1 thread": self.ours.ask(*call, only_first=True)} if turn == 1 else {}
            answers |= {"all processes": self.ours.ask(*call), "all threads": self.baseline.ask(*call)}
            for how, rates in answers.items():
                for matmul in rates[0]:
                    entry = {"label": label, "round": turn, "precision": precision, "how": how, "matmul": matmul}
                    self.peaks.append({**entry, "flops_per_second": sum(rate[matmul] for rate in rates)})


def figures(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sum up one measurement over the processes; its seconds are from the first start to the last end."""
    first, summed = samples[0], ("cpu_seconds", "run_steps", "sentences", "tokens", "flops")
    seconds = max(sample["stopped"] for sample in samples) - min(sample["started"] for sample in samples)
    found = {"processes": len(samples), "seconds": seconds, "steps": first["steps"], "loss": first["loss"]}
    found |= {key: sum(sample[key] for sample in samples) for key in summed}
    return {
        **found,
        "seconds_per_step": seconds / first["steps"],
        "seconds_per_run_step": seconds / found["run_steps"],
        "sentences_per_second": found["sentences"] / seconds,
    }


def planned(settings: Settings) -> int:
    """Count the lines of progress of `run`."""
    return len(settings.tasks) * len(cases(settings, pick_device(settings.device))) * (settings.rounds + 1)


def run(settings: Settings, say: Callable[[str], object]) -> dict[str, Any]:
    """Run the bench; `say` takes lines of progress. Returns the record."""
    load_average, device = os.getloadavg()[0], pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    if device.type == "cuda":  # one GPU for both sides; the Trainer would use all
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus_of(device)[0]
    number = cores() if settings.cores is None else settings.cores
    processes, one, all_threads = (1, None, None) if device.type == "cuda" else (number, 1, number)
    data, encoder = {}, {}
    with (
        tempfile.TemporaryDirectory(prefix="symlora-bench-") as folder,
        workers.Group(processes, one, device.type) as ours,
        workers.Group(1, all_threads, device.type) as baseline,
    ):
        sides = Sides(settings, precision, ours, baseline, say)
        about = {"ours": ours.ask(workers.about), "baseline": baseline.ask(workers.about)}
        for task in settings.tasks:
            loads, shape, data[task] = task_loads(settings, task, device, Path(folder))
            encoder = asdict(shape)
            sides.measure(task, loads, shape)
    return {
        "schema_version": SCHEMA_VERSION,
        "provenance": about["ours"][0][0],
        "device_type": device.type,
        "cores": number,
        "load_average": load_average,
        "threads": {side: [threads for _, threads in answers] for side, answers in about.items()},
        "settings": {**asdict(settings), "model_path": settings.model_path and Path(settings.model_path).name},
        "batch_size": BATCH_SIZE,
        "encoder": encoder,
        "data": data,
        "peaks": sides.peaks,
        "measurements": sides.measurements,
    }


def checkpoint_cost(settings: Settings, runs: int) -> str:
    """Say what a checkpoint of K runs takes of the default time between two."""
    device, default = pick_device(settings.device), CheckpointConfig().seconds
    with tempfile.TemporaryDirectory() as folder:
        loads = task_loads(replace(settings, runs=(runs,)), settings.tasks[0], device, Path(folder))[0]
        ours = Ours(next(load for load in loads if load.case.side == "ours"), device)
        ours.run(0, 1)
        states = {f"seed-{run.number}": run for run in ours.states}
        checkpoint = Checkpoint(Path(folder), list(states), {"configurations": dict.fromkeys(states, "")}, default)
        save = "checkpoint.save({name: run.save(False) for name, run in states.items()}, 1)"
        seconds = Timer(save, globals={"checkpoint": checkpoint, "states": states}).timeit(10).mean
        size = max(path.stat().st_size for path in checkpoint.folder.glob("*.safetensors"))
    share = f"{seconds / default:.2%} of the time at the default of one a {default:.0f} s"
    return f"K = {runs}: a checkpoint takes {1e3 * seconds:.0f} ms and {size / 2**20:.1f} MiB: {share}"
