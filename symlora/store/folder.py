"""Write and read run folders, the only record of a run.

    <results_dir>/<protocol>/<model>/<method>/<task>/<slug>/seed-<k>/
        run.json             status, configuration, scores per epoch, parameter counts, cost, provenance
        config.yaml          the configuration alone, to run it again
        predictions.parquet  per selection rule, split and row: idx, label, prediction, logits
        norms.parquet        per adapted projection: λ and norms
        adapter/             PEFT format, safetensors (head alone: head.safetensors; full fine-tuning: the model)

The path is a function of the configuration. A run works in a folder next to its own (`.seed-<k>.<random>`) and
renames it when it is done, so that a reader never meets half a run. A failed run keeps its folder, with its
traceback. run.json holds the size and SHA-256 of every other file, and of itself; `make verify-results` checks them.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symlora.config.identity import file_sha256, slug, without
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.store.files import atomic_write

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
FAILED_FILE = "failed.json"  # a failure of `force=true`, next to the finished run that it did not replace


def run_folder(config: Config) -> Path:
    """Return the path of this run's folder."""
    parts = (config.protocol.name, config.model.name, config.method.name, config.task.name, slug(config))
    return Path(config.results_dir).joinpath(*parts, f"seed-{config.seed}")


class UnusableRun(Exception):
    """Why a run folder cannot be used."""


def load_run(folder: Path, name: str = RUN_FILE) -> dict[str, Any]:
    """Read run.json; raise UnusableRun where it is not usable.

    Raises:
        UnusableRun: There is none, or it is damaged, or of another schema.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnusableRun(f"it has no {name}") from None
    except OSError as error:
        raise UnusableRun(f"{name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UnusableRun(f"{name} is cut short or not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UnusableRun(f"{name} holds no record of a run")
    if (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise UnusableRun(f"{name} has schema version {version!r}; this version reads {SCHEMA_VERSION}")
    if content.get("sha256") != _own_sha256(content):
        raise UnusableRun(f"{name} was changed")
    return content


def read_run(folder: Path, name: str = RUN_FILE) -> dict[str, Any] | None:
    """Read run.json; return None where `load_run` would raise."""
    try:
        return load_run(folder, name)
    except UnusableRun:
        return None


def is_finished(folder: Path) -> bool:
    """Tell whether a folder holds a finished run."""
    run = read_run(folder)
    return run is not None and run.get("status") == "finished"


def is_settled(record: dict[str, Any] | None) -> bool:
    """Tell whether a run is finished or diverged."""
    if record is None:
        return False
    return bool(record["status"] == "finished" or str(record.get("error")).startswith("Diverged:"))


def finished_record(config: Config) -> dict[str, Any] | None:
    """Return the record of this run if it is finished, else None.

    With `predict_test` it also needs test predictions.

    Raises:
        SymloraError: Its folder exists, but cannot be read as a run or is damaged.
    """
    folder = run_folder(config)
    if config.force or not folder.exists():
        return None
    record = read_run(folder)
    if record is None:
        raise SymloraError(
            f"{folder} exists, but its {RUN_FILE} is damaged, or not of schema {SCHEMA_VERSION}. Move it away, or set "
            "force=true to replace it."
        )
    if record["status"] != "finished" or (config.predict_test and not record["config"]["predict_test"]):
        return None
    if problems := find_damage(folder, record):
        raise SymloraError(f"{folder} is damaged: {problems[0]}. Move it away, or set force=true to train it again.")
    return record


def lacks_tests(config: Config) -> bool:
    """Tell whether a finished run lacks the requested test predictions."""
    record = None if config.force or not config.predict_test else read_run(run_folder(config))
    return record is not None and record["status"] == "finished" and not record["config"]["predict_test"]


def record_since(config: Config, began: float) -> dict[str, Any] | None:
    """Return another process's record of the run since the sweep began.

    A failure, or a run that it was forced to train again.
    """
    folder = run_folder(config)
    for name in (FAILED_FILE, RUN_FILE):
        try:
            fresh = (folder / name).stat().st_mtime >= began
        except OSError:
            continue
        record = read_run(folder, name) if fresh else None
        if record is not None and (config.force or record["status"] == "failed"):
            return record
    return None


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Write run.json with the checksums of all files and of itself."""
    record["files"] = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (RUN_FILE, FAILED_FILE)
    }
    record["sha256"] = _own_sha256(record)
    write_json(folder / RUN_FILE, record)


def find_damage(folder: Path, record: dict[str, Any], *, sizes_only: bool = False) -> list[str]:
    """List the problems of a run folder's files, one sentence each.

    `sizes_only` is fast, and still finds files that are missing or cut short.
    """
    problems = []
    for name, written in record["files"].items():
        path = folder / name
        try:
            if path.stat().st_size != written["bytes"]:
                problems.append(f"{name} has {path.stat().st_size} bytes, not {written['bytes']}")
            elif not sizes_only and file_sha256(path) != written["sha256"]:
                problems.append(f"the content of {name} was changed")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    return problems


def _own_sha256(record: dict[str, Any]) -> str:
    content = {key: value for key, value in _plain(record).items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def run_folders(results_dir: Path) -> Iterator[Path]:
    """Yield all run folders, damaged ones included; not those being written."""
    places = {path.parent for path in results_dir.rglob(RUN_FILE)}
    places |= {path for path in results_dir.rglob("seed-*") if path.is_dir()}
    for folder in sorted(places):
        if not any(part.startswith(".") for part in folder.relative_to(results_dir).parts):
            yield folder


def scan(results_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield every run's folder and record; warn of damaged ones."""
    for path in sorted(results_dir.rglob(RUN_FILE)):
        if not path.parent.name.startswith("."):
            content = read_run(path.parent)
            if content is not None:
                yield path.parent, content
            else:
                print(f"warning: {path} is damaged, or of another schema: left out", file=sys.stderr)


def recorded_config(config: Config) -> dict[str, Any]:
    """Return a configuration without this machine's folders, for run.json."""
    content = without(config, {"": ("results_dir", "force", "progress", "checkpoint"), "data": ("dir", "cache_dir")})
    if config.model.path is not None:
        content["model"]["path"] = Path(config.model.path).name
    if config.init_from is not None:
        place, root = Path(config.init_from).absolute(), Path(config.results_dir).absolute()
        content["init_from"] = str(place.relative_to(root)) if place.is_relative_to(root) else place.name
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; NaN becomes null."""
    with atomic_write(path) as temporary:
        temporary.write_text(
            json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


def failure_text(folder: Path, record: dict[str, Any]) -> str:
    """Say why a run failed, and where its traceback is."""
    place = folder / (FAILED_FILE if is_finished(folder) else RUN_FILE)
    return f"the run failed: {record['error']} (traceback in {place})"
