"""The run folders under results/runs are what their paths and scores say."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from symlora.config.compose import CONFIG_DIR, compose
from symlora.metrics.functions import compute
from symlora.store.folder import run_folder, scan

ROOT = CONFIG_DIR.parent / "results" / "runs"
RUNS = list(scan(ROOT))
KEYS = ("lr", "head_lr", "batch_size", "epochs")  # early runs had no head_lr


@pytest.mark.parametrize(("folder", "record"), RUNS, ids=[str(folder.relative_to(ROOT)) for folder, _ in RUNS])
def test_scores_follow_from_the_stored_predictions(folder: Path, record: dict) -> None:  # type: ignore[type-arg]
    config = record["config"]
    assert record["status"] == "finished" and record["provenance"]["dirty"] is False
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    for rule, chosen in record["selections"].items():
        for split, metrics in chosen["metrics"].items():
            rows = table[(table.selection == rule) & (table.split == split)]
            assert len(rows) == record["data"][split]["rows"] == config["task"]["splits"].get(split, len(rows))
            assert compute(list(metrics), rows.prediction.to_numpy(), rows.label.to_numpy()) == pytest.approx(metrics)
    settings = [f"{key}={config[key]['name']}" for key in ("task", "method", "model", "protocol")]
    train = [f"train.{key}={json.dumps(config['train'][key])}" for key in KEYS if key in config["train"]]
    same = compose(*settings, *train, f"seed={config['seed']}", f"results_dir={ROOT}")
    root = ROOT / "archive" if record["config"]["protocol"]["name"].startswith("short") else ROOT
    assert root / run_folder(same).relative_to(ROOT) == folder  # the command line that makes it again finds it finished
