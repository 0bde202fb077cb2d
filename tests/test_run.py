"""Whole runs of MiniLM on demo sentences: from a command line to a run folder that is enough to rebuild the scores."""

import json
import signal
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import run_program
from test_signals import started

from symlora.config.compose import compose
from symlora.config.schema import Config
from symlora.data.splits import load_splits
from symlora.errors import SymloraError
from symlora.metrics.functions import compute
from symlora.model.device import keep_memory
from symlora.runner.prepare import prepare_pack
from symlora.runner.provenance import peak_memory_bytes, reset_peak_memory
from symlora.runner.reporter import Reporter
from symlora.runner.run import run, run_pack
from symlora.store import folder as results
from symlora.store import listing
from symlora.store import publish as publishing
from symlora.training.checkpoint_files import headers
from symlora.training.distributed import ALONE

SMALL = (
    *("model=minilm", "protocol=demo", "data.demo_rows={train: 48, validation: 24, test: 12}", "train.epochs=2"),
    *("device=cpu", "precision=fp32"),
)


def small(tmp_path: Path, *overrides: str) -> Config:
    return compose(*SMALL, f"results_dir={tmp_path / 'runs'}", f"data.cache_dir={tmp_path / 'tokens'}", *overrides)


def train(config: Config) -> tuple[Path, dict[str, Any]]:
    return run(config, Reporter(config, quiet=True))


@pytest.mark.usefixtures("minilm_dir")
def test_a_checkpoint_serves_with_test_predictions_and_without(tmp_path: Path) -> None:
    found = []
    for overrides in ([], ["predict_test=true"]):
        config = small(tmp_path, "task=rte", *overrides)
        with prepare_pack([config], [Reporter(config, quiet=True)], ALONE) as prepared:
            assert prepared.checkpoint is not None and ("test" in prepared.tokens) == bool(overrides)
            found.append(prepared.checkpoint.fingerprint)
    assert found[0] == found[1]


@cache
def scored_run(root: Path, task: str, method: str) -> tuple[Config, Path, dict[str, Any]]:
    """Train a run once, for tests that only read it; `root` is the session's."""
    words = (f"task={task}", f"method={method}", "protocol.held_out=0.25", "predict_test=true")
    config = small(root / f"{task}-{method}", *words)
    return config, *train(config)


@pytest.mark.parametrize(
    ("task", "method"), [("mnli", "symlora"), ("stsb", "symlora"), ("mnli", "head"), ("stsb", "lora"), ("mnli", "full")]
)
def test_a_run_folder_alone_rebuilds_the_scores(
    minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory, method: str, task: str
) -> None:
    root = tmp_path_factory.getbasetemp()
    config, folder, record = scored_run(root, task, method)
    assert folder == results.run_folder(config) and not list(folder.parent.glob(".*"))
    assert record == results.read_run(folder) and record["status"] == "finished"
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    assert set(table.selection) == {"best", "last", "held_out"}
    for rule, chosen in record["selections"].items():
        for split, metrics in chosen["metrics"].items():
            rows = table[(table.selection == rule) & (table.split == split)]
            found = compute(config.task.metrics, rows.prediction.to_numpy(), rows.label.to_numpy())
            assert {k: v for k, v in found.items() if not np.isnan(v)} == pytest.approx(
                {k: v for k, v in metrics.items() if v is not None}
            )
            logits = np.stack(rows.logits.to_list())
            expected = logits[:, 0] if task == "stsb" else logits.argmax(1)
            np.testing.assert_array_equal(rows.prediction.to_numpy(), expected)
    for split in (*config.task.validation, *config.task.test):
        official = load_splits(config.task, config.data, [split])[split]
        rows = table[(table.split == split) & (table.selection == "best")]
        np.testing.assert_array_equal(rows.idx.to_numpy(), official.idx)
    parameters = record["parameters"]
    assert parameters["total"] == parameters["adapter"] + parameters["head"] + parameters["encoder"]
    for name in ("norms.parquet", "adapter/README.md"):
        assert (folder / name).exists() == (method in ("symlora", "lora"))
    assert record["provenance"]["compiled"] is False
    assert record["data"]["train"]["rows"] == 36 and record["data"]["held_out"]["rows"] == 12
    assert str(root) not in (folder / "run.json").read_text() + (folder / "config.yaml").read_text()


