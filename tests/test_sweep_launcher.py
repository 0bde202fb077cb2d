"""Multiruns through every launcher: the same runs, each with its own folder and outcome. About half a minute.

The encoder is a small BERT with random weights and MiniLM's tokenizer, the data are the demo's sentences.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from conftest import ROOT, outcomes, run_program
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from test_signals import started

from symlora.config.compose import CONFIG_DIR, resolve
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


def completed(jobs: Sequence[JobReturn]) -> list[bool]:
    return [job.status == JobStatus.COMPLETED for job in jobs]


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
        assert all(completed(returns)), [job._return_value for job in returns]
        records = [results.finished_record(resolve(job.cfg)) for job in returns]
        assert [job._return_value for job in returns] == [record and record["score"]["value"] for record in records]
    basic = found["basic"]
    assert len(basic) == 4
    for name, runs in found.items():
        assert runs and runs.keys() <= basic.keys(), name
        for folder, (status, selections, losses) in runs.items():
            assert status == "finished"
            assert selections == basic[folder][1], (name, folder)
            assert losses == pytest.approx(basic[folder][2], rel=1e-5), (name, folder)


def test_outcomes_come_in_order_and_failures_stop_nothing(
    multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    returns = multirun(*BASIC, "method=symlora", "train.lr=1e30,1e-3,-1,2e-3", "seed=0")  # -1 is refused
    assert completed(returns) == [False, True, False, True]
    given = [override for job in returns for override in job.overrides or [] if override.startswith("train.lr")]
    assert given == [f"train.lr={rate}" for rate in ("1e+30", "0.001", "-1", "0.002")]
    assert isinstance(returns[0]._return_value, CompactHydraException) and "Diverged" in str(returns[0]._return_value)
    assert "train.lr=-1" in str(returns[2]._return_value)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(told) == 2 and "run.json" in told[0] and told[0].endswith("[train.lr=1e+30]")
    statuses = sorted(run["status"] for _, run in results.scan(tmp_path / "runs"))
    assert statuses == ["failed", "finished", "finished"]

    times = written(tmp_path / "runs")
    again = multirun(*BASIC, "method=symlora", "train.lr=1e-3,2e-3,4e-3", "seed=0")
    printed = capsys.readouterr().err
    assert "2 of 3 runs are finished already" in printed and "1 run in 1 pack" in printed
    assert [job._return_value for job in again[:2]] == [returns[1]._return_value, returns[3]._return_value]
    statuses = sorted(run["status"] for _, run in results.scan(tmp_path / "runs"))
    assert statuses == ["failed", *["finished"] * 3] and times.items() <= written(tmp_path / "runs").items()


def written(root: Path) -> dict[Path, int]:
    """When each run was written."""
    return {folder: (folder / "run.json").stat().st_mtime_ns for folder, _ in results.scan(root)}


def test_a_pack_that_breaks_leaves_the_others(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import symlora.runner.run
    from symlora.model.packable import CannotPack

    real = symlora.runner.run.run_pack

    def breaking(configs: Sequence[Any], reporters: Sequence[Any], began: float) -> Any:
        if configs[0].method.name == "lora":
            raise RuntimeError("no memory")
        if len(configs) > 1 and configs[0].method.name == "head":
            raise CannotPack("these runs cannot share a pass")
        return real(configs, reporters, began)

    monkeypatch.setattr("symlora.runner.run.run_pack", breaking)
    returns = multirun(*BASIC, "method=lora,symlora,head", "seed=0,1")
    assert completed(returns) == [False, False, True, True, True, True]
    assert "no memory" in str(returns[0]._return_value)


def test_a_lost_worker_loses_its_own_runs_alone(multirun: Multirun, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(task: worker.PackTask, cfg: Any) -> Any:
        if HydraConfig.get().job.num == 1:
            raise MemoryError("killed")
        return real(task, cfg)

    real = worker.PackTask.__call__
    monkeypatch.setattr(worker.PackTask, "__call__", lost)
    returns = multirun(*BASIC, "method=lora,symlora", "seed=0")
    assert completed(returns) == [True, False]
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


def test_a_lost_slurm_job_is_not_taken_for_the_end_of_the_others(
    multirun: Multirun, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    name = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    lost = Mock(side_effect=RuntimeError("Job 17_0 (task: 0) has not produced any output (state: NODE_FAIL)"))
    monkeypatch.setattr(Plugins.instance().class_name_to_class[name], "launch", lost)
    slurm = ("hydra/launcher=packed", "hydra.launcher.inner=submitit_slurm", "hydra.launcher.max_tokens=1")
    (one, other) = multirun(*slurm, "seed=0,1")
    for job in (one, other):
        assert "NODE_FAIL" in str(job._return_value) and "`squeue` lists it" in str(job._return_value)


def test_jobs_that_are_one_run_are_trained_once(multirun: Multirun, tmp_path: Path) -> None:
    returns = multirun(*BASIC, "method=lora", "seed=0", "logger.group=a,b")
    assert completed(returns) == [True, True]
    assert returns[0]._return_value == returns[1]._return_value and len(list(results.scan(tmp_path / "runs"))) == 1


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("hydra.launcher.inner_config.n_jobs=2", r"inner_config.*n_jobs"),
        ("hydra.launcher.workers=-1", r"workers=-1: give a number of at least 1"),
        ("hydra.job.chdir=true", r"chdir=true"),
    ],
)
def test_a_wrong_setting_of_the_launcher_is_one_message(setting: str, says: str, multirun: Multirun) -> None:
    with pytest.raises(CompactHydraException, match=says):
        multirun(*BASIC, "method=lora", setting, "seed=0")


def test_a_killed_sweep_ends_its_workers_and_does_only_what_is_missing(
    sweep_overrides: list[str], multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, points = tmp_path / "runs", ["method=lora", "seed=0,1,2,3", "train.epochs=60"]
    packs = ["hydra/launcher=packed", "hydra.launcher.max_tokens=1"]  # one run a pack
    workers = ["hydra.launcher.inner=joblib", "hydra.launcher.workers=2"]
    words = ("train", "-m", *sweep_overrides, *points, *packs, *workers, f"results_dir={runs}")
    with started(tmp_path, *words) as program:
        program.wait_for(lambda: any(results.scan(runs)))
        program.ends(signal.SIGKILL)
    done = written(runs)
    assert 1 <= len(done) < 4
    assert all(completed(multirun(*points, *packs, "hydra.launcher.inner=basic")))
    printed = capsys.readouterr().err
    assert f"{len(done)} of 4 runs are finished already" in printed and f"{4 - len(done)} run" in printed
    assert done.items() <= written(runs).items() and len(written(runs)) == 4
    assert not list(runs.rglob(".seed-*"))


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
    assert all(completed(multirun(*points, "seed=2,3,1,0")))
    assert "3 runs continue in the packs of a stopped sweep" in capsys.readouterr().err
    found = outcomes(tmp_path / "runs")
    assert len(found) == 4 and outcomes(tmp_path / "reference").items() <= found.items()
    restarts = {folder.name: run["cost"]["restarts"] for folder, run in results.scan(tmp_path / "runs")}
    assert restarts == {"seed-0": 1, "seed-1": 1, "seed-2": 1, "seed-3": 0} and not headers(tmp_path / "runs")


def test_a_run_of_another_process_is_waited_for(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other process gives up; the run is then trained here, once."""
    points = [*BASIC, "method=lora", "seed=0,1"]
    root, other = tmp_path / "runs", tmp_path / "other"
    multirun(*points[:-1], "seed=0", f"results_dir={other}")
    (folder,) = outcomes(other)
    with ExitStack() as stack:
        stack.enter_context(locked(root, root / folder))
        monkeypatch.setattr("symlora.sweep.launcher.holder", lambda *_: stack.close())  # while it waits
        returns = multirun(*points)
    assert all(completed(returns))
    assert "1 run is being trained by other processes; waiting" in capsys.readouterr().err
    assert len(list(results.scan(root))) == 2


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
    command = (sys.executable, "-m", "symlora", "train", "-m", *sweep_overrides, *points, *places)
    assert "Diverged" in run_program(*command).stderr
    runs = {run["config"]["train"]["lr"]: run for _, run in results.scan(tmp_path / "runs")}
    assert {lr: run["status"] for lr, run in runs.items()} == {1e-3: "finished", 1e30: "failed"}
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert found["best_params"] == {"train.lr": 1e-3} and found["best_value"] == runs[1e-3]["score"]["value"]
