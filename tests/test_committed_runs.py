"""Check the committed runs against their paths and predictions."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from report_runs import RUNS

from symlora.config.compose import compose
from symlora.metrics.functions import compute
from symlora.store.folder import find_damage, run_folder, scan

FOUND = list(scan(RUNS))
KEYS = ("lr", "head_lr", "batch_size", "epochs")  # early runs had no head_lr
composed = cache(compose)


@pytest.mark.parametrize(("folder", "record"), FOUND, ids=[str(folder.relative_to(RUNS)) for folder, _ in FOUND])
def test_scores_follow_from_the_stored_predictions(folder: Path, record: dict) -> None:  # type: ignore[type-arg]
    config = record["config"]
    # The command line that makes it again finds it.
    same = deepcopy(composed(*(f"{key}={config[key]['name']}" for key in ("task", "method", "model", "protocol"))))
    same.seed, same.results_dir, same.precision = config["seed"], str(RUNS), config["precision"]
    for key in KEYS:
        setattr(same.train, key, config["train"].get(key, getattr(same.train, key)))
    if config["protocol"]["name"].startswith("short"):
        same.results_dir += "/archive"
    assert run_folder(same) == folder or config["model"]["path"]  # the hash of such a run has the folder's content
    assert run_folder(same).name == folder.name and record["provenance"]["dirty"] is False
    assert folder.parent.name.rpartition("_")[2] == record["config_hash"][:8]
    if record["status"] == "failed":  # kept, counted, and without a score
        assert record["error"]
        return
    assert record["status"] == "finished"
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    for rule, chosen in record["selections"].items():
        for split, metrics in chosen["metrics"].items():
            rows = table[(table.selection == rule) & (table.split == split)]
            assert len(rows) == record["data"][split]["rows"] == config["task"]["splits"].get(split, len(rows))
            assert compute(list(metrics), rows.prediction.to_numpy(), rows.label.to_numpy()) == pytest.approx(metrics)


@pytest.mark.parametrize("place", ["runs", "methods", "controls"])
def test_no_committed_run_is_damaged(place: str) -> None:
    """Sizes only; `make verify-results` hashes the files."""
    damage = [find_damage(folder, record, sizes_only=True) for folder, record in scan(RUNS.parent / place)]
    assert damage and not any(damage)
