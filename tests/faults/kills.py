"""Single runs, packs and sweeps that are killed again and again, and end as if nothing had happened."""

import random
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from faults.children import Ended, Plant
from faults.places import Place
from faults.points import checkpoints_at_once, killed_at, killed_once_saved, listed, planted
from faults.runs import Watch, left_behind, results_of, trained_anew

STOP_SECONDS = 10.0  # that a stop may take (symlora.training.interrupt)
ROUNDS = 5  # more than kills are wanted: a command may end before its moment
PACKED = ("-m", "hydra/launcher=packed", "hydra.launcher.inner=basic")
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
SHORT = ("train.epochs=1", "data.demo_rows={train: 32, validation: 16, test: 4}", "checkpoint.seconds=0")
POINTED = (("method=symlora", *SHORT), (*PACKED, "method=lora", "seed=0,1,2", *SHORT))


@dataclass
class Tally:
    """What was tried, and what went wrong: a sentence each, with the command.

    Attributes:
        kills: By kind.
        ends: Runs that were compared at the end.
        resumed: How many of these had been taken up from a checkpoint.
        anew: Runs that were not, although one stood there.
    """

    kills: dict[str, int] = field(default_factory=lambda: {"single runs": 0, "packs": 0, "sweeps": 0})
    ends: int = 0
    resumed: int = 0
    anew: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def made(self) -> int:
        """Kills, of every kind."""
        return sum(self.kills.values())

    def too_little(self, asked: int) -> list[str]:
        """What these kills do not show, a sentence each."""
        found = []
        if self.made() < asked:
            found.append(f"{self.made()} of {asked} kills were made: the commands ended before their moments")
        if self.made() and not self.resumed:
            found.append(f"{self.made()} kills, and no run was taken up from a checkpoint: resuming was not tried")
        return found

    def end(self, watch: Watch, expected: dict[str, dict[str, Any]], said: str) -> None:
        """Compares the results of one command that was killed and started again.

        Equal results do not say that a checkpoint was used: a run that starts anew has the same bits. So those that
        were taken up are counted.
        """
        self.differ += [f"{wrong}  [{said}]" for wrong in watch.end(expected)]
        self.lost += [f"{wrong}  [{said}]" for wrong in watch.lost]
        self.twice += [f"{wrong}  [{said}]" for wrong in watch.twice]
        self.left += [f"{path}  [{said}]" for path in left_behind(watch.root)]
        from symlora.store.folder import scan

        for _, record in scan(watch.root):
            self.ends += 1
            self.resumed += bool(record.get("cost", {}).get("restarts"))


@dataclass(frozen=True)
class Subject:
    """A command, and what it leaves behind when nothing stops it.

    Attributes:
        kind: Key of `Tally.kills`.
        overrides: The command.
        expected: `results_of` its results folder.
        seconds: It took.
    """

    kind: str
    overrides: Sequence[str]
    expected: dict[str, dict[str, Any]]
    seconds: float


def subject(place: Place, kind: str, overrides: Sequence[str], plant: Plant = checkpoints_at_once) -> Subject:
    """Runs a command that nothing stops.

    Raises:
        RuntimeError: It failed all the same.
    """
    here = place.below("reference")
    ended = here.train(*overrides, plant=plant).wait()
    if ended.status:
        raise RuntimeError(f"{shlex.join(overrides)} ended with {ended.status}:\n{ended.printed}")
    found = Subject(kind, overrides, results_of(here.runs), ended.seconds)
    here.clear()
    return found


def moments(rng: random.Random, seconds: float) -> Iterator[float]:
    """When to kill: first anywhere in the run's life; then, as its start-up takes a third, mostly behind that."""
    yield rng.uniform(0.0, 1.0) * seconds
    while True:
        yield rng.uniform(0.25, 0.95) * seconds


def at_random(
    place: Place, what: Subject, rng: random.Random, tally: Tally, most: int, tried: Callable[[], object]
) -> int:
    """Kills a command up to `most` times at random moments, and lets it end; how many kills there were."""
    here = place.below("killed")
    watch = Watch(here.runs)
    said = shlex.join(what.overrides)
    kills = 0
    for _, moment in zip(range(most), moments(rng, what.seconds), strict=False):
        ended = here.train(*what.overrides, plant=checkpoints_at_once).wait(moment)
        said += f" killed after {moment:.2f} s"
        if not ended.killed:
            break
        kills += 1
        watch.look()
        tried()
    last(here, what, tally, watch, said)
    tally.kills[what.kind] += kills
    return kills


def reach(
    place: Place, what: Subject, rng: random.Random, tally: Tally, wanted: int, tried: Callable[[], object]
) -> None:
    """Kills at random moments until so many kills were made, or so many starts ended before theirs that it gives up."""
    for _ in range(wanted + ROUNDS):
        if wanted <= 0:
            break
        wanted -= at_random(place, what, rng, tally, min(4, wanted), tried)


