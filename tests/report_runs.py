"""Make up run folders without training, and collect the committed ones."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import ROOT

from symlora.metrics.functions import METRICS
from symlora.report.collect import Collected, collect
from symlora.store.folder import SCHEMA_VERSION, seal

RUNS = ROOT / "results" / "runs"
ROWS = 100
TASKS = {"rte": "accuracy", "mrpc": "accuracy", "cola": "matthews_correlation", "stsb": "pearson"}
COMMON: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "status": "finished",
    "precision": "fp32",
    "provenance": {"commit": "0123456789abcdef", "dirty": False, "packages": {"torch": "9.9"}, "device": "a processor"},
    "parameters": {"adapter": 100, "head": 50, "encoder": 0, "total": 150},
    "adapter_bytes": 2048,
    "epochs": [{"seconds": 5.0}, {"seconds": 5.0}],
    "cost": {"seconds": 12.0, "train_seconds": 9.0, "peak_memory_bytes": 2**30, "energy_kwh": None},
}
"""What run.json says of every run made here."""


def write_run(root: Path, method: str = "symlora", task: str = "rte", *, seed: int = 0, **given: Any) -> Path:
    """Write a run folder whose scores follow from its predictions.

    `given` may hold `right` (rows predicted correctly at the protocol's own epoch; 70), `best` and `last` (the same at
    those epochs; `right`), `held_out` (share of the held-out slice; None: no slice), `lr`, `batch_size`, `model`,
    `protocol`, `grid_seeds`, `status` and `majority` (rows of class 1; 60).
    """
    lr, batch = given.get("lr", 4e-3), given.get("batch_size", 16)
    protocol, model = given.get("protocol", "short"), given.get("model", "minilm")
    right, held_out, metric = given.get("right", 70), given.get("held_out"), TASKS[task]
    digest = f"{method[:2]}{round(lr * 1e5):04d}{batch:02d}"
    folder: Path = root / protocol / model / method / task / f"lr-{lr:g}_bs-{batch}_ep-2_{digest}" / f"seed-{seed}"
    folder.mkdir(parents=True)
    rule = "best" if held_out is None else "held_out"
    adapter = 100 if method == "symlora" else 200
    record: dict[str, Any] = {
        **COMMON,
        "status": given.get("status", "finished"),
        "config_hash": digest,
        "config": {
            "task": {"name": task, "score": metric, "splits": {"validation": ROWS}, "validation": ["validation"]},
            "method": {"name": method},
            "model": {"name": model, "note": "A made-up encoder." if model == "minilm" else ""},
            "protocol": {"name": protocol, "selection": rule, "grid_seeds": given.get("grid_seeds", [])},
            "train": {"lr": lr, "batch_size": batch, "epochs": 2},
            "data": {"source": "glue", "train_limit": None},
            "init_from": None,
            "precision": "auto",
            "seed": seed,
        },
        "parameters": {"adapter": adapter, "head": 50, "encoder": 0, "total": adapter + 50},
    }
    if record["status"] == "failed":
        record |= {"error": "Diverged: the loss is nan", "traceback": "..."}
    else:
        counts = {"best": given.get("best", right), "last": given.get("last", right)}
        counts |= {} if held_out is None else {"held_out": right}
        tables, selections = [], {}
        for name, count in counts.items():
            splits = {"validation": rows_of(task, count, given.get("majority", 60))}
            splits |= {} if held_out is None else {"held_out": rows_of(task, round(held_out * ROWS), 60)}
            tables += [table.assign(selection=name, split=split) for split, table in splits.items()]
            scores = {split: METRICS[metric](table["prediction"], table["label"]) for split, table in splits.items()}
            selections[name] = {"epoch": 1, "metrics": {split: {metric: score} for split, score in scores.items()}}
        pd.concat(tables).to_parquet(folder / "predictions.parquet", index=False)
        chosen: Any = selections[rule]
        value = chosen["metrics"]["validation"][metric]
        record |= {
            "data": {"validation": {"rows": ROWS}, "held_out": {"rows": ROWS}},
            "selections": selections,
            "score": {"metric": metric, "split": "validation", "selection": rule, "value": value},
        }
    seal(folder, record)
    return folder


def rows_of(task: str, right: int, majority: int) -> pd.DataFrame:
    """Make labels, ones first, and predictions, the right ones first."""
    rows = np.arange(ROWS)
    if task == "stsb":
        labels = np.linspace(0, 5, ROWS)
        return pd.DataFrame({"idx": rows, "label": labels, "prediction": np.where(rows < right, labels, labels[::-1])})
    classes = (rows < majority).astype(np.int64)
    return pd.DataFrame({"idx": rows, "label": classes, "prediction": np.where(rows < right, classes, 1 - classes)})


def write_seeds(root: Path, task: str = "rte", lora: Any = (), symlora: Any = (), head: Any = (), **given: Any) -> None:
    """Write runs of seeds 0, 1, ... by their right rows (None: failed)."""
    for method, rights in {"lora": lora, "symlora": symlora, "head": head}.items():
        for seed, right in enumerate(rights):
            status = "failed" if right is None else "finished"
            write_run(root, method, task, seed=seed, right=right, status=status, **given)


def read_record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return content


def edit_run(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda record: None) -> None:
    """Change run.json, and seal the folder as it is."""
    record = read_record(folder)
    change(record)
    seal(folder, record)


@cache
def committed() -> Collected:
    """Collect the committed runs, once for all tests."""
    return collect(RUNS)
