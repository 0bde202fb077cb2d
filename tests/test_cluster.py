"""Sweeps on a Slurm cluster and a Ray node of this machine, which `make cluster-test` starts."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import outcomes
from test_signals import Program

from symlora.store.folder import scan
from symlora.store.locks import holder
from symlora.training.checkpoint_files import headers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

POINTS = ("method=lora", "seed=0,1", "train.epochs=60")
SETTINGS = {  # by their names in Hydra: one job at a time, so that one run is finished while the other trains
    "submitit_slurm": ("timeout_min=10", "array_parallelism=1", "signal_delay_s=90", "max_num_timeout=3"),
    "ray": ("ray.init.num_cpus=1", "ray.remote.max_retries=0"),
}


def plain(name: str) -> list[str]:
    return [f"hydra/launcher={name}", *(f"++hydra.launcher.{setting}" for setting in SETTINGS[name])]


def packed(name: str) -> list[str]:
    inner = [f"hydra.launcher.inner_config.{setting}" for setting in SETTINGS[name]]
    return ["hydra/launcher=packed", f"hydra.launcher.inner={name}", *inner]


launched = pytest.mark.parametrize("how", [plain, packed])


class Sweep:
    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self._words = [*overrides, f"results_dir={self.runs}", f"hydra.sweep.dir={folder / 'sweep'}"]
        folder.mkdir()

    def start(self, *overrides: str) -> Program:
        return Program(self.folder, "train", "-m", *self._words, *overrides)

    def ends(self, program: Program, status: int = 0) -> dict[str, Any]:
        """Wait for the end; return what the runs computed."""
        assert program.process.wait(600) == status, program.printed()
        return outcomes(self.runs)

    def held(self, program: Program, finished: int) -> psutil.Process:
        """Wait until so many runs are finished and a worker trains the next; suspend that worker."""

        def trains() -> dict[str, Any] | None:
            training = [path.with_name(path.name.split(".")[1]) for path in self.runs.rglob(".seed-*")]
            return holder(self.runs, training[0]) if training and len(list(scan(self.runs))) == finished else None

        found = program.wait_for(trains, 300)
        assert found is not None
        worker = psutil.Process(found["process"])
        worker.suspend()
        return worker


@pytest.fixture
def sweep(sweep_overrides: list[str], tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "here", sweep_overrides)


@pytest.fixture(scope="module")
def reference(sweep_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Hydra's basic launcher computes."""
    basic = Sweep(tmp_path_factory.mktemp("reference") / "basic", sweep_overrides)
    return basic.ends(basic.start(*POINTS))


def need(name: str) -> None:
    """Skip a test whose cluster cannot be had."""
    if name == "ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="Ray is not installed")
    elif shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm controller answers")


def jobs() -> list[str]:
    asked = ["squeue", "--noheader", "--states=running", "--format=%A"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()


@launched
@pytest.mark.parametrize("name", SETTINGS)
def test_a_cluster_gives_the_runs_of_the_basic_launcher(
    name: str, how: Callable[[str], list[str]], sweep: Sweep, reference: Any
) -> None:
    need(name)
    found = sweep.ends(sweep.start(*POINTS, *how(name)))
    assert len(found) == 2 and found.keys() == reference.keys()
    for folder, (status, selections, losses) in found.items():
        assert (status, selections) == reference[folder][:2]
        assert losses == pytest.approx(reference[folder][2], rel=1e-5, abs=1e-7)  # two runs of a pack: other sums


@launched
@pytest.mark.parametrize(("name", "cancelled"), [("submitit_slurm", True), ("submitit_slurm", False), ("ray", False)])
def test_after_a_cancelled_job_or_a_killed_worker_the_same_command_trains_what_is_missing(
    name: str, cancelled: bool, how: Callable[[str], list[str]], sweep: Sweep, reference: Any
) -> None:
    need(name)
    overrides = [*POINTS, *how(name), *(["hydra.launcher.max_tokens=1"] if how is packed else [])]  # one run a pack
    program = sweep.start(*overrides)
    worker = sweep.held(program, finished=1)
    if cancelled:
        subprocess.run(["scancel", *jobs()], check=True)  # which sends SIGCONT, then SIGTERM
    else:
        worker.send_signal(signal.SIGKILL)
    sweep.ends(program, 1)
    if cancelled:
        assert len(headers(sweep.runs)) == 1 and "the job was cancelled" in program.printed()
    (done,) = [folder / "run.json" for folder, _ in scan(sweep.runs)]
    before = done.stat().st_mtime_ns
    assert sweep.ends(sweep.start(*overrides)) == reference
    assert done.stat().st_mtime_ns == before  # the run that was finished is left as it is


@launched
def test_a_time_limit_of_slurm_checkpoints_and_requeues(
    how: Callable[[str], list[str]], sweep: Sweep, reference: Any
) -> None:
    need("submitit_slurm")
    program = sweep.start(*POINTS, *how("submitit_slurm"))
    sweep.held(program, finished=0)
    (job,) = jobs()
    # Slurm looks every 30 s for jobs near their end, and sends SIGCONT and SIGUSR2.
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=2"], check=True)
    program.wait_for(lambda: headers(sweep.runs))
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=10"], check=True)
    assert sweep.ends(program).keys() == reference.keys()
    assert max(run["cost"]["restarts"] for _, run in scan(sweep.runs)) == 1
