"""Collect run folders into one checked frame.

Reads run.json, and labels and predictions next to it. A folder that cannot be used is left out with one reason. A run
that failed in training is a row with status `failed`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from symlora.config.identity import NOT_IDENTITY_TRAIN
from symlora.config.schema import HELD_OUT
from symlora.errors import SymloraError
from symlora.metrics.functions import chance_level
from symlora.report.predictions import checked_labels
from symlora.store.folder import RUN_FILE, UnusableRun, find_damage, load_run, run_folders
from symlora.store.listing import section_of
from symlora.store.selection import criterion

RULES = ("best", "last", HELD_OUT)  # how an epoch is chosen, symlora.training.result

COLUMNS = (
    "protocol", "model", "method", "task", "configuration", "grid", "seed", "chose", "status", "lr", "batch_size",
    "epochs", "metric", "split", "selection", "score", *RULES, "criterion", "chance", "at_chance", "adapter", "head",
    "encoder", "total", "adapter_bytes", "seconds", "peak_memory_bytes", "energy_kwh", "train_seconds",
    "inference_seconds", "pack", "note", "precision", "weights", "device", "commit", "dirty", "versions", "error",
    "folder",
)  # fmt: skip
"""Of the frame: `_described` and `_scored` say what they hold."""
NUMBERS = (
    "score", *RULES, "criterion", "chance", "energy_kwh", "seconds", "train_seconds", "inference_seconds",
    "peak_memory_bytes", "adapter_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Collected:
    """What was found under a results folder."""

    runs: pd.DataFrame  # one row per run (COLUMNS), in the order of the paths
    bad: tuple[str, ...]  # folders that are left out, each with the reason

    @property
    def found(self) -> int:
        """Number of run folders, usable or not."""
        return len(self.runs) + len(self.bad)


def collect(results_dir: Path) -> Collected:
    """Collect all runs under a results folder.

    Raises:
        SymloraError: There is no run folder at all.
    """
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    for folder in run_folders(results_dir):
        try:
            rows.append(_row(folder))
        except UnusableRun as reason:
            bad.append(f"{folder.relative_to(results_dir).as_posix()}: {reason}")
    if not rows and not bad:
        raise SymloraError(
            f"No run folders in {results_dir}. `make glue TASK=rte` makes one in results/runs, `make demo` several in "
            "results/demo (then --results-dir results/demo)."
        )
    rows, repeated = _without_repeats(rows, results_dir)
    return Collected(frame_of(rows), tuple(bad + repeated))


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Make the frame with all its columns, even of no rows."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, "float64"))


def _row(folder: Path) -> dict[str, Any]:
    record = load_run(folder)
    if problems := find_damage(folder, record):
        raise UnusableRun(f"it is damaged: {problems[0]}")
    if (status := record["status"]) not in ("finished", "failed"):
        raise UnusableRun(f"status is {status!r}, neither finished nor failed")
    try:
        return _described(folder, record) | (_scored(folder, record) if status == "finished" else {})
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UnusableRun(f"{RUN_FILE} lacks something that every run has ({type(error).__name__}: {error})") from None


def _described(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Describe a run; unknown values are None."""
    config, provenance = record["config"], record["provenance"]
    train, task = config["train"], config["task"]
    parameters, cost = record.get("parameters") or {}, record.get("cost") or {}
    return {
        **{key: config[key]["name"] for key in ("model", "method", "task")},
        "protocol": section_of(config),  # its name, and any difference in its data
        "in_place": _in_place(folder, config, record["config_hash"]),
        "configuration": record["config_hash"],  # of everything but the seed that decides what a run computes
        "grid": _grid(config, record.get("data", {})),  # runs alike in it belong to one grid
        "seed": int(config["seed"]),
        "chose": config["seed"] in config["protocol"].get("grid_seeds", ()),  # a grid point, and is not averaged
        "status": record["status"],
        **{key: train[key] for key in ("lr", "batch_size", "epochs")},
        "metric": task["score"],  # of `score`, in Table 1
        "split": task["validation"][0],  # the deciding one, that `score` is of
        "selection": config["protocol"]["selection"],  # one of RULES
        "at_chance": False,
        **{key: parameters.get(key, 0) for key in ("adapter", "head", "encoder", "total")},  # trained parameters
        "adapter_bytes": record.get("adapter_bytes"),  # of the saved safetensors: adapter and head
        **{key: cost.get(key) for key in ("seconds", "peak_memory_bytes", "energy_kwh", "train_seconds")},
        "inference_seconds": _inference_seconds(record),
        "pack": cost.get("packed_runs") or 1,  # that shared its memory
        "note": _note(config),  # must be shown with this model's scores
        "precision": record["precision"],
        "weights": provenance.get("weights_sha256"),  # of the encoder
        "device": provenance["device"],
        "commit": provenance["commit"] or "unknown",
        "dirty": provenance["dirty"] is not False,
        "versions": ", ".join(f"{name} {version}" for name, version in provenance["packages"].items()),
        "error": record.get("error") or "",
        "folder": folder,
    }


