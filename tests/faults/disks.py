"""Let disks be full or blocked, and clocks jump: a run goes on or ends with one message, and the next start is well."""

import errno
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

from faults.children import Plant
from faults.kills import last, points_of, spread, subject
from faults.places import PACKED, SHORT, Place
from faults.points import checkpoints_at_once, clock_jumps, failing_at, files_up_to, planted
from faults.runs import Watch, results_of
from faults.session import Session

YEAR = 365 * 86400.0
CODES = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)
Fault = tuple[str, Callable[[Path], Plant]]
FAULTS: tuple[Fault, ...] = (
    # what the command prints must fit
    *((f"no file above {size} bytes", partial(files_up_to, size)) for size in (9000, 4096, 20_000, 60_000)),
    *(
        (f"the clock jumps by {seconds:.0f} s", partial(clock_jumps, seconds, after))
        for seconds, after in ((10 * YEAR, 3), (-10 * YEAR, 3), (3600.0, 1), (-7 * 86400.0, 10), (-40 * YEAR, 20))
    ),
)
RUN = ("method=symlora", *SHORT)
SWEEP = (*PACKED, "method=symlora,lora", "seed=0", *SHORT)
BLOCKED = (
    *((name, RUN) for name in ("runs", "runs/demo", "runs/.locks", "runs/.checkpoints")),
    *((name, SWEEP) for name in (".cache", ".cache/multirun", "runs", "runs/.locks")),  # Hydra's own folder too
)


def full_disks_and_clocks(place: Place, session: Session, count: int) -> None:
    """Plant so many faults: two thirds in a single run, the others in a pack; up to half are FAULTS, the rest calls."""
    rng = session.rng
    for kind, overrides, tries in (("single runs", RUN, count - count // 3), ("packs", SWEEP, count // 3)):
        if not tries:
            continue
        what = subject(place, kind, overrides)
        faults, names = list(FAULTS[: max(1, tries // 2)]), points_of(place, what)
        for point in spread(len(names), tries - len(faults), rng):
            code, forever = rng.choice(CODES), rng.random() < 0.7
            name = f"{errno.errorcode[code]} {'from' if forever else 'in'} call {point} ({names[point - 1]})"
            faults.append((name, partial(failing_at, point, code, forever)))
        for name, fault in faults:
            here, said = place.below("full"), f"{shlex.join(overrides)}, {name}"
            watch = Watch(here.runs)
            ended = here.train(*overrides, plant=planted(checkpoints_at_once, fault(here.runs))).wait()
            right = results_of(here.runs) == what.expected
            session.judge("disks and clocks", said, ended, [str(here.runs), "results_dir"], right)
            watch.look()
            last(here, session, what, watch, said)


def blocked_folders(place: Place, session: Session) -> None:
    """Put a file where a folder belongs: nothing can be written there, whoever the user is."""
    for name, overrides in BLOCKED:
        here, said = place.below("blocked"), f"a file at {name}: {shlex.join(overrides)}"
        path = here.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a file")
        ended = here.train(*overrides).wait()
        right = all(run["status"] == "finished" for run in results_of(here.runs).values())
        key = "results_dir" if name.startswith("runs") else "hydra.sweep.dir"
        session.judge("disks and clocks", said, ended, [str(path), key], right)
        if path.read_text() != "a file":
            session.add("other run changed", said, [path])
        here.clear()
