"""Real sweeps with worker processes, killed with all of them; and several processes on one sweep."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faults.kills import PACKED, Tally
from faults.places import Place
from faults.points import checkpoints_at_once, planted
from faults.runs import Watch, left_behind, results_of

SWEEP = ("method=symlora,lora", "seed=0,1", "train.epochs=2", "hydra.launcher.workers=2")
# In each pack one run diverges beside one that does not.
DIVERGING = ("method=symlora,lora", "train.lr=5e-3,1e30", "train.epochs=2", "hydra.launcher.workers=2")
WORKERS = ("-m", "hydra/launcher=packed", "hydra.launcher.inner=joblib", "hydra.launcher.inner_config.n_jobs=2")
PATIENCE = 600.0


def killed_with_workers(
    place: Place, kills: int, rng: random.Random, tally: Tally, tried: Callable[[], object]
) -> None:
    """Kills a sweep's launching process and its two workers at once, again and again; then lets it end."""
    reference = place.below("sweep-reference")
    started = time.monotonic()
    ended = reference.train(*PACKED, *SWEEP).wait()
    assert ended.status == 0, ended.printed
    expected = results_of(reference.runs)
    reference.clear()
    here = place.below("sweep")
    watch = Watch(here.runs)
    said = shlex.join((*WORKERS, *SWEEP))
    kills_before = tally.kills["sweeps"]
    starting = 3 * (time.monotonic() - started)  # it imports torch and the others in three processes
    for _ in range(kills):
        process = _start(here)
        moment = _wait_for_life(here.runs, process, starting) + rng.uniform(0.0, 3.0)
        time.sleep(max(0.0, moment - time.monotonic()))
        if process.poll() is None:
            tally.kills["sweeps"] += 1
            tried()
        _kill_group(process)
        said += " killed"
        watch.look()
    if kills and tally.kills["sweeps"] == kills_before:
        tally.other.append(f"the sweep ended before every moment that it was to be killed at  [{said}]")
    process = _start(here)
    process.wait(PATIENCE)
    if process.returncode:
        tally.other.append(f"ended with {process.returncode}: {(here.folder / 'printed').read_text()[-600:]}  [{said}]")
    _kill_group(process)
    tally.end(watch, expected, said)
    here.clear()


def _start(place: Place) -> subprocess.Popen[bytes]:
    script = str(place.project / "scripts" / "train.py")
    with open(place.folder / "printed", "wb") as printed:
        return subprocess.Popen(
            [sys.executable, script, *place.command(*WORKERS, *SWEEP, "checkpoint.seconds=0")],
            cwd=place.folder,
            stdout=printed,
            stderr=printed,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _wait_for_life(root: Path, process: subprocess.Popen[bytes], most: float) -> float:
    """When a worker has begun to write; the time now at the latest after `most` seconds."""
    until = time.monotonic() + most
    while time.monotonic() < until and process.poll() is None:
        if any(root.glob("demo/tiny/*/mrpc/*/.seed-*")):
            break
        time.sleep(0.1)
    return time.monotonic()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a session that was started here, until none of it is left."""
    while True:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        process.poll()
        time.sleep(0.05)
    process.wait()


def several_processes(
    place: Place,
    count: int,
    tally: Tally,
    sweep: Sequence[str] = SWEEP,
    kill_first_after: float | None = None,
) -> None:
    """Starts a sweep of four runs `count` times at once: each is trained to its end once, and all processes end well.

    A run that diverges is a result too: whoever meets its failure does not train it again, and says so at the end.
    """
    here = place.below("several")
    log = here.folder / "trainings"
    said = f"{count} processes: {shlex.join((*PACKED, *sweep))}"
    plant = planted(checkpoints_at_once, partial(log_trainings, log))
    overrides: Sequence[str] = (*PACKED, *sweep, "checkpoint.seconds=0.2")
    children = [here.train(*overrides, plant=plant) for _ in range(count)]
    if kill_first_after is not None:
        said += ", the first killed"
        tally.kills["sweeps"] += children.pop(0).wait(kill_first_after).killed
    diverges = sweep == DIVERGING
    for child in children:
        ended = child.wait()
        if ended.status != int(diverges) or "Traceback" in ended.err or ("Diverged" in ended.err) != diverges:
            tally.other.append(f"ended with {ended.status}: {ended.err[-600:]}  [{said}]")
    trained = Counter(log.read_text().split("\n")[:-1]) if log.is_file() else Counter()
    tally.twice += [f"{run} was trained {times} times  [{said}]" for run, times in trained.items() if times > 1]
    _stands(here, diverges, tally, said)
    here.clear()


def _stands(here: Place, diverges: bool, tally: Tally, said: str) -> None:
    """Four runs are there at the end, half of them failed if they diverge; and nothing else."""
    found = Counter(run.get("status") for run in results_of(here.runs).values())
    wanted = {"finished": 2, "failed": 2} if diverges else {"finished": 4}
    if found != wanted:
        tally.lost.append(f"{dict(found)} runs stand at the end, not {wanted}  [{said}]")
    tally.left += [f"{path}  [{said}]" for path in left_behind(here.runs)]


def log_trainings(log: Path) -> None:
    """Adds a line for each run that is trained to its end."""
    from symlora.runner import run
    from symlora.store.folder import run_folder

    real = run.__dict__["fit_pack"]

    def logged(configs: Sequence[Any], *arguments: object, **named: object) -> object:
        fits = real(configs, *arguments, **named)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for config in configs:
            os.write(descriptor, f"{run_folder(config)}\n".encode())
        os.close(descriptor)
        return fits

    run.__dict__["fit_pack"] = logged