def test_same_seed_same_run_bit_for_bit_and_finished_runs_are_kept(minilm_dir: Path, tmp_path: Path) -> None:
    first, record = train(small(tmp_path / "a", "task=rte"))
    torch.manual_seed(123)  # nothing may hang on the global generator
    second, again = train(small(tmp_path / "b", "task=rte"))
    other, different = train(small(tmp_path / "a", "task=rte", "seed=1"))
    for name in ("adapter/adapter_model.safetensors", "predictions.parquet", "norms.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
        assert (first / name).read_bytes() != (other / name).read_bytes(), name
    assert [e["metrics"] for e in record["epochs"]] == [e["metrics"] for e in again["epochs"]]
    assert [e["train_loss"] for e in record["epochs"]] != [e["train_loss"] for e in different["epochs"]]
    assert first.parent == other.parent

    before = (first / "run.json").stat().st_mtime_ns
    assert train(small(tmp_path / "a", "task=rte"))[1] == record
    assert (first / "run.json").stat().st_mtime_ns == before
    train(small(tmp_path / "a", "task=rte", "force=true"))
    assert (first / "run.json").stat().st_mtime_ns != before


def test_a_run_out_of_patience_says_where_it_stopped(
    minilm_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path, "task=rte", "train.lr=1e-12", "train.head_lr=null", "train.epochs=5", "train.patience=2")
    folder, record = run(config, Reporter(config))
    assert record["stopped_epoch"] == len(record["epochs"]) == record["selections"]["last"]["epoch"] == 3
    assert record["selections"]["best"]["epoch"] == 1 and (folder / "adapter").is_dir()
    assert "stopped after epoch 3 of 5: no better score (train.patience=2)" in capsys.readouterr().err
    assert "(1 stopped early)" in listing.table([results.read_run(folder) or {}])


def test_a_second_attempt_counts_its_own_steps(minilm_dir: Path, tmp_path: Path) -> None:
    # As a pack in which memory ran out: its halves begin with the same reporters.
    config = small(tmp_path, "task=rte", "train.epochs=1", "force=true")
    told = Reporter(config, quiet=True)
    run(config, told)
    once = told._steps
    run(config, told)
    assert told._steps == once > 0 and len(told._scores) == 1


def test_a_run_tells_that_it_was_compiled(minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symlora.runner.run.pick_compile", lambda *_: True)
    assert train(small(tmp_path, "task=rte", "train.epochs=1"))[1]["provenance"]["compiled"] is True


def test_no_failure_replaces_a_finished_run(minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, record = train(small(tmp_path, "task=rte"))
    monkeypatch.setattr("symlora.runner.run.fit_pack", Mock(side_effect=RuntimeError("out of memory")))
    _, failed = train(small(tmp_path, "task=rte", "force=true"))
    assert failed["error"] == "RuntimeError: out of memory" and "Traceback" in failed["traceback"]
    assert results.read_run(folder) == record and not list(folder.parent.glob(".*"))
    assert json.loads((folder / results.FAILED_FILE).read_text()) == failed


def test_start_from_another_run(
    minilm_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    _, parent, _ = scored_run(tmp_path_factory.getbasetemp(), "mnli", "symlora")
    _, plain = train(small(tmp_path, "task=rte"))
    config = small(tmp_path, "task=rte", f"init_from={parent}")
    folder, started = run(config, Reporter(config))
    assert started["epochs"][0]["train_loss"] != plain["epochs"][0]["train_loss"]
    assert started["config_hash"] != plain["config_hash"]
    assert started["provenance"]["head"] == {"taken": ["bert.pooler.dense"], "drawn": ["classifier"], "kept": []}
    assert plain["provenance"]["head"] == {"drawn": ["classifier"], "kept": ["bert.pooler.dense"]}
    assert "head: classifier newly initialised; bert.pooler.dense from init_from\n" in capsys.readouterr().err
    assert started["config"]["init_from"] == parent.name  # not the folder, which may name a user
    near = results.recorded_config(small(tmp_path, "task=rte", f"init_from={tmp_path / 'runs' / 'a' / 'seed-0'}"))
    assert near["init_from"] == "a/seed-0"  # within the results folder
    with pytest.raises(SymloraError, match="init_from"):
        train(small(tmp_path, "task=rte", "method=lora", f"init_from={parent}"))
    with pytest.raises(SymloraError, match="init_from"):
        train(small(tmp_path, "task=rte", f"init_from={tmp_path / 'nowhere'}"))
    assert not list(folder.parent.glob(".*"))


def test_a_run_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(SymloraError, match="results_dir"):
        train(small(tmp_path, "task=rte"))


def test_a_folder_that_cannot_be_read_is_not_trained_over(tmp_path: Path) -> None:
    config = small(tmp_path, "task=rte")
    folder = results.run_folder(config)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"schema_version": 99, "status": "finished"}')
    with pytest.raises(SymloraError, match="schema 1.*force=true"):
        train(config)
    assert "99" in (folder / "run.json").read_text()


def test_test_predictions_asked_for_later_are_made_without_training(minilm_dir: Path, tmp_path: Path) -> None:
    folder, first = train(small(tmp_path, "task=rte"))
    assert "test" not in set(pq.read_table(folder / "predictions.parquet").to_pandas().split)
    again, record = train(small(tmp_path, "task=rte", "predict_test=true"))
    assert again == folder and record["cost"] == first["cost"], "it was trained again"
    assert results.read_run(folder) == record and not results.find_damage(folder, record)
    whole, other = train(small(tmp_path / "b", "task=rte", "predict_test=true"))
    later, at_once = (pq.read_table(place / "predictions.parquet") for place in (folder, whole))
    assert "test" in later["split"].to_pylist() and later.equals(at_once)
    assert (record["data"], record["config"]) == (other["data"], other["config"])
    assert (folder / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()


def test_a_damaged_run_is_no_obstacle_to_others_test_predictions(minilm_dir: Path, tmp_path: Path) -> None:
    damaged, _ = train(small(tmp_path, "task=rte", "train.epochs=1"))
    with open(damaged / "adapter/adapter_model.safetensors", "ab") as file:
        file.write(b"x")
    some = [small(tmp_path, "task=rte", "train.epochs=1", "predict_test=true", f"seed={seed}") for seed in (0, 1)]
    ended = run_pack(some, [Reporter(config, quiet=True) for config in some])
    assert [record["status"] for _, record in ended] == ["lost", "finished"] and "damaged" in ended[0][1]["error"]


def test_an_encoder_is_not_filed_under_another_name(tiny_bert_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SymloraError, match="model=local model.name"):
        train(small(tmp_path, "task=rte", f"model.path={tiny_bert_dir}"))


def test_a_held_out_slice_of_a_few_rows_is_refused(minilm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SymloraError, match=r"held_out=0.1 sets 5 rows aside"):
        train(small(tmp_path, "task=rte", "protocol.held_out=0.1"))


def test_json_has_no_nan(tmp_path: Path) -> None:
    results.write_json(tmp_path / "run.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": None}})
    assert json.loads((tmp_path / "run.json").read_text()) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_multirun_trains_each_and_a_failing_job_does_not_stop_the_others(minilm_dir: Path, tmp_path: Path) -> None:
    places = [
        f"results_dir={tmp_path / 'runs'}",
        f"data.cache_dir={tmp_path / 'tokens'}",
        f"hydra.sweep.dir={tmp_path}",
    ]
    words = ["-m", *SMALL, "train.epochs=1", "task=rte", "train.lr=1e30,1e-3", *places]
    printed = run_program(sys.executable, "scripts/train.py", *words, status=1).stderr
    assert "Traceback" not in printed and "the run failed: Diverged" in printed
    statuses = {record["config"]["train"]["lr"]: record["status"] for _, record in results.scan(tmp_path / "runs")}
    assert statuses == {1e30: "failed", 1e-3: "finished"}


def test_interrupting_leaves_nothing_half_done(minilm_dir: Path, tmp_path: Path) -> None:
    runs, words = tmp_path / "runs", [*SMALL, "task=rte", "train.epochs=500", f"data.cache_dir={tmp_path / 'tokens'}"]
    with started(tmp_path, "train", *words, f"results_dir={runs}") as program:
        program.wait_for(lambda: any(runs.rglob(".seed-0.*")))
        time.sleep(3)
        assert program.ends(signal.SIGINT) < 10
    printed = program.printed()
    assert program.process.returncode == 130 and "Traceback" not in printed
    assert "resumes from the last checkpoint" in printed
    assert not list(results.scan(runs)) and not list(runs.rglob(".seed-*"))
    assert len(headers(runs)) == 1 and headers(runs)[0].steps > 0


def test_roberta_path_from_a_folder(tiny_roberta_dir: Path, glue_dir: Path, tmp_path: Path) -> None:
    """RoBERTa's own code path, offline: byte-level BPE, positions from padding_idx + 1, no token types, GLUE data."""
    model = ("model=local", "model.name=tiny-roberta", f"model.path={tiny_roberta_dir}")
    places = (f"data.dir={glue_dir}", f"data.cache_dir={tmp_path / 'tokens'}", f"results_dir={tmp_path}")
    _, record = train(compose("task=rte", "protocol=smoke", *model, *places))
    assert record["status"] == "finished" and record["data"]["validation"]["rows"] == 277
    assert record["config"]["model"]["path"] == tiny_roberta_dir.name


def test_runs_that_differ_in_more_than_a_pack_may_are_refused(tmp_path: Path) -> None:
    one, other = small(tmp_path, "task=mrpc"), small(tmp_path, "task=mrpc", "train.batch_size=8")
    with pytest.raises(ValueError, match="cannot share a pass"):
        run_pack([one, other], [Reporter(one, quiet=True), Reporter(other, quiet=True)])


def test_a_run_that_cannot_be_kept_does_not_cost_the_others(
    minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [small(tmp_path, "task=mrpc", "train.epochs=1", f"seed={seed}") for seed in range(3)]
    folders = [results.run_folder(config) for config in some]
    publish = publishing.publish

    def full(work: Path, folder: Path) -> None:
        if folder == folders[1]:
            raise OSError("no space left")
        publish(work, folder)

    monkeypatch.setattr("symlora.runner.record.publish", full)
    ended = run_pack(some, [Reporter(config, quiet=True) for config in some])
    assert [record["status"] for _, record in ended] == ["finished", "lost", "finished"]
    assert "seed-1 could not be finished: no space left" in ended[1][1]["error"]
    with pytest.raises(SymloraError, match="seed-1 could not be finished: no space left"):
        run(some[1], Reporter(some[1], quiet=True))
    assert [results.is_finished(folder) for folder in folders] == [True, False, True]
    assert not list((tmp_path / "runs").rglob(".seed-*"))
    monkeypatch.undo()
    again = run_pack(some, [Reporter(config, quiet=True) for config in some])
    assert [record["cost"]["packed_runs"] for _, record in again] == [3, 3, 3]
    assert [record["cost"]["restarts"] for _, record in again] == [0, 1, 0]  # from the checkpoint: not trained again


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can start the peak anew")
def test_the_peak_of_memory_is_not_an_earlier_packs() -> None:
    cpu = torch.device("cpu")
    keep_memory()  # as a pack does
    before = peak_memory_bytes(cpu)
    ballast = b"x" * (before + 2**28)
    assert peak_memory_bytes(cpu) > before + 2**28
    del ballast
    reset_peak_memory(cpu)
    assert peak_memory_bytes(cpu) < before + 2**27