def _inference_seconds(record: dict[str, Any]) -> float | None:
    """Compute the seconds to score one sentence."""
    epochs, trained = record.get("epochs"), record.get("cost", {}).get("train_seconds")
    unscored = {"train", *record["config"]["task"].get("test", ())}  # test rows are predicted once, at the end
    rows: int = sum(split["rows"] for name, split in record.get("data", {}).items() if name not in unscored)
    if not epochs or trained is None or not rows:
        return None
    return (math.fsum(epoch["seconds"] for epoch in epochs) - float(trained)) / (len(epochs) * rows)


def _note(config: dict[str, Any]) -> str:
    notes = [config["model"].get("note") or ""]
    if config["data"]["source"] == "demo":
        notes.append("Sentences from this project's own grammar, not GLUE.")
    if (limit := config["data"]["train_limit"]) is not None:
        notes.append(f"Trained on {limit} rows only.")
    if config["data"].get("allow_subset"):
        notes.append("Not the official splits (data.allow_subset).")
    return " ".join(filter(None, notes))


def _grid(config: dict[str, Any], data: dict[str, Any]) -> str:
    # Unset keys and those without effect are left out, because older runs lack them.
    varied, described = ("lr", "batch_size", *NOT_IDENTITY_TRAIN), ("equation", "source")
    later = ("allow_subset", "lr_ratio", "base_parameters")
    grid = {key: config[key] for key in ("protocol", "init_from", "precision")} | {"model": config["model"]["name"]}
    grid["train"] = {key: value for key, value in config["train"].items() if key not in varied and value is not None}
    for group, left_out in (("data", ()), ("method", described)):
        items = config[group].items()
        grid[group] = {key: value for key, value in items if key not in left_out and (value or key not in later)}
    if config["data"].get("allow_subset"):  # the task's name does not identify the rows
        grid["rows"] = [split["sha256"] for split in data.values()]
    return json.dumps(grid, sort_keys=True)


def _scored(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Read a finished run's scores, fractions in [-1, 1], and check them."""
    task, rule, split = record["config"]["task"], record["config"]["protocol"]["selection"], record["score"]["split"]
    metric, selections = task["score"], record["selections"]
    scores = {name: selections[name]["metrics"][split][metric] for name in RULES if name in selections}
    for name, value in scores.items():
        if value is not None and (not isinstance(value, (int, float)) or not math.isfinite(value)):
            raise UnusableRun(f"its score is not a number ({metric} on {split}, {name}: {value})")
        if value is not None and not -1.0 <= value <= 1.0:
            raise UnusableRun(f"its score is not usable ({metric} on {split}, {name}: {value}; fractions are expected)")
    if record["score"]["value"] != scores[rule]:
        raise UnusableRun(f"its score {record['score']['value']} is not that of its own rule {rule}, {scores[rule]}")
    labels = checked_labels(folder, record, metric, split)
    if scores[rule] is None:  # a run that collapsed is one that failed, as in `make select`
        return {"status": "failed", "error": f"{metric} is not defined on {split}: all predictions are equal"}
    chance = chance_level(metric, labels)
    value, chosen_on = criterion(record)
    return {
        **{name: math.nan if value is None else value for name, value in scores.items()},  # at the epoch of each rule
        "score": scores[rule],
        "criterion": value if chosen_on == HELD_OUT else None,  # the held-out slice's, which may choose
        "chance": chance,
        "at_chance": scores[rule] <= chance,
    }


def _without_repeats(rows: list[dict[str, Any]], root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Keep one run per configuration and seed, preferably the one in place."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    problems: list[str] = []
    for row in sorted(rows, key=lambda row: (not row["in_place"], row["folder"])):
        identity = tuple(row[key] for key in ("protocol", "model", "method", "task", "configuration", "seed"))
        first = kept.setdefault(identity, row)
        if first is not row:
            place, kept_place = (each["folder"].relative_to(root).as_posix() for each in (row, first))
            problems.append(f"{place}: it is the same configuration and seed as {kept_place}, which is kept")
    return sorted(kept.values(), key=lambda row: row["folder"]), problems


def _in_place(folder: Path, config: dict[str, Any], configuration: str) -> bool:
    """Tell whether the folder is the one that the configuration names."""
    names = [str(config[key]["name"]) for key in ("protocol", "model", "method", "task")]
    *parents, slug, seed = ("", "", *folder.parts[-6:])  # a run folder may itself be given as the results folder
    return [*parents[-4:], seed] == [*names, f"seed-{config['seed']}"] and slug.endswith(configuration)
