"""Compare results folders: what must be equal, is lost, or is there twice."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMPARED = ("status", "config_hash", "config", "epochs", "selections", "score", "parameters", "data", "adapter_bytes")


def contents(folder: Path) -> dict[str, Any]:
    """Read what seed and configuration decide of a run folder: no times, no memory."""
    from symlora.store.folder import read_run

    record = read_run(folder)
    if record is None:
        return {}
    found = {key: record.get(key) for key in COMPARED}
    found["epochs"] = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in record.get("epochs", [])]
    found["tokens"] = record.get("cost", {}).get("tokens")
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".parquet", ".safetensors", ".yaml"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "adapter_config.json":  # PEFT writes sets in the order of this process's hashes
            content = json.loads(path.read_text())
            found[name] = {key: sorted(v) if isinstance(v, list) else v for key, v in content.items()}
    return found


def results_of(root: Path) -> dict[str, dict[str, Any]]:
    from symlora.store.folder import scan

    return {str(folder.relative_to(root)): contents(folder) for folder, _ in scan(root)}


def differing(expected: dict[str, Any], found: dict[str, Any]) -> set[str]:
    return {key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)}


def counted_twice(root: Path) -> list[str]:
    """List the runs that a reader of the results folder meets more than once."""
    from symlora.store.folder import run_folders, scan

    runs = dict(scan(root))
    groups = ("protocol", "model", "method", "task")
    seen = Counter(
        (*(run["config"][group]["name"] for group in groups), run["config_hash"], run["config"]["seed"])
        for run in runs.values()
    )
    odd = [folder.relative_to(root) for folder in run_folders(root) if folder not in runs]
    twice = [f"{' '.join(map(str, run))}: {count} folders" for run, count in seen.items() if count > 1]
    return twice + [f"{folder}: a folder without a readable record" for folder in odd]


def left_behind(root: Path) -> list[str]:
    """List working folders, checkpoints and temporary files that nobody removed."""
    kept = {".locks", ".checkpoints"}
    hidden = [path for path in root.rglob(".*") if not kept & set(path.relative_to(root).parts)]
    return [str(path.relative_to(root)) for path in sorted(hidden) + sorted((root / ".checkpoints").glob("*"))]


def trained_anew(root: Path) -> list[str]:
    """List the runs that were not taken up from a checkpoint."""
    from symlora.store.folder import scan

    return [str(folder.relative_to(root)) for folder, run in scan(root) if run.get("cost", {}).get("restarts", 0) < 1]


@dataclass
class Watch:
    """Follow one results folder over several starts."""

    root: Path
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)  # contents of runs that were seen finished
    lost: list[str] = field(default_factory=list)  # what was finished and is so no more, or has changed
    twice: list[str] = field(default_factory=list)

    def look(self) -> dict[str, dict[str, Any]]:
        """Compare with what was seen before; return the runs that are there."""
        found = results_of(self.root) if self.root.exists() else {}
        for name, before in self.finished.items():
            if name not in found:
                self.lost.append(f"{name} was finished, and is gone")
            elif found[name] != before:
                self.lost.append(f"{name} was finished, and has changed: {_listed(before, found[name])}")
        self.finished |= {name: run for name, run in found.items() if run.get("status") == "finished"}
        if self.root.exists():
            self.twice += counted_twice(self.root)
        return found

    def end(self, expected: dict[str, dict[str, Any]]) -> list[str]:
        """List what is missing, or is not as in runs that were never stopped."""
        found = self.look()
        self.lost += [f"{name} is missing at the end" for name in expected if name not in found]
        self.twice += [f"{name} should not be there" for name in found if name not in expected]
        changed = [name for name, run in expected.items() if found.get(name, run) != run]
        return [f"{name}: {_listed(expected[name], found[name])}" for name in changed]


def _listed(expected: dict[str, Any], found: dict[str, Any]) -> str:
    return ", ".join(sorted(differing(expected, found)))
