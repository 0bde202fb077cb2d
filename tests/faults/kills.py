"""Kill single runs, packs and sweeps; they must end as if nothing had happened."""

import shlex
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import Any

from faults.children import Plant
from faults.places import PACKED, SHORT, Place
from faults.points import checkpoints_at_once, killed_at, killed_once_saved, listed, planted
from faults.runs import Watch, results_of, trained_anew
from faults.session import Session

STOP_SECONDS = 10.0  # that a stop may take (symlora.training.interrupt)
ROUNDS = 5  # more than kills are wanted: a command may end before its moment
SINGLE = (
    ("method=symlora", "checkpoint.seconds=0.2"),
    ("method=lora", "checkpoint.seconds=0"),
    ("method=symlora", "checkpoint.seconds=0.05", "task=stsb", "protocol.held_out=0.25", "protocol.selection=held_out"),
    ("method=head", "checkpoint.seconds=0.1"),
)
PACKS = (
    (*PACKED, "method=symlora", "train.lr=1e-3,5e-3,2e-2", "checkpoint.seconds=0.2"),
    (*PACKED, "method=lora", "seed=0,1,2", "checkpoint.seconds=0.1", "train.model_dropout=0"),
)
SWEEPS = ((*PACKED, "method=symlora,lora", "seed=0,1", "train.epochs=2", "checkpoint.seconds=0.2"),)
SHARES = ((SINGLE, "single runs", 0.3), (PACKS, "packs", 0.2), (SWEEPS, "sweeps", 0.15))
POINTED = {"single runs": ("method=symlora", *SHORT), "packs": (*PACKED, "method=lora", "seed=0,1,2", *SHORT)}

Kill = tuple[str, Callable[[Path], Plant] | None, float | None]
"""How it is described; what plants it, given the results folder; or after how many seconds it comes."""


@dataclass(frozen=True)
class Subject:
    """Hold a command, and what it leaves behind when nothing stops it."""

    kind: str  # key of `Session.kills`
    overrides: Sequence[str]
    expected: dict[str, dict[str, Any]]  # `results_of` its results folder
    seconds: float


def subject(place: Place, kind: str, overrides: Sequence[str]) -> Subject:
    here = place.below("reference")
    ended = here.train(*overrides, plant=checkpoints_at_once).wait()
    if ended.status:
        raise RuntimeError(f"{shlex.join(overrides)} ended with {ended.status}:\n{ended.printed}")
    found = Subject(kind, overrides, results_of(here.runs), ended.seconds)
    here.clear()
    return found


def killed(place: Place, session: Session, what: Subject, kills: Iterable[Kill], *, taken_up: bool = False) -> int:
    """Kill one start after another, then let the command end, from a checkpoint if `taken_up`; how many kills."""
    here, said, made = place.below("killed"), shlex.join(what.overrides), 0
    watch = Watch(here.runs)
    for how, plant, after in kills:
        fault = planted(checkpoints_at_once, plant and plant(here.runs))
        ended = here.train(*what.overrides, plant=fault).wait(after)
        said += f" killed {how}"
        watch.look()
        if not ended.killed:
            break
        made += 1
        session.tried(session.kills, what.kind)
    last(here, session, what, watch, said, taken_up=taken_up)
    return made


def last(here: Place, session: Session, what: Subject, watch: Watch, said: str, *, taken_up: bool = False) -> None:
    session.check_end(here.train(*what.overrides, plant=checkpoints_at_once).wait(), said)
    if taken_up:
        session.add("trained anew beside a checkpoint", said, trained_anew(here.runs))
    session.compare(watch, what.expected, said)
    here.clear()


def reach(place: Place, session: Session, what: Subject, wanted: int) -> None:
    """Kill at random moments until so many kills were made, the first anywhere, the others mostly after start-up.

    A start may end before its moment: then there is another, ROUNDS times at most.
    """
    for _ in range(wanted + ROUNDS):
        if wanted <= 0:
            break
        shares = chain([(0.0, 1.0)], repeat((0.25, 0.95), min(3, wanted - 1)))
        moments = [session.rng.uniform(*share) * what.seconds for share in shares]
        wanted -= killed(place, session, what, [(f"after {moment:.2f} s", None, moment) for moment in moments])


def once_saved(place: Place, session: Session, what: Subject) -> None:
    """Kill a command as soon as a checkpoint stands: the next start must take every run up from it."""
    killed(place, session, what, [("once a checkpoint was saved", killed_once_saved, None)], taken_up=True)


def at_points(place: Place, session: Session, what: Subject, *points: int) -> None:
    """Kill a command before one call, and the next starts before others."""
    killed(place, session, what, [(f"at call {point}", partial(killed_at, point), None) for point in points])


def points_of(place: Place, what: Subject) -> list[str]:
    here = place.below("points")
    file = here.folder / "calls"
    here.train(*what.overrides, plant=planted(checkpoints_at_once, listed(file, here.runs))).wait()
    names = file.read_text().split()
    here.clear()
    return names


def stopped(place: Place, session: Session, what: Subject, number: int) -> None:
    """Stop a command by a signal at a random moment: it must end in time."""
    here, said = place.below("stopped"), f"{shlex.join(what.overrides)} stopped by signal {number}"
    watch = Watch(here.runs)
    child = here.train(*what.overrides, plant=checkpoints_at_once)
    if child.lives(session.rng.uniform(0.2, 0.9) * what.seconds):
        child.interrupt(number)
        late = child.lives(STOP_SECONDS)
        session.check_end(child.wait(), said, () if late else (0, 128 + number))
    last(here, session, what, watch, said)


def all_kills(place: Place, session: Session, budget: int) -> None:
    """Spread the kills: two thirds at random moments, a third at points."""
    for commands, kind, share in SHARES:
        for command in commands:
            what = subject(place, kind, command)
            reach(place, session, what, max(1, round(share * budget / len(commands))))
            for number in (signal.SIGINT, signal.SIGTERM) if budget >= 50 else ():
                stopped(place, session, what, number)
    for kind, pointed in POINTED.items():
        what, rng = subject(place, kind, pointed), session.rng
        once_saved(place, session, what)
        count = len(points_of(place, what))
        for point in spread(count, max(2, round(0.35 * budget / len(POINTED))), rng):
            at_points(place, session, what, point, *([rng.randint(1, count)] if rng.random() < 0.3 else []))
    if (missing := budget - session.kills.total()) > 0:  # ends that came before their moments
        reach(place, session, subject(place, "single runs", SINGLE[0]), missing)


def spread(count: int, wanted: int, rng: Random) -> list[int]:
    """Choose up to `wanted` of the numbers 1 to count, one of each equal stretch."""
    wanted = min(wanted, count)
    return [rng.randint(1 + i * count // wanted, (i + 1) * count // wanted) for i in range(wanted)]
