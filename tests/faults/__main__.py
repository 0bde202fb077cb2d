"""`make faults`: kills, faults of disk and clock, bad input. Exit status 1 if something is lost or unclear."""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from faults.disks import blocked_folders, full_disks, jumping_clocks
from faults.files import AGAIN, STATUS, TARGETS, Files, damaged_file, good_files, odd_tries, tries
from faults.judge import Verdicts
from faults.kills import POINTED, Tally, all_kills, at_point, once_saved, points_of, reach, subject
from faults.odd import LOCKS, odd_locks
from faults.overrides import made_up_overrides
from faults.places import Place, prepare
from faults.sweeps import DIVERGING, killed_with_workers, several_processes
from faults.tables import made_up_tables

WORKER_KILLS = 4  # each starts three processes anew
QUICK = (6, 10)  # kills and bad inputs of --quick


class Progress:
    """Says how many tries are done, and the time left."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started = self.said = time.monotonic()
        self.what = ""

    def begin(self, what: str) -> None:
        """What comes now."""
        self.what = what
        self._say()

    def tried(self) -> None:
        """After every try."""
        self.done += 1
        if time.monotonic() - self.said > 15:
            self._say()

    def _say(self) -> None:
        self.said = time.monotonic()
        spent = self.said - self.started
        left = f", about {spent * max(0, self.total - self.done) / self.done:.0f} s left" if self.done else ""
        print(f"  {self.done}/{self.total} tries, {spent:.0f} s{left}: {self.what}", file=sys.stderr, flush=True)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=120, help="default: %(default)s")
    parser.add_argument("--bad", type=int, default=240, help="bad inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments, points and damage (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few of each alone, as in `make test`")
    given = parser.parse_args()
    kills, bad = QUICK if given.quick else (given.kills, given.bad)
    folder = Path(tempfile.mkdtemp(prefix="symlora-faults-")).resolve()
    try:
        print("  importing everything once", file=sys.stderr, flush=True)
        place = prepare(folder, quick=given.quick)
        started = time.monotonic()
        tally, verdicts = Tally(), Verdicts()
        progress = Progress(kills + bad)
        rng = random.Random(given.seed)
        if given.quick:
            few(place, rng, tally, verdicts, progress)
        elif kills:
            kill(place, kills, rng, tally, progress)
        if bad and not given.quick:
            feed(place, bad, rng, tally, verdicts, progress)
        print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return say(tally, verdicts, kills, bad)


def few(place: Place, rng: random.Random, tally: Tally, verdicts: Verdicts, progress: Progress) -> None:
    """Some kills of a single run, a full disk, settings, a run folder's damaged files."""
    what = subject(place, "single runs", POINTED[0])
    reach(place, what, rng, tally, 2, progress.tried)
    once_saved(place, what, tally, progress.tried)
    names = points_of(place, what)
    for point in (len(names) // 2, names.index("rename") + 1, len(names)):
        at_point(place, what, point, tally, progress.tried)
    made_up_overrides(place, 4, verdicts, progress.tried)
    files = good_files(place, quick=True)
    for target in TARGETS[:2]:
        for version in range(3):
            damaged_file(files, target, AGAIN, rng, verdicts, version)
            progress.tried()


def kill(place: Place, count: int, rng: random.Random, tally: Tally, progress: Progress) -> None:
    """All kills."""
    workers = min(WORKER_KILLS, count // 10)
    progress.begin("kills of single runs, packs and sweeps")
    all_kills(place, count - workers, rng, tally, progress.tried)
    progress.begin("several processes on one sweep")
    several_processes(place, 2, tally, DIVERGING)
    several_processes(place, 8, tally)
    several_processes(place, 4, tally, kill_first_after=3.0)
    if workers:
        progress.begin("sweeps with worker processes")
        killed_with_workers(place, workers, rng, tally, progress.tried)


def feed(place: Place, count: int, rng: random.Random, tally: Tally, verdicts: Verdicts, progress: Progress) -> None:
    """All bad input: damaged files a half, settings and data files most of the rest, then disks and clocks."""
    progress.begin("full disks, clocks that jump")
    full_disks(place, round(0.1 * count), rng, verdicts, tally, progress.tried)
    blocked_folders(place, verdicts, progress.tried)
    jumping_clocks(place, 5 if count > 50 else 1, verdicts, tally, progress.tried)
    progress.begin("made-up settings")
    made_up_overrides(place, round(0.25 * count), verdicts, progress.tried)
    progress.begin("made-up data files")
    made_up_tables(place, max(1, round(0.12 * count)), verdicts, progress.tried)
    progress.begin("damaged files")
    files = good_files(place)
    odd_locks(files.copied("locks"), STATUS.arguments, min(len(LOCKS), count // 12), verdicts, progress.tried)
    odd(files, round(0.4 * count), rng, verdicts, progress)
    everything = list(tries())
    wanted = max(1, count - sum(verdicts.tried.values()))
    for number in range(wanted):  # spread over all of them, whatever their number
        target, command, version = everything[(number * len(everything) // wanted) % len(everything)]
        damaged_file(files, target, command, rng, verdicts, version)
        progress.tried()


def odd(files: Files, count: int, rng: random.Random, verdicts: Verdicts, progress: Progress) -> None:
    """Files that can be read and say odd things: each once, before any is tried with another command."""
    everything = list(odd_tries())[: max(count, sum(len(target.odd) for target in TARGETS))]
    wanted = min(count, len(everything))
    for number in range(wanted):
        target, command, version = everything[number * len(everything) // wanted]
        damaged_file(files, target, command, rng, verdicts, version)
        progress.tried()


def say(tally: Tally, verdicts: Verdicts, kills: int, bad: int) -> int:
    """Prints what was found, and where fewer kills or bad inputs were tried than asked for; the exit status."""
    tried = sum(verdicts.tried.values())
    too_few = [f"{tried} of {bad} bad inputs were tried"] if tried < bad else []
    lists = {
        "lost": tally.lost,
        "counted twice": tally.twice,
        "differs": tally.differ,
        "left behind": tally.left,
        "did not end well": tally.other,
        "trained anew beside a checkpoint": tally.anew + verdicts.ignored,
        "too little was tried": tally.too_little(kills) + too_few,
        "another run's file changed": verdicts.damaged,
        "traceback": verdicts.tracebacks,
        "unclear": verdicts.unclear,
    }
    for what, sentences in lists.items():
        for sentence in sentences:
            print(f"{what}: {sentence}")
    kinds = ", ".join(f"{kind} {count}" for kind, count in tally.kills.items())
    sorts = ", ".join(f"{kind} {count}" for kind, count in verdicts.tried.items())
    print(f"{tally.ends} runs compared at the end, {tally.resumed} of them taken up from a checkpoint")
    print(f"bad inputs refused or left out {verdicts.clear}, harmless {verdicts.harmless}; {sorts}")
    print(
        f"files left behind {len(tally.left)}, commands that did not end well {len(tally.other)}, "
        f"other runs' files changed {len(verdicts.damaged)}"
    )
    print(
        f"kills tried {tally.made()} ({kinds}), runs lost {len(tally.lost)}, "
        f"runs counted twice {len(tally.twice)}, resumed runs that differ {len(tally.differ)}"
    )
    print(
        f"bad inputs tried {tried}, tracebacks shown {len(verdicts.tracebacks)}, "
        f"unclear messages {len(verdicts.unclear)}"
    )
    return 1 if any(lists.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