def once_saved(place: Place, what: Subject, tally: Tally, tried: Callable[[], object]) -> None:
    """Kills a command as soon as a checkpoint stands; the next start must take every run up from it."""
    here = place.below("saved")
    watch = Watch(here.runs)
    said = f"{shlex.join(what.overrides)} killed once a checkpoint was saved"
    ended = here.train(*what.overrides, plant=planted(checkpoints_at_once, killed_once_saved(here.runs))).wait()
    if ended.killed:
        tally.kills[what.kind] += 1
        tried()
    watch.look()
    last(here, what, tally, watch, said, taken_up=True)


def last(here: Place, what: Subject, tally: Tally, watch: Watch, said: str, *, taken_up: bool = False) -> None:
    """The start that nothing stops, and the comparison; `taken_up`: it must go on from a checkpoint."""
    ended = here.train(*what.overrides, plant=checkpoints_at_once).wait()
    if ended.status:
        tally.other.append(f"ended with {ended.status}: {_brief(ended)}  [{said}]")
    if taken_up:
        tally.anew += [f"{run}  [{said}]" for run in trained_anew(here.runs)]
    tally.end(watch, what.expected, said)
    here.clear()


def stopped(place: Place, what: Subject, number: int, rng: random.Random, tally: Tally) -> None:
    """Sends SIGINT or SIGTERM at a random moment: the command ends within 10 s, and the next start ends as ever."""
    here = place.below("stopped")
    watch = Watch(here.runs)
    said = f"{shlex.join(what.overrides)} stopped by signal {number}"
    child = here.train(*what.overrides, plant=checkpoints_at_once)
    if child.lives(rng.uniform(0.2, 0.9) * what.seconds):
        child.interrupt(number)
        sent = time.monotonic()
        ended = child.wait()
        took = time.monotonic() - sent
        if ended.status not in (0, 128 + number) or took > STOP_SECONDS or "Traceback" in ended.err:
            tally.other.append(f"status {ended.status} after {took:.1f} s: {_brief(ended)}  [{said}]")
    last(here, what, tally, watch, said)


def points_of(place: Place, what: Subject) -> list[str]:
    """Names of the calls that change the disk, in their order."""
    here = place.below("points")
    file = here.folder / "calls"
    here.train(*what.overrides, plant=planted(checkpoints_at_once, listed(file, here.runs))).wait()
    names = file.read_text().split()
    here.clear()
    return names


def at_point(place: Place, what: Subject, point: int, tally: Tally, tried: Callable[[], object], again: int = 0) -> int:
    """Kills a command before one call, and the next start before another (0: does not); how many kills there were."""
    here = place.below("pointed")
    watch = Watch(here.runs)
    said = shlex.join(what.overrides)
    kills = 0
    for number in filter(None, (point, again)):
        ended = here.train(*what.overrides, plant=planted(checkpoints_at_once, killed_at(number, here.runs))).wait()
        said += f" killed at call {number}"
        kills += ended.killed
        watch.look()
        if not ended.killed:
            break
        tried()
    last(here, what, tally, watch, said)
    tally.kills[what.kind] += kills
    return kills


def _brief(ended: Ended) -> str:
    return " ".join(ended.err.split())[-600:]


def kind_of(overrides: Sequence[str]) -> str:
    """Key of `Tally.kills`."""
    return "packs" if "-m" in overrides else "single runs"


def all_kills(place: Place, budget: int, rng: random.Random, tally: Tally, tried: Callable[[], object]) -> None:
    """Spreads a number of kills: half at random moments of single runs and packs, a third at points, else sweeps."""
    shares = ((SINGLE, "single runs", 0.3), (PACKS, "packs", 0.2), (SWEEPS, "sweeps", 0.15))
    for commands, kind, share in shares:
        for command in commands:
            what = subject(place, kind, command)
            reach(place, what, rng, tally, max(1, round(share * budget / len(commands))), tried)
            for number in (signal.SIGINT, signal.SIGTERM) if budget >= 50 else ():
                stopped(place, what, number, rng, tally)
    for pointed in POINTED:
        what = subject(place, kind_of(pointed), pointed)
        once_saved(place, what, tally, tried)
        names = points_of(place, what)
        wanted = max(2, round(0.35 * budget / len(POINTED)))
        chosen = spread(len(names), wanted, rng)
        for point in chosen:
            again = rng.randint(1, len(names)) if rng.random() < 0.3 else 0
            at_point(place, what, point, tally, tried, again)
    if tally.made() < budget:  # ends that came before their moments
        reach(place, subject(place, "single runs", SINGLE[0]), rng, tally, budget - tally.made(), tried)


def spread(count: int, wanted: int, rng: random.Random) -> list[int]:
    """Up to `wanted` of the numbers 1 to count: one of each equal stretch."""
    if wanted >= count:
        return list(range(1, count + 1))
    return [rng.randint(1 + i * count // wanted, (i + 1) * count // wanted) for i in range(wanted)]
