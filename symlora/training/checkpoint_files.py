"""Find and clear checkpoints and plans, without importing torch.

<results_dir>/.checkpoints/<pack>.<hash>.safetensors   how far a pack of runs is (symlora.training.checkpoint)
<results_dir>/.checkpoints/<pack>[.forced].plan.json   which runs a sweep means to train together
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from symlora.store.files import atomic_write
from symlora.store.folder import FAILED_FILE, RUN_FILE, is_settled, read_run
from symlora.store.locks import holder

FOLDER = ".checkpoints"
_FORCED = ".forced"  # in the name of a plan that trains finished runs again
FORMAT = 2  # 1 held the states of random generators


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself, read without its tensors."""

    path: Path  # the file
    runs: tuple[str, ...]  # its runs: paths of their folders within the results folder
    trained: bool  # whether they are trained to the end, and only their folders are missing
    # Configurations, data, weights, versions, device, precision and threads: all that must be the same
    fingerprint: dict[str, Any]
    steps: int  # steps done
    said: dict[str, Any]  # all of it

    @property
    def forced(self) -> bool:
        """Tell whether finished runs are trained again."""
        return bool(self.fingerprint.get("force"))

    def serves(self, runs: Iterable[str]) -> bool:
        """Tell whether these runs can resume from it.

        Its own runs can, and some of them once they are trained.
        """
        wanted = set(runs)
        return bool(wanted) and (wanted <= set(self.runs) if self.trained else wanted == set(self.runs))


def headers(results_dir: Path) -> list[Header]:
    """List all readable checkpoints, the most steps first."""
    found = []
    for path in sorted((results_dir / FOLDER).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                said = json.loads((file.metadata() or {})["symlora"])
            runs = tuple(str(run) for run in said["runs"])
            numbers = (said["steps"], said["restarts"], said["seconds"])
            if said["format"] == FORMAT and all(isinstance(number, int | float) for number in numbers):
                found.append(Header(path, runs, bool(said["trained"]), {**said["fingerprint"]}, said["steps"], said))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            continue  # damaged; or removed since, by the process that finished its runs
    return sorted(found, key=lambda header: -header.steps)


def unfinished(results_dir: Path) -> list[tuple[str, str, str]]:
    """List runs with a checkpoint and no result: folder, state, steps done."""
    found: dict[str, tuple[str, str, str]] = {}
    for header in headers(results_dir):
        for run in header.runs:
            if run not in found and not _is_over(results_dir / run, header.path, header.forced):
                state = "running" if holder(results_dir, results_dir / run) else "stopped"
                found[run] = (run, state, f"{header.steps:,}")
    return sorted(found.values())


def plans(results_dir: Path) -> dict[Path, tuple[str, ...]]:
    """Read the plans of unfinished packs: their runs, by file."""
    found = {}
    for path in sorted((results_dir / FOLDER).glob("*.plan.json")):
        try:
            runs = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(runs, list) and all(isinstance(run, str) for run in runs):
            found[path] = tuple(runs)
    return found


def write_plan(results_dir: Path, runs: Sequence[str], force: bool = False) -> None:
    """Note which runs train together, for a sweep that is stopped."""
    path = results_dir / FOLDER / f"{pack_name(runs)}{_FORCED * force}.plan.json"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(list(runs)))


def pack_name(runs: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(runs)).encode()).hexdigest()[:16]


def clear_settled(results_dir: Path, mine: Sequence[str] = ()) -> None:
    """Remove the files of settled runs, not `mine`."""
    left = {header.path: (header.runs, header.forced) for header in headers(results_dir)}
    left |= {path: (runs, _FORCED in path.name) for path, runs in plans(results_dir).items()}
    for path, (runs, forced) in left.items():  # a fault in writing a folder is tried again from the trained checkpoint
        settled = all(_is_over(results_dir / run, path, forced) for run in runs)
        if settled and set(runs).isdisjoint(mine) and not any(holder(results_dir, results_dir / run) for run in runs):
            path.unlink(missing_ok=True)


def _is_over(run: Path, path: Path, forced: bool) -> bool:
    """Tell whether a run of this file's pack is settled."""
    record = read_run(run)
    if record is None or not is_settled(record):
        return False
    if record["status"] == "finished" and not forced:
        return True
    try:  # a record before the file is that of the training before
        records = [place.stat().st_mtime for place in (run / RUN_FILE, run / FAILED_FILE) if place.exists()]
        return max(records) >= path.stat().st_mtime
    except (OSError, ValueError):  # another process removed one of them
        return True
