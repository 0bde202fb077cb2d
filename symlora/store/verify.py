"""Check that run folders are unchanged (`make verify-results`)."""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

from symlora.errors import SymloraError
from symlora.store.folder import RUN_FILE, find_damage, is_finished, read_run, run_folders
from symlora.store.locks import FOLDER, holder


@dataclass
class Found:
    """What was checked."""

    runs: int = 0  # run folders that could be read
    files: int = 0  # files whose content was compared
    bytes: int = 0  # their size
    problems: list[str] = field(default_factory=list)  # A line each


def verify(results_dir: Path) -> Found:
    """Hash all files of all runs, and compare with their records."""
    from tqdm import tqdm

    found = Found()
    place = results_dir.resolve()
    locks = next((parent for parent in (place, *place.parents) if (parent / FOLDER).is_dir()), place)
    for folder in sorted(results_dir.rglob(".seed-*")):
        run = folder.with_name("seed-" + folder.name.split("-")[1].partition(".")[0])
        if folder.is_dir() and holder(locks, run.resolve()) is None:  # otherwise it is being written
            name = folder.relative_to(results_dir).as_posix()
            advice = "remove it" if is_finished(run) else "the next attempt at this run removes it"
            found.problems.append(f"{name}: left by a process that was killed; {advice}")
    for folder in tqdm([*run_folders(results_dir)], unit="run", leave=False, disable=not sys.stderr.isatty()):
        name = folder.relative_to(results_dir).as_posix()
        record = read_run(folder)
        if record is None:
            wrong = "cannot be read as a record of a run" if (folder / RUN_FILE).exists() else "is missing"
            found.problems.append(f"{name}: {RUN_FILE} {wrong}")
            continue
        found.runs += 1
        found.files += len(record["files"])
        found.bytes += sum(written["bytes"] for written in record["files"].values())
        found.problems += [f"{name}: {problem}" for problem in find_damage(folder, record)]
    return found


def command(chosen: argparse.Namespace) -> int:
    """Run `symlora verify`."""
    found = verify(chosen.results_dir)
    if not found.runs and not found.problems:
        raise SymloraError(f"no run folders in {chosen.results_dir}.")
    checked = f"{found.runs} runs, {found.files} files, {found.bytes / 2**20:.1f} MiB checked"
    print(*found.problems, f"{checked}: {len(found.problems)} problems", sep="\n")
    return int(bool(found.problems))
