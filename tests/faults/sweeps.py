"""Kill sweeps with all their worker processes, and start several processes on one sweep."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faults.kills import subject
from faults.places import PACKED, Place
from faults.points import append_lines, checkpoints_at_once, planted
from faults.runs import Watch, left_behind, results_of
from faults.session import Session

SWEEP = ("method=symlora,lora", "seed=0,1", "train.epochs=2", "hydra.launcher.workers=2")
# In each pack one run diverges beside one that does not.
DIVERGING = ("method=symlora,lora", "train.lr=5e-3,1e30", "train.epochs=2", "hydra.launcher.workers=2")
WORKERS = ("-m", "hydra/launcher=packed", "hydra.launcher.inner=joblib", "hydra.launcher.inner_config.n_jobs=2")
PATIENCE = 600.0


def killed_with_workers(place: Place, session: Session, kills: int) -> None:
    """Kill a sweep's launching process and its two workers at once, again and again; then let it end."""
    what = subject(place, "sweeps", (*PACKED, *SWEEP))
    here, said, before = place.below("sweep"), shlex.join((*WORKERS, *SWEEP)), session.kills["sweeps"]
    watch = Watch(here.runs)
    for _ in range(kills):
        process = _start(here)
        _wait_for_life(here.runs, process, 3 * what.seconds)  # it imports torch and the others in three processes
        time.sleep(session.rng.uniform(0.0, 3.0))
        if process.poll() is None:
            session.tried(session.kills, what.kind)
        _kill_group(process)
        said += " killed"
        watch.look()
    if kills and session.kills["sweeps"] == before:
        session.add("did not end well", said, ["the sweep ended before every moment that it was to be killed at"])
    process = _start(here)
    if process.wait(PATIENCE):
        printed = (here.folder / "printed").read_text()[-600:]
        session.add("did not end well", said, [f"ended with {process.returncode}: {printed}"])
    _kill_group(process)
    session.compare(watch, what.expected, said)
    here.clear()


def _start(place: Place) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "symlora", *place.command(*WORKERS, *SWEEP, "checkpoint.seconds=0")]
    with open(place.folder / "printed", "wb") as file:
        return subprocess.Popen(
            command, cwd=place.folder, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )


def _wait_for_life(root: Path, process: subprocess.Popen[bytes], most: float) -> None:
    """Wait until a worker has begun to write, so many seconds at most."""
    until = time.monotonic() + most
    while time.monotonic() < until and process.poll() is None:
        if any(root.glob("demo/tiny/*/mrpc/*/.seed-*")):
            break
        time.sleep(0.1)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to a session that was started here, until none of it is left."""
    while True:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        process.poll()
        time.sleep(0.05)
    process.wait()


def several_processes(
    place: Place, session: Session, count: int, sweep: Sequence[str] = SWEEP, kill_first_after: float | None = None
) -> None:
    """Start a sweep of four runs `count` times at once: each is trained to its end once, and all processes end well.

    A run that diverges is a result too: whoever meets its failure does not train it again, and says so at the end.
    """
    here, diverges = place.below("several"), sweep == DIVERGING
    log, said = here.folder / "trainings", f"{count} processes: {shlex.join((*PACKED, *sweep))}"
    plant = planted(checkpoints_at_once, partial(log_trainings, log))
    children = [here.train(*PACKED, *sweep, "checkpoint.seconds=0.2", plant=plant) for _ in range(count)]
    if kill_first_after is not None:
        said += ", the first killed"
        session.kills["sweeps"] += children.pop(0).wait(kill_first_after).killed
    for ended in [child.wait() for child in children]:
        session.check_end(ended, said, [int(diverges)])
        if ("Diverged" in ended.err) != diverges:
            session.add("did not end well", said, [f"what diverges is not told: {ended.brief}"])
    trained = Counter(log.read_text().split("\n")[:-1]) if log.is_file() else Counter()
    twice = [f"{run} was trained {times} times" for run, times in trained.items() if times > 1]
    session.add("counted twice", said, twice)
    found = Counter(run.get("status") for run in results_of(here.runs).values())
    wanted = {"finished": 2, "failed": 2} if diverges else {"finished": 4}
    if found != wanted:
        session.add("lost", said, [f"{dict(found)} runs stand at the end, not {wanted}"])
    session.add("left behind", said, left_behind(here.runs))
    here.clear()


def log_trainings(log: Path) -> None:
    """Add a line for each run that is trained to its end."""
    from symlora.runner import run
    from symlora.store.folder import run_folder

    real = run.__dict__["fit_pack"]

    def logged(configs: Sequence[Any], *arguments: object, **named: object) -> object:
        fits = real(configs, *arguments, **named)
        append_lines(log, *(str(run_folder(config)) for config in configs))
        return fits

    run.__dict__["fit_pack"] = logged
