"""Full and read-only disks, clocks that jump: a run goes on or ends with one message, and the next start is well."""

import errno
import random
import shlex
from collections.abc import Callable, Iterator

from faults.children import Plant
from faults.judge import Verdicts
from faults.kills import PACKED, SHORT, Subject, Tally, kind_of, points_of, spread, subject
from faults.places import Place
from faults.points import checkpoints_at_once, clock_jumps, failing_at, files_up_to, planted
from faults.runs import Watch, results_of

SIZES = (4096, 9000, 20_000, 60_000)  # bytes; what the script prints must fit
YEAR = 365 * 86400.0
JUMPS = ((10 * YEAR, 3), (-10 * YEAR, 3), (3600.0, 1), (-7 * 86400.0, 10), (-40 * YEAR, 20))
CODES = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)
RUN = ("method=symlora", *SHORT)
SWEEP = (*PACKED, "method=symlora,lora", "seed=0", *SHORT)
BLOCKED = (
    *((name, RUN) for name in ("runs", "runs/demo", "runs/.locks", "runs/.checkpoints")),
    *((name, SWEEP) for name in (".cache", ".cache/multirun", "runs", "runs/.locks")),  # Hydra's own folder too
)


def full_disks(
    place: Place, count: int, rng: random.Random, verdicts: Verdicts, tally: Tally, tried: Callable[[], object]
) -> None:
    """Lets runs and sweeps meet a disk that is full, or fails, from some point on; then starts them on a whole one."""
    for overrides, tries in ((RUN, count - count // 3), (SWEEP, count // 3)):
        if tries:
            _full_disk(place, subject(place, kind_of(overrides), overrides), tries, rng, verdicts, tally, tried)


def _full_disk(
    place: Place,
    what: Subject,
    count: int,
    rng: random.Random,
    verdicts: Verdicts,
    tally: Tally,
    tried: Callable[[], object],
) -> None:
    for name, plant in _faults(place, what, count, rng):
        here = place.below("full")
        watch = Watch(here.runs)
        said = f"{shlex.join(what.overrides)}, {name}"
        ended = here.train(*what.overrides, plant=planted(checkpoints_at_once, plant(here))).wait()
        right = ended.status == 0 and results_of(here.runs) == what.expected
        verdicts.enter("disks", said, ended, [str(here.runs), "results_dir"], right)
        watch.look()
        again = here.train(*what.overrides, plant=checkpoints_at_once).wait()
        if again.status:
            tally.other.append(f"then ended with {again.status}: {again.err[-600:]}  [{said}]")
        tally.end(watch, what.expected, said)
        here.clear()
        tried()


def _faults(
    place: Place, what: Subject, count: int, rng: random.Random
) -> Iterator[tuple[str, Callable[[Place], Plant]]]:
    sizes = SIZES if count >= 12 else SIZES[1:2]
    for size in sizes:
        yield f"no file above {size} bytes", lambda here, size=size: files_up_to(size)  # type: ignore[misc]
    names = points_of(place, what)
    for point in spread(len(names), max(1, count - len(sizes)), rng):
        code, forever = rng.choice(CODES), rng.random() < 0.7
        name = f"{errno.errorcode[code]} {'from' if forever else 'in'} call {point} ({names[point - 1]})"
        yield name, lambda here, p=point, c=code, f=forever: failing_at(p, here.runs, c, f)  # type: ignore[misc]


def blocked_folders(place: Place, verdicts: Verdicts, tried: Callable[[], object]) -> None:
    """A file stands where a folder belongs: nothing can be written there, whoever the user is."""
    for name, overrides in BLOCKED:
        here = place.below("blocked")
        path = here.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a file")
        ended = here.train(*overrides).wait()
        right = ended.status == 0 and all(run["status"] == "finished" for run in results_of(here.runs).values())
        said = f"a file at {name}: {shlex.join(overrides)}"
        key = "results_dir" if name.startswith("runs") else "hydra.sweep.dir"
        verdicts.enter("disks", said, ended, [str(path), key], right)
        if path.read_text() != "a file":
            verdicts.damaged.append(f"{said}: it was changed")
        here.clear()
        tried()


def jumping_clocks(place: Place, count: int, verdicts: Verdicts, tally: Tally, tried: Callable[[], object]) -> None:
    """The wall clock jumps while a run is trained; nothing may depend on it."""
    what = subject(place, "single runs", RUN)
    for seconds, after in JUMPS[:count]:
        here = place.below("clock")
        said = f"{shlex.join(what.overrides)}, the clock jumps by {seconds:.0f} s"
        ended = here.train(*what.overrides, plant=planted(checkpoints_at_once, clock_jumps(seconds, after))).wait()
        verdicts.enter("clocks", said, ended, ["clock"], results_of(here.runs) == what.expected)
        here.clear()
        tried()
