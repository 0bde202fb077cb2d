"""`make faults`: kills, faults of disk and clock, bad input. Exit status 1 if something is lost or unclear."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from faults.disks import blocked_folders, full_disks_and_clocks
from faults.files import AGAIN, TARGETS, Files, Try, damaged_file, good_files, odd_tries, tries
from faults.kills import POINTED, all_kills, at_points, once_saved, points_of, reach, subject
from faults.overrides import made_up_overrides
from faults.places import Place, prepare
from faults.session import Session
from faults.sweeps import DIVERGING, several_processes

QUICK = (6, 10)  # kills and bad inputs of --quick


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=120, help="default: %(default)s")
    parser.add_argument("--bad", type=int, default=240, help="bad inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments, points and damage (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few of each alone, as in `make test`")
    given = parser.parse_args()
    kills, bad = QUICK if given.quick else (given.kills, given.bad)
    with tempfile.TemporaryDirectory(prefix="symlora-faults-", ignore_cleanup_errors=True) as folder:
        print("  importing everything once", file=sys.stderr, flush=True)
        place = prepare(Path(folder).resolve())
        session, started = Session(random.Random(given.seed), kills + bad), time.monotonic()
        if given.quick:
            few(place, session)
        elif kills:
            kill(place, session, kills)
        if bad and not given.quick:
            feed(place, session, bad)
        print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr)
    return session.report(kills, bad)


def few(place: Place, session: Session) -> None:
    """Kill a single run six times, try some settings and a run folder's damaged files."""
    what = subject(place, "single runs", POINTED["single runs"])
    reach(place, session, what, 2)
    once_saved(place, session, what)
    names = points_of(place, what)
    for point in (len(names) // 2, names.index("rename") + 1, len(names)):
        at_points(place, session, what, point)
    made_up_overrides(place, session, 4)
    files = good_files(place, quick=True)
    for target in TARGETS[:2]:
        for how, change in target.damages[:3]:
            damaged_file(files, session, target, AGAIN, how, change)


def kill(place: Place, session: Session, count: int) -> None:
    session.begin("kills of single runs, packs and sweeps")
    all_kills(place, session, count)
    session.begin("several processes on one sweep")
    several_processes(place, session, 2, DIVERGING)
    several_processes(place, session, 8)
    several_processes(place, session, 4, kill_first_after=3.0)


def feed(place: Place, session: Session, count: int) -> None:
    """Try all bad input: damaged files more than a half, settings a quarter."""
    session.begin("full disks, clocks that jump")
    full_disks_and_clocks(place, session, round(0.12 * count))
    blocked_folders(place, session)
    session.begin("made-up settings")
    made_up_overrides(place, session, round(0.25 * count))
    session.begin("damaged files")
    files = good_files(place)
    # Files that can be read and say odd things: each once, before any is tried with another command.
    share = round(0.4 * count)
    odd = odd_tries()[: max(share, sum(len(target.odd) for target in TARGETS))]
    damage(files, session, odd, min(share, len(odd)))
    damage(files, session, tries(), max(1, count - session.bad.total()))


def damage(files: Files, session: Session, everything: Sequence[Try], wanted: int) -> None:
    """Try so many of these, spread over all of them."""
    for number in range(wanted):
        damaged_file(files, session, *everything[number * len(everything) // wanted % len(everything)])


if __name__ == "__main__":
    sys.exit(main())
