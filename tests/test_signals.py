"""Programs that are stopped as their users stop them: exit codes, what they say, what is left running, what goes on."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from conftest import ROOT

from symlora.store.folder import scan
from symlora.store.locks import holder
from symlora.training.checkpoint_files import headers
from symlora.training.interrupt import SWEEP_PATIENCE, Stopped

# Runs of a demo, each in a pack of its own, in two workers.
FEW = (
    *("task=mrpc", "method=lora", "data.demo_rows={train: 160, validation: 40, test: 10}"),
    *("hydra.launcher.inner=joblib", "hydra.launcher.workers=2", "hydra.launcher.max_tokens=1"),
)
Found = TypeVar("Found")
SECONDS = 20.0  # that a stop may take here: twice what is promised, for a machine that does other things too


def _listen() -> None:
    """Processes in the background of a shell, or under nohup, ignore these, and their children do."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Program:
    """The command `symlora` in a session of its own, as a terminal would start it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._printed = folder / "printed"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # three quarters of a start would be parsing
        environment["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"  # before installed packages, of which this may be one
        with open(self._printed, "w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "symlora", *words],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_listen,
            )

    def wait_for(self, happened: Callable[[], Found], seconds: float = 120.0) -> Found:
        """Wait until something has happened while it runs, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := happened()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.printed()
            time.sleep(0.02)
        return found

    def ends(self, number: int, *, everyone: bool = False, times: int = 1) -> float:
        """Sends a signal, to all its processes as Ctrl-C does or to it alone; seconds until nothing of it runs."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        began = time.monotonic()
        for _ in range(times):
            if everyone:
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)
            time.sleep(0.5)  # two at once are one
        self.process.wait(SECONDS)
        _, left = psutil.wait_procs(family[1:], SECONDS)
        assert not left, f"{left} still run"
        return time.monotonic() - began

    def printed(self) -> str:
        return self._printed.read_text()


@contextmanager
def started(folder: Path, *words: str) -> Iterator[Program]:
    """A program of which nothing outlives the test."""
    program = Program(folder, *words)
    try:
        yield program
    finally:
        with suppress(ProcessLookupError):  # there is none left
            os.killpg(program.process.pid, signal.SIGKILL)
        program.process.wait()


@pytest.mark.parametrize("command", ["train", "demo", "study"])
def test_ctrl_c_among_the_imports_is_an_exit_code(command: str, tmp_path: Path) -> None:
    """Hydra takes long. This one makes another error of what is raised in it, as transformers does."""
    (tmp_path / "hydra.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except BaseException:\n    raise ImportError('interrupted') from None\n"
    )
    with started(tmp_path, command) as program:
        program.process.wait(SECONDS)
        assert program.process.returncode == 130
        assert not program.printed()


def test_a_stop_that_nobody_catches_is_an_exit_code(tmp_path: Path) -> None:
    load = "import os; from symlora.training.interrupt import stop_at_once"
    code = load + "; stop_at_once(); os.kill(os.getpid(), {})"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        done = subprocess.run(
            [sys.executable, "-c", code.format(int(number))], cwd=ROOT, capture_output=True, preexec_fn=_listen
        )
        assert (done.returncode, done.stderr) == (128 + number, b"")
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM)))  # as a pool's worker sends it
    assert (stopped.signal, stopped.code, stopped.exit_code) == (signal.SIGTERM, 143, 143)


def test_a_stopped_demo_leaves_nothing_running_and_goes_on(minilm_dir: Path, tmp_path: Path) -> None:
    """SIGTERM while two of three runs train; then Ctrl-C while the third does, and a worker has nothing to do."""
    runs = tmp_path / "runs"

    def stopped(number: int, finished: int, training: int, *, everyone: bool) -> None:
        """Sends a signal when so many runs are finished and so many have begun."""
        with started(tmp_path, "demo", "--results-dir", str(runs), *FEW, "seed=0,1,2") as program:
            program.wait_for(lambda: (len(list(scan(runs))), len(list(runs.rglob(".seed-*")))) == (finished, training))
            assert program.ends(number, everyone=everyone) < SECONDS
        assert program.process.returncode == 128 + number, program.printed()
        assert "Finished runs are kept; the same command resumes" in program.printed()
        assert "Traceback" not in program.printed() and program.printed().count("Stopping") == 1
        assert [header.trained for header in headers(runs)] == [False] * training and not list(runs.rglob(".seed-*"))
        assert [run["cost"]["restarts"] for _, run in scan(runs)] == [1] * finished  # they went on from checkpoints

    stopped(signal.SIGTERM, 0, 2, everyone=False)
    stopped(signal.SIGINT, 2, 1, everyone=True)


def test_workers_of_hydras_joblib_end_with_their_sweep(minilm_dir: Path, tmp_path: Path) -> None:
    runs, points = tmp_path / "runs", ("protocol=demo", "model=minilm", *FEW[:3], "train.epochs=400", "seed=0,1")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    with started(tmp_path, "train", "-m", *joblib, *points, f"results_dir={runs}") as program:
        program.wait_for(lambda: len(list(runs.rglob("*.progress"))) == 2)  # they train
        program.ends(signal.SIGTERM)
    assert len(list(headers(runs))) == 2  # of the stop: the first regular one would come after a minute


def test_a_second_ctrl_c_ends_the_demo_at_once(minilm_dir: Path, tmp_path: Path) -> None:
    """The worker does nothing at all here, and would not see a stop file."""
    runs = tmp_path / "runs"
    with started(tmp_path, "demo", "--results-dir", str(runs), *FEW, "seed=0,1") as program:
        program.wait_for(lambda: len(list(runs.rglob(".seed-*"))) == 2)  # none is importing any more
        worker = holder(runs, next(runs.rglob(".seed-0.*")).with_name("seed-0"))
        assert worker is not None
        os.kill(worker["process"], signal.SIGSTOP)
        assert program.ends(signal.SIGINT, everyone=True, times=2) < SWEEP_PATIENCE
        assert program.process.returncode == 130
        assert "Traceback" not in program.printed() and program.printed().count("Stopping") == 1


def test_nothing_is_shown_where_a_second_ctrl_c_hits_the_end() -> None:
    code = """if True:
        import os, signal, threading, time
        from symlora.training.interrupt import say_stopped, stop_at_once

        def hit():
            time.sleep(0.3)  # until the program joins this thread
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop_at_once()
        threading.Thread(target=hit).start()
        say_stopped()"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "\nStopped. Finished runs are kept; the same command resumes from the last checkpoint.\n"


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=packed", "hydra.launcher.inner=submitit_local")])
def test_a_clusters_time_limit_checkpoints_and_requeues(
    launcher: tuple[str, ...], sweep_overrides: list[str], tmp_path: Path
) -> None:
    """submitit warns a job by SIGUSR2, and its local executor starts a requeued job again, as Slurm does."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    runs, launcher = tmp_path / "runs", launcher or ("hydra/launcher=submitit_local",)
    words = ("train", "-m", *sweep_overrides, f"results_dir={runs}", "train.epochs=20", *launcher)
    with started(tmp_path, *words) as program:
        program.wait_for(lambda: any(runs.rglob(".seed-*")))
        (training,) = [folder.with_name("seed-0") for folder in runs.rglob(".seed-*")]
        trains = holder(runs, training)
        assert trains is not None
        os.kill(trains["process"], signal.SIGUSR2)
        assert program.process.wait(120) == 0, program.printed()
    assert [(run["status"], run["cost"]["restarts"]) for _, run in scan(runs)] == [("finished", 1)]
