"""Two processes under torchrun train the run that one process trains."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from conftest import run_program

from symlora.config.compose import compose
from symlora.errors import SymloraError
from symlora.runner.reporter import Reporter
from symlora.runner.run import run
from symlora.training.distributed import Processes, connected, launched_processes

# 45 rows in batches of 16: the last batch has 13 rows, 7 for one process and 6 for the other.
SMALL = (
    *("task=mrpc", "model=minilm", "protocol=demo", "data.demo_rows={train: 45, validation: 20, test: 12}"),
    *("train.epochs=2", "train.batch_size=16", "train.model_dropout=0.1", "device=cpu", "precision=fp32"),
)


def test_two_processes_train_the_same_run(minilm_dir: Path, tmp_path: Path) -> None:
    places = {name: (f"results_dir={tmp_path / name}", f"data.cache_dir={tmp_path / 'tokens'}") for name in ("1", "2")}
    config = compose(*SMALL, *places["1"])
    alone, record = run(config, Reporter(config, quiet=True))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = run_program(*command, "scripts/train.py", *SMALL, *places["2"], "train.gradient_accumulation_steps=2")
    together = tmp_path / "2" / alone.relative_to(tmp_path / "1")
    found = json.loads((together / "run.json").read_text())
    assert found["cost"]["processes"] == 2 and record["cost"]["processes"] == 1
    assert found["cost"]["tokens"] == record["cost"]["tokens"]
    for a, b in zip(found["epochs"], record["epochs"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["metrics"] == b["metrics"]
    logits = [
        np.array(pq.read_table(folder / "predictions.parquet")["logits"].to_pylist()) for folder in (alone, together)
    ]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-3, atol=1e-4)
    assert not list((tmp_path / "2").rglob(".seed-*"))  # the second process leaves nothing behind
    assert finished.stderr.count("trained parameters") == 1  # and says nothing


def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched_processes() == Processes(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched_processes() == Processes(0, 2)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(SymloraError, match="RANK=2"):
        launched_processes()
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(SymloraError, match="must be numbers: .*'x'"):
        launched_processes()
    for name in ("RANK", "WORLD_SIZE"):  # as some clusters' wrappers leave them
        monkeypatch.setenv(name, "")
    assert launched_processes() == Processes(0, 1)


@pytest.mark.parametrize(("device", "ends"), [("cpu", 1), ("cuda", 0)])
def test_a_failed_process_waits_for_no_other(device: str, ends: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # NCCL's end would wait for processes that wait for this one.
    ended: list[bool] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ended.append(True))
    with pytest.raises(ValueError, match="broken"), connected(Processes(0, 2), torch.device(device)):
        raise ValueError("broken")
    assert len(ended) == ends
