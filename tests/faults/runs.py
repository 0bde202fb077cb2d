"""What of a results folder must be equal, must not be lost, must not be there twice."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMPARED = ("status", "config_hash", "config", "epochs", "selections", "score", "parameters", "data", "adapter_bytes")


def contents(folder: Path) -> dict[str, Any]:
    """All of a run folder that the seed and the configuration decide: no times, no memory, no checksums of these."""
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
    """Contents of every run folder by its path below the results folder."""
    from symlora.store.folder import scan

    return {str(folder.relative_to(root)): contents(folder) for folder, _ in scan(root)}


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """The parts that differ."""
    return ", ".join(sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)))


def counted_twice(root: Path) -> list[str]:
    """Configurations and seeds that a reader of the results folder meets more than once."""
    from symlora.store.folder import run_folders, scan

    seen = Counter(
        (*(run["config"][key]["name"] for key in ("protocol", "model", "method", "task")), run["config_hash"], seed)
        for _, run in scan(root)
        for seed in [run["config"]["seed"]]
    )
    readable = {folder for folder, _ in scan(root)}
    odd = [str(folder.relative_to(root)) for folder in run_folders(root) if folder not in readable]
    return [f"{' '.join(map(str, run))}: {count} folders" for run, count in seen.items() if count > 1] + [
        f"{folder}: a folder without a readable record" for folder in odd
    ]


def left_behind(root: Path) -> list[str]:
    """Working folders, checkpoints and temporary files that nobody removed. Locks stay: they are files, not locks."""
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob(".*")
        if path.name not in (".locks", ".checkpoints") and not {".locks", ".checkpoints"} & set(path.parts)
    ) + sorted(str(path.relative_to(root)) for path in (root / ".checkpoints").glob("*"))


def trained_anew(root: Path) -> list[str]:
    """Runs that were not taken up from a checkpoint."""
    from symlora.store.folder import scan

    return [str(folder.relative_to(root)) for folder, run in scan(root) if run.get("cost", {}).get("restarts", 0) < 1]


@dataclass
class Watch:
    """Follows one results folder over several starts.

    Attributes:
        root: The results folder.
        finished: Contents of the runs that were seen finished.
        lost: What was finished and is so no more, or has changed.
        twice: What was there twice.
    """

    root: Path
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Compares with what was seen before."""
        found = results_of(self.root) if self.root.exists() else {}
        for name, before in self.finished.items():
            if name not in found:
                self.lost.append(f"{name} was finished, and is gone")
            elif found[name] != before:
                self.lost.append(f"{name} was finished, and has changed: {difference(before, found[name])}")
        self.finished |= {name: run for name, run in found.items() if run.get("status") == "finished"}
        if self.root.exists():
            self.twice += counted_twice(self.root)

    def end(self, expected: dict[str, dict[str, Any]]) -> list[str]:
        """What is missing, or is not as in runs that were never stopped."""
        self.look()
        found = results_of(self.root)
        self.lost += [f"{name} is missing at the end" for name in expected if name not in found]
        self.twice += [f"{name} should not be there" for name in found if name not in expected]
        return [
            f"{name}: {difference(run, found[name])}" for name, run in expected.items() if found.get(name, run) != run
        ]
