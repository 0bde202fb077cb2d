"""Multiruns through every launcher: the same runs, each with its own folder and outcome. About half a minute.

The encoder is a small BERT with random weights and MiniLM's tokenizer, the data are the demo's sentences.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, outcomes
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException

from symlora.config.compose import CONFIG_DIR
from symlora.runner.train import main
from symlora.store import folder as results
from symlora.store.locks import locked
from symlora.sweep import worker
from symlora.training.checkpoint_files import headers, plans
from symlora.training.interrupt import Stopped, stop_requested

BASIC = ("hydra/launcher=packed", "hydra.launcher.inner=basic")
Multirun = Callable[..., list[JobReturn]]


@pytest.fixture
def multirun(sweep_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Multirun]:
    """`multirun(*overrides)`: run `symlora train -m <overrides>` in this process; return the outcome of each job."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path

    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'scripts'}")  # of submitit's processes
    plugin = importlib.import_module("hydra_plugins.symlora_packed_launcher").SymloraPackedLauncher
    Plugins.instance().register(plugin)  # compose() in other tests may have looked for plugins before
    task = main.__wrapped__

    def run(*overrides: str) -> list[JobReturn]:
        GlobalHydra.instance().clear()
        hydra = Hydra.create_main_hydra2("train", create_config_search_path(str(CONFIG_DIR)))
        places = [f"results_dir={tmp_path / 'runs'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
        given = list(dict.fromkeys([*sweep_overrides, *places, *overrides]))
        monkeypatch.setattr(JobReturn, "return_value", RECORDED)
        try:
            (returns,) = hydra.multirun("config", task, [*given, "hydra.mode=MULTIRUN"])
        finally:
            GlobalHydra.instance().clear()
        return list(returns)

    state = dict(Singleton._instances)
    yield run
    Singleton._instances = state


# Hydra's sweeper raises the first failure when it looks at the outcomes; here the tests look at them.
RECORDED = property(lambda job: job._return_value, lambda job, value: setattr(job, "_return_value", value))


def test_every_launcher_gives_the_same_runs(multirun: Multirun, tmp_path: Path) -> None:
    sweep = ("method=symlora,lora", "seed=0,1", "train.lr=1e-2")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    packed = ("hydra/launcher=packed",)
    launchers = {
        "basic": (),
        "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "method=lora"),
        "submitit_local": ("hydra/launcher=submitit_local", "method=lora", "seed=1"),  # a process a job: one will do
        "packed-basic": (*packed, "hydra.launcher.inner=basic"),
        "packed-joblib": (*packed, "hydra.launcher.inner=joblib", "hydra.launcher.inner_config.n_jobs=2"),
    }
    found = {}
    for name, overrides in launchers.items():
        root = tmp_path / name
        returns = multirun(*sweep, f"results_dir={root}", *overrides)
        found[name] = outcomes(root)
        assert all(job.status == JobStatus.COMPLETED for job in returns), [job._return_value for job in returns]
        scores = [job._return_value for job in returns]
        by_job = [results.finished_record(HydraRun(job).config) for job in returns]
        assert scores == [record["score"]["value"] for record in by_job if record is not None]
    basic = found["basic"]
    assert len(basic) == 4
    for name, runs in found.items():
        assert runs and runs.keys() <= basic.keys(), name
        for folder, (status, selections, losses) in runs.items():
            assert status == "finished"
            assert selections == basic[folder][1], (name, folder)
            assert losses == pytest.approx(basic[folder][2], rel=1e-5), (name, folder)


class HydraRun:
    """The configuration of a job, from what its launcher returned."""

    def __init__(self, job: JobReturn) -> None:
        from symlora.config.compose import resolve

        self.config = resolve(job.cfg)


def test_outcomes_come_in_order_and_failures_stop_nothing(
    multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ["1e30", "1e-3", "-1", "2e-3"]  # diverges, trains, is refused, trains
    returns = multirun(*BASIC, "method=symlora", f"train.lr={','.join(rates)}", "seed=0")
    assert [job.status == JobStatus.COMPLETED for job in returns] == [False, True, False, True]
    assert [[o for o in job.overrides or [] if o.startswith("train.lr")] for job in returns] == [
        [f"train.lr={rate}"] for rate in ("1e+30", "0.001", "-1", "0.002")
    ]
    assert isinstance(returns[0]._return_value, CompactHydraException) and "Diverged" in str(returns[0]._return_value)
    assert "train.lr=-1" in str(returns[2]._return_value)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(told) == 2 and "run.json" in told[0] and told[0].endswith("[train.lr=1e+30]")
    statuses = sorted(run["status"] for _, run in results.scan(tmp_path / "runs"))
    assert statuses == ["failed", "finished", "finished"]

    before = {folder: run["provenance"] for folder, run in results.scan(tmp_path / "runs")}
    times = {folder: (folder / "run.json").stat().st_mtime_ns for folder in before}
    again = multirun(*BASIC, "method=symlora", "train.lr=1e-3,2e-3,4e-3", "seed=0")
    printed = capsys.readouterr().err
    assert "2 of 3 runs are finished already" in printed and "1 run in 1 pack" in printed
    assert [job._return_value for job in again[:2]] == [returns[1]._return_value, returns[3]._return_value]
    finished = [folder for folder, run in results.scan(tmp_path / "runs") if run["status"] == "finished"]
    assert len(finished) == 3
    assert all((f / "run.json").stat().st_mtime_ns == times[f] for f in finished if f in times)


def test_a_pack_that_breaks_leaves_the_others(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import symlora.runner.run

    real = symlora.runner.run.run_pack

    def breaking(configs: Sequence[Any], reporters: Sequence[Any], began: float) -> Any:
        if configs[0].method.name == "lora":
            raise RuntimeError("no memory")
        if len(configs) > 1 and configs[0].method.name == "head":
            raise ValueError("these runs cannot share a pass")
        return real(configs, reporters, began)

    monkeypatch.setattr("symlora.runner.run.run_pack", breaking)
    returns = multirun(*BASIC, "method=lora,symlora,head", "seed=0,1")
    assert [job.status == JobStatus.COMPLETED for job in returns] == [False, False, True, True, True, True]
    assert "no memory" in str(returns[0]._return_value)


def test_a_lost_worker_loses_its_own_runs_alone(multirun: Multirun, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(task: worker.PackTask, cfg: Any) -> Any:
        if HydraConfig.get().job.num == 1:
            raise MemoryError("killed")
        return real(task, cfg)

    real = worker.PackTask.__call__
    monkeypatch.setattr(worker.PackTask, "__call__", lost)
    returns = multirun(*BASIC, "method=lora,symlora", "seed=0")
    assert [job.status == JobStatus.COMPLETED for job in returns] == [True, False]
    assert "start the same command again" in str(returns[1]._return_value)


def test_submitit_local_gets_as_many_packs_as_workers(multirun: Multirun, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts a process for everything that it is given at once."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    waves: list[tuple[int, int]] = []

    def launch(self: Any, job_overrides: Sequence[Any], initial_job_idx: int) -> list[JobReturn]:
        assert self.params["timeout_min"] == 5
        waves.append((initial_job_idx, len(job_overrides)))
        done = [[worker.Outcome(job.index, score=0.5) for job in pack.jobs] for pack in self.task_function.packs]
        wave = done[initial_job_idx : initial_job_idx + len(job_overrides)]
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcomes) for outcomes in wave]

    name = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
    monkeypatch.setattr(Plugins.instance().class_name_to_class[name], "launch", launch)
    inner = ("hydra.launcher.inner=submitit_local", "hydra.launcher.inner_config.timeout_min=5")
    returns = multirun(
        "hydra/launcher=packed", *inner, "hydra.launcher.workers=2", "hydra.launcher.max_tokens=1", "seed=0,1,2"
    )
    assert waves == [(0, 2), (2, 1)] and [job._return_value for job in returns] == [0.5] * 3


def test_jobs_that_are_one_run_are_trained_once(multirun: Multirun, tmp_path: Path) -> None:
    returns = multirun(*BASIC, "method=lora", "seed=0", "logger.group=a,b")
    assert [job.status for job in returns] == [JobStatus.COMPLETED] * 2
    assert returns[0]._return_value == returns[1]._return_value and len(list(results.scan(tmp_path / "runs"))) == 1


def test_a_missing_plugin_and_a_wrong_setting_are_one_message(multirun: Multirun) -> None:
    with pytest.raises(CompactHydraException, match=r"inner_config.*n_jobs"):
        multirun(*BASIC, "method=lora", "hydra.launcher.inner_config.n_jobs=2", "seed=0")


def test_a_killed_sweep_does_only_what_is_missing(
    sweep_overrides: list[str], multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = ["method=lora", "seed=0,1,2,3", "train.epochs=4"]
    packs = ["hydra/launcher=packed", "hydra.launcher.inner=basic", "hydra.launcher.max_tokens=1"]  # one run a pack
    places = [f"results_dir={tmp_path / 'runs'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "symlora", "train", "-m", *sweep_overrides, *points, *packs, *places],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(results.scan(tmp_path / "runs")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {folder: (folder / "run.json").stat().st_mtime_ns for folder, _ in results.scan(tmp_path / "runs")}
    assert 1 <= len(done) < 4
    returns = multirun(*points, *packs)
    assert all(job.status == JobStatus.COMPLETED for job in returns)
    printed = capsys.readouterr().err
    assert f"{len(done)} of 4 runs are finished already" in printed and f"{4 - len(done)} run" in printed
    assert all((folder / "run.json").stat().st_mtime_ns == when for folder, when in done.items())
    assert len(list(results.scan(tmp_path / "runs"))) == 4


def test_a_stopped_sweep_goes_on_from_its_checkpoints(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of three runs asked for again is no longer the pack; all three are, and end as if never stopped."""
    points = [*BASIC, "method=symlora", "train.epochs=3", "train.lr=1e-3"]
    multirun(*points, "seed=0,1,2", f"results_dir={tmp_path / 'reference'}")
    steps = iter(range(100))

    def at_fifth_step() -> int | None:
        if next(steps) == 5:
            signal.raise_signal(signal.SIGTERM)
        return stop_requested()

    with monkeypatch.context() as patched:
        patched.setattr("symlora.training.run_state.stop_requested", at_fifth_step)
        with pytest.raises(Stopped):
            multirun(*points, "seed=0,1,2")
    assert [(len(header.runs), header.trained) for header in headers(tmp_path / "runs")] == [(3, False)]
    assert not list(results.scan(tmp_path / "runs")) and not list((tmp_path / "runs").rglob(".seed-*"))
    capsys.readouterr()
    assert all(job.status == JobStatus.COMPLETED for job in multirun(*points, "seed=2,3,1,0"))
    assert "3 runs go on in the packs of a sweep that was stopped" in capsys.readouterr().err
    found = outcomes(tmp_path / "runs")
    wanted = outcomes(tmp_path / "reference")
    assert len(found) == 4 and all(found[folder] == run for folder, run in wanted.items())
    restarts = {folder.name: run["cost"]["restarts"] for folder, run in results.scan(tmp_path / "runs")}
    assert restarts == {"seed-0": 1, "seed-1": 1, "seed-2": 1, "seed-3": 0} and not headers(tmp_path / "runs")


def test_a_run_of_another_process_is_waited_for(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other process gives up; the run is then trained here, once."""
    points = [*BASIC, "method=lora", "seed=0,1"]
    folder = next(iter(outcomes(_one(multirun, points, tmp_path))))
    root = tmp_path / "runs"
    with ExitStack() as stack:
        stack.enter_context(locked(root, root / folder))
        monkeypatch.setattr("symlora.sweep.launcher.holder", lambda *_: stack.close())  # while it waits
        returns = multirun(*points)
    assert all(job.status == JobStatus.COMPLETED for job in returns)
    assert "1 run is trained by other processes; waiting" in capsys.readouterr().err
    assert len(list(results.scan(root))) == 2


def _one(multirun: Multirun, points: list[str], tmp_path: Path) -> Path:
    multirun(*points[:-1], "seed=0", f"results_dir={tmp_path / 'other'}")
    return tmp_path / "other"


def test_packs_that_never_began_keep_their_runs(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is killed before its second pack began trains it later as it would have."""
    points = [*BASIC, "method=lora", "seed=0,1,2,3", "hydra.launcher.max_tokens=300"]  # two runs a pack
    trained = worker.PackTask._train

    def second_is_lost(self: Any, pack: Any) -> Any:
        if pack is self.packs[1]:
            raise MemoryError("killed")
        return trained(self, pack)

    with monkeypatch.context() as patched:
        patched.setattr(worker.PackTask, "_train", second_is_lost)
        multirun(*points)
    assert len(plans(tmp_path / "runs")) == 1
    multirun(*points[:-1], "hydra.launcher.max_tokens=1")  # alone, by itself
    packed = [run["cost"]["packed_runs"] for _, run in results.scan(tmp_path / "runs")]
    assert packed == [2, 2, 2, 2] and not plans(tmp_path / "runs")


def test_a_diverged_point_is_a_failed_trial_of_optuna(sweep_overrides: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    points = ["sweep=optuna", "method=lora", "train.lr=choice(1e-3,1e30)", "hydra.sweeper.n_trials=3"]
    places = [f"results_dir={tmp_path / 'runs'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    command = [sys.executable, "-m", "symlora", "train", "-m", *sweep_overrides, *points, *places]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "Diverged" in done.stderr, done.stderr
    runs = {run["config"]["train"]["lr"]: run for _, run in results.scan(tmp_path / "runs")}
    assert {lr: run["status"] for lr, run in runs.items()} == {1e-3: "finished", 1e30: "failed"}
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert found["best_params"] == {"train.lr": 1e-3} and found["best_value"] == runs[1e-3]["score"]["value"]
