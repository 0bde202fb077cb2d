"""Report the progress of all packs through files.

Workers append to one when a pack starts or ends, and the launching process prints; how far a run is stands next to its
lock. Files are what processes, Slurm jobs and Ray tasks on a shared disk have in common. If they cannot be written,
nothing is printed between start and end, and training goes on.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symlora.runner.reporter import format_duration
from symlora.store.folder import run_folder
from symlora.store.locks import read_progress
from symlora.sweep.packing import PackPlan

PRINT_EVERY = 60.0  # seconds between two lines of the launching process while no pack starts or ends
POLL = 0.5


def say(path: Path, pack: int, event: str, **more: Any) -> None:
    """Append a line in one write, so that lines do not mix."""
    with contextlib.suppress(OSError), open(path, "a") as file:
        file.write(json.dumps({"pack": pack, "event": event, "at": time.time(), **more}) + "\n")


class Watcher:
    """Print when a pack starts or ends, and from time to time.

    Args:
        packs: All packs.
        path: The file that the workers write; it is removed at the end.
    """

    def __init__(self, packs: Sequence[PackPlan], path: Path) -> None:
        self._packs = packs
        self._path = path
        self._offset = 0
        self._started: dict[int, float] = {}
        self._resumed: dict[int, float] = {}
        self._ended: set[int] = set()
        self._last_line = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.read()
        self._path.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._stop.wait(POLL):
            self.read()
            if time.monotonic() - self._last_line > PRINT_EVERY and self._started:
                self._print(f"  {self.share:.0%} done")

    def read(self) -> None:
        """Read the workers' new lines."""
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    break
                self._offset += len(line)
                with contextlib.suppress(ValueError, KeyError, TypeError):  # cut short by a full disk
                    self._take(json.loads(line))

    def _take(self, said: dict[str, Any]) -> None:
        number, pack = said["pack"], self._packs[said["pack"]]
        name = f"pack {number + 1}/{len(self._packs)}"
        if said["event"] == "started":
            self._started[number] = said["at"]
            runs = f"{len(pack.jobs)} run{'s' * (len(pack.jobs) > 1)}"
            self._print(f"{name} started: {pack.title}: {runs}, about {pack.step_tokens:,.0f} tokens a step")
        else:
            self._ended.add(number)
            failed = f", {said['failed']} failed" if said["failed"] else ""
            took = said["at"] - self._started.setdefault(number, said["at"])
            self._print(f"{name} finished in {format_duration(took)}{failed}")

    @property
    def share(self) -> float:
        """Return the share of all packs that is done, by tokens."""
        return self._of_all({number: self._done(number) for number in range(len(self._packs))})

    def _of_all(self, shares: Mapping[int, float]) -> float:
        done = sum(share * self._packs[number].cost for number, share in shares.items())
        return done / sum(pack.cost for pack in self._packs)

    def _done(self, number: int) -> float:
        """Return the done share of a pack, whose runs keep pace."""
        if number in self._ended or number not in self._started:
            return float(number in self._ended)
        configs = [job.config for job in self._packs[number].jobs]
        said = [read_progress(Path(config.results_dir), run_folder(config)) for config in configs]
        self._resumed[number] = max(float(one.get("resumed", self._resumed.get(number, 0.0))) for one in said)
        return max(float(one.get("share", 0.0)) for one in said)

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        left = ""
        share = self.share  # first: it reads what earlier processes had done, which took none of these seconds
        made = share - self._of_all(self._resumed)
        if made > 0 and share < 1:
            seconds = (time.time() - min(self._started.values())) * (1 - share) / made
            left = f"; about {format_duration(seconds)} left over all packs"
        print(text + left, file=sys.stderr, flush=True)
