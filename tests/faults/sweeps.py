"""Start several processes on one sweep."""

import shlex
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faults.places import PACKED, Place
from faults.points import append_lines, checkpoints_at_once, planted
from faults.runs import left_behind, results_of
from faults.session import Session

SWEEP = ("method=symlora,lora", "seed=0,1", "train.epochs=2", "hydra.launcher.workers=2")
# In each pack one run diverges next to one that does not.
DIVERGING = ("method=symlora,lora", "train.lr=5e-3,1e30", "train.epochs=2", "hydra.launcher.workers=2")


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
