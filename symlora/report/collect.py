"""Run folders to one checked frame: a row for each run that can be counted on, and a list of those that cannot.

Reads run.json and the labels and predictions beside it; writes nothing, trains nothing. What is wrong with a folder is
said once (`Problem`), and the folder is left out; the rest of a report is made without it. A run that failed in
training is no problem: it is a row with status `failed`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from symlora.config.schema import HELD_OUT
from symlora.errors import SymloraError
from symlora.metrics.functions import chance_level
from symlora.report.predictions import Unusable, checked_labels
from symlora.store.folder import RUN_FILE, SCHEMA_VERSION, find_damage, run_folders

RULES = ("best", "last", "held_out")  # how an epoch is chosen, symlora.training.result

_WORDS = (
    "protocol", "model", "method", "task", "configuration", "metric", "split", "selection", "precision", "device",
    "commit", "error",
)  # fmt: skip
_NUMBERS = ("lr", "batch_size", "epochs", "adapter", "head", "encoder", "total")
_COSTS = ("adapter_bytes", "seconds", "peak_memory_bytes", "energy_kwh")  # None where the machine does not tell

# One row a run. Scores are fractions, in [-1, 1], of the metric that Table 1 reports, on the deciding validation split.
COLUMNS = {
    "protocol": "which rules the run follows",
    "model": "encoder",
    "method": "what is trained",
    "task": "GLUE task",
    "configuration": "hash of everything but the seed that decides what a run computes",
    "grid": "JSON of the configuration without learning rate and batch size: runs alike in it belong to one grid",
    "seed": "",
    "status": "finished or failed",
    "lr": "peak learning rate",
    "batch_size": "",
    "epochs": "",
    "metric": "what `score` measures",
    "split": "validation split that `score` is of",
    "selection": "rule of the protocol: best, last or held_out",
    "score": "at the epoch that `selection` takes",
    "best": "at the epoch that is best on validation itself",
    "last": "at the last epoch",
    "held_out": "at the epoch that is best on the slice of the training split set aside; NaN without one",
    "criterion": "what hyper-parameters may be chosen by: the score on that slice, at that epoch; NaN without one",
    "chance": "score that takes no learning, see symlora.metrics.functions.chance_level",
    "at_chance": "whether `score` is not above `chance`",
    "adapter": "trained parameters of the adapter",
    "head": "trained parameters of the classification head",
    "encoder": "trained parameters of the encoder (full fine-tuning)",
    "total": "all trained parameters",
    "adapter_bytes": "size of the saved safetensors: adapter and head",
    "seconds": "wall clock of the whole run",
    "peak_memory_bytes": "",
    "energy_kwh": "NaN where the machine does not tell",
    "note": "what must stand beside this model's scores",
    "precision": "",
    "device": "",
    "commit": "",
    "dirty": "whether the working tree had changes",
    "versions": "packages, as `name version, ...`",
    "error": "of a failed run",
    "folder": "Path",
}


@dataclass(frozen=True)
class Problem:
    """A folder or file that the report does without.

    Attributes:
        place: Path below the results folder.
        reason: What is wrong with it, in one sentence.
    """

    place: str
    reason: str


@dataclass(frozen=True)
class Collected:
    """What was found under a results folder.

    Attributes:
        runs: One row a run (COLUMNS), in the order of the paths.
        bad: What was left out.
        found: Run folders seen: rows and bad ones.
    """

    runs: pd.DataFrame
    bad: tuple[Problem, ...]
    found: int


def collect(results_dir: Path) -> Collected:
    """All runs under a results folder.

    Raises:
        SymloraError: There is no run folder at all.
    """
    rows: list[dict[str, Any]] = []
    bad: list[Problem] = []
    for folder in run_folders(results_dir):
        try:
            rows.append(_row(folder, _read(folder)))
        except Unusable as reason:
            bad.append(Problem(_below(folder, results_dir), str(reason)))
    found = len(rows) + len(bad)
    if not found:
        raise SymloraError(
            f"No run folders in {results_dir}. `make glue TASK=rte` makes one in results/runs, `make demo` several in "
            "results/demo (then --results-dir results/demo)."
        )
    rows, repeated = _without_repeats(rows, results_dir)
    return Collected(frame_of(rows), tuple(bad + repeated), found)


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The frame with all its columns, even of no rows."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ["score", *RULES, "criterion", "chance", "energy_kwh", "seconds", "peak_memory_bytes", "adapter_bytes"]
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise Unusable(f"it has no {RUN_FILE}") from None
    except OSError as error:
        raise Unusable(f"{RUN_FILE} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise Unusable(f"{RUN_FILE} is not whole, or no JSON ({error})") from None
    if not isinstance(content, dict):
        raise Unusable(f"{RUN_FILE} holds no record of a run")
    if (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise Unusable(f"{RUN_FILE} has schema version {version!r}; this report reads {SCHEMA_VERSION}")
    return content


def _row(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    try:
        row = _typed(_described(folder, record))
        if problems := find_damage(folder, record):
            raise Unusable(f"it is damaged: {problems[0]}")
        if record["status"] == "finished":
            row |= _scored(folder, record)
        elif record["status"] != "failed":
            raise Unusable(f"status is {record['status']!r}, neither finished nor failed")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Unusable(f"{RUN_FILE} lacks something that every run has ({type(error).__name__}: {error})") from None
    return row


def _described(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    config, provenance = record["config"], record["provenance"]
    train, task = config["train"], config["task"]
    parameters, cost = record.get("parameters") or {}, record.get("cost") or {}
    return {
        **{key: config[key]["name"] for key in ("protocol", "model", "method", "task")},
        "configuration": record["config_hash"],
        "grid": _grid(config, record.get("data", {})),
        "seed": int(config["seed"]),
        "status": record["status"],
        **{key: train[key] for key in ("lr", "batch_size", "epochs")},
        "metric": task["score"],
        "split": task["validation"][0],
        "selection": config["protocol"]["selection"],
        "at_chance": False,
        **{key: parameters.get(key, 0) for key in ("adapter", "head", "encoder", "total")},
        "adapter_bytes": record.get("adapter_bytes"),
        **{key: cost.get(key) for key in ("seconds", "peak_memory_bytes", "energy_kwh")},
        "note": _note(config),
        "precision": record["precision"],
        "device": provenance["device"],
        "commit": provenance["commit"] or "unknown",
        "dirty": provenance["dirty"] is not False,
        "versions": ", ".join(f"{name} {version}" for name, version in provenance["packages"].items()),
        "error": record.get("error") or "",
        "folder": folder,
    }


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """The row, once what tables compute with is of the kind they expect."""
    number = (int, float)
    for names, kinds, wanted in (
        (_WORDS, (str,), "text"),
        (_NUMBERS, number, "a number"),
        (_COSTS, number, "a number"),
    ):
        for name in names:
            if not isinstance(row[name], kinds) and not (row[name] is None and names is _COSTS):
                raise Unusable(f"{RUN_FILE} gives {name}={row[name]!r:.80}, not {wanted}")
    return row


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
    train = {key: value for key, value in config["train"].items() if key not in ("lr", "batch_size")}
    train.setdefault("head_lr", None)  # a key that older runs lack
    rest = {key: config[key] for key in ("protocol", "data", "init_from", "precision")}
    rest["data"] = {key: value for key, value in config["data"].items() if value or key != "allow_subset"}
    if "allow_subset" in rest["data"]:  # then the name of the task does not say which rows
        rest["rows"] = [described["sha256"] for described in data.values()]
    # What only describes a method, and keys that older runs lack and that are not set.
    rest["method"] = {
        key: value
        for key, value in config["method"].items()
        if key not in ("equation", "source") and (value or key not in ("lr_ratio", "base_parameters"))
    }
    return json.dumps({"train": train, "model": config["model"]["name"], **rest}, sort_keys=True)


def _scored(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What a finished run has besides: scores, checked against the stored predictions."""
    task, rule, split = record["config"]["task"], record["config"]["protocol"]["selection"], record["score"]["split"]
    metric, selections = task["score"], record["selections"]
    scores = {name: selections[name]["metrics"][split][metric] for name in RULES if name in selections}
    for name, value in scores.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise Unusable(f"its score is not a number ({metric} on {split}, {name}: {value})")
        if not -1.0 <= value <= 1.0:
            raise Unusable(f"its score is none ({metric} on {split}, {name}: {value}; fractions are expected)")
    if record["score"]["value"] != scores[rule]:
        raise Unusable(f"its score {record['score']['value']} is not that of its own rule {rule}, {scores[rule]}")
    labels = checked_labels(folder, record, metric, split)
    chance = chance_level(metric, labels)
    criterion = selections["held_out"]["metrics"][HELD_OUT][metric] if "held_out" in selections else None
    return {
        **scores,
        "score": scores[rule],
        "criterion": criterion,
        "chance": chance,
        "at_chance": scores[rule] <= chance,
    }


def _without_repeats(rows: list[dict[str, Any]], root: Path) -> tuple[list[dict[str, Any]], list[Problem]]:
    """One run for each configuration and seed: the one that stands where its configuration says, else the first."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    problems: list[Problem] = []
    for row in sorted(rows, key=lambda row: (not _in_its_place(row), row["folder"])):
        identity = tuple(row[key] for key in ("protocol", "model", "method", "task", "configuration", "seed"))
        first = kept.setdefault(identity, row)
        if first is not row:
            same = f"it is the same configuration and seed as {_below(first['folder'], root)}"
            problems.append(Problem(_below(row["folder"], root), f"{same}, which is kept"))
    return sorted(kept.values(), key=lambda row: row["folder"]), problems


def _in_its_place(row: dict[str, Any]) -> bool:
    folder: Path = row["folder"]
    names = [str(row[key]) for key in ("protocol", "model", "method", "task")]
    *parents, slug, seed = ("", "", *folder.parts[-6:])  # a run folder may itself be given as the results folder
    return [*parents[-4:], seed] == [*names, f"seed-{row['seed']}"] and slug.endswith(str(row["configuration"]))


def _below(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix()
