"""Run folders become rows; what is wrong with one is said, counted, and costs nothing but that folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_runs import read_record, write_record, write_run

from symlora.config.compose import CONFIG_DIR
from symlora.errors import SymloraError
from symlora.metrics.functions import chance_level
from symlora.report.choice import choose, edge, read_best, unequal_grids
from symlora.report.collect import COLUMNS, collect
from symlora.report.criteria import load_criteria
from symlora.report.leaderboard import load_leaderboard
from symlora.report.predictions import load_predictions

COMMITTED = CONFIG_DIR.parent / "results" / "runs"


def test_a_row_says_what_the_folder_says(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "lora", "mrpc", seed=3, right=80, best=85, last=75, held_out=0.9)
    found = collect(tmp_path)
    assert (found.found, found.bad, len(found.runs)) == (1, (), 1)
    assert list(found.runs.columns) == list(COLUMNS)
    row = found.runs.iloc[0]
    assert (row["method"], row["task"], row["seed"], row["lr"], row["folder"]) == ("lora", "mrpc", 3, 4e-3, folder)
    assert (row["score"], row["best"], row["last"], row["held_out"]) == (0.8, 0.85, 0.75, 0.8)
    assert row["criterion"] == 0.9 and row["selection"] == "held_out"
    assert row["chance"] == 0.6 and not row["at_chance"]
    assert np.isnan(row["energy_kwh"]) and row["commit"] == "0123456789abcdef" and not row["dirty"]


def test_the_committed_runs_are_all_usable() -> None:
    found = collect(COMMITTED)
    assert found.bad == () and found.found == len(found.runs) >= 16
    rte = found.runs[found.runs["task"] == "rte"]
    assert rte["chance"].unique() == pytest.approx([146 / 277])  # RTE's validation split: 146 of entailment, 131 not
    assert list(rte["at_chance"]) == list(rte["score"] <= 146 / 277) and rte["at_chance"].any()
    assert not found.runs[found.runs["task"] == "stsb"]["at_chance"].any()


@pytest.mark.parametrize(("right", "flagged"), [(59, True), (60, True), (61, False)])
def test_at_chance_means_not_above_the_majority_class(tmp_path: Path, right: int, flagged: bool) -> None:
    write_run(tmp_path, right=right, majority=60)
    assert bool(collect(tmp_path).runs["at_chance"].iloc[0]) is flagged


def test_chance_of_each_metric() -> None:
    labels = np.array([1, 1, 1, 0])
    assert chance_level("accuracy", labels) == 0.75
    assert chance_level("f1", labels) == pytest.approx(6 / 7)
    assert [chance_level(name, labels) for name in ("matthews_correlation", "pearson", "spearmanr")] == [0, 0, 0]


def _truncate(folder: Path) -> None:
    path = folder / "run.json"
    path.write_text(path.read_text()[:-40])


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        record = read_record(folder)
        change(record)
        write_record(folder, record)

    return edit


def _drop_rows(folder: Path) -> None:
    path = folder / "predictions.parquet"
    pq.write_table(pq.read_table(path).slice(0, 150), path)


def _repeat_a_row(folder: Path) -> None:
    path = folder / "predictions.parquet"
    table = pq.read_table(path).to_pandas()
    table.loc[0, "idx"] = 1
    table.to_parquet(path)


def _flip_a_prediction(folder: Path) -> None:
    path = folder / "predictions.parquet"
    table = pq.read_table(path).to_pandas()
    table.loc[0, "prediction"] = 1 - table.loc[0, "prediction"]
    table.to_parquet(path)


def _hide_labels(folder: Path) -> None:
    path = folder / "predictions.parquet"
    pq.read_table(path).to_pandas().assign(label=-1).to_parquet(path)


def _score(value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record["selections"]["best"]["metrics"]["validation"]["accuracy"] = value
        record["score"]["value"] = value

    return change


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (_truncate, "not whole"),
    "a list": (lambda folder: (folder / "run.json").write_text("[]"), "no record"),
    "other schema": (_edit(lambda record: record.update(schema_version=7)), "schema version 7"),
    "no schema": (_edit(lambda record: record.pop("schema_version")), "schema version None"),
    "nan": (_edit(_score(float("nan"))), "not a number"),
    "null": (_edit(_score(None)), "not a number"),
    "text": (_edit(_score("0.7")), "not a number"),
    "points": (_edit(_score(70.0)), "fractions are expected"),
    "other epoch's score": (_edit(lambda record: record["score"].update(value=0.1)), "not that of its own rule"),
    "running": (_edit(lambda record: record.update(status="running")), "neither finished nor failed"),
    "no configuration": (_edit(lambda record: record.pop("config")), "lacks something"),
    "no seed": (_edit(lambda record: record["config"].pop("seed")), "lacks something"),
    "no run.json": (lambda folder: (folder / "run.json").unlink(), "has no run.json"),
    "no predictions": (lambda folder: (folder / "predictions.parquet").unlink(), "has no predictions.parquet"),
    "broken parquet": (lambda folder: (folder / "predictions.parquet").write_text("x"), "cannot be read"),
    "short predictions": (_drop_rows, "50 rows (50 different) of validation under last; the split has 100"),
    "a row twice": (_repeat_a_row, "100 rows (99 different)"),
    "seed no number": (_edit(lambda record: record["config"].update(seed="abc")), "lacks something"),
    "no split": (_edit(lambda record: record["config"]["task"].update(validation=[])), "lacks something"),
    "rate as text": (_edit(lambda record: record["config"]["train"].update(lr="4e-3")), "lr='4e-3', not a number"),
    "no hash": (_edit(lambda record: record.update(config_hash=None)), "configuration=None, not text"),
    "time as text": (_edit(lambda record: record["cost"].update(seconds="long")), "seconds='long', not a number"),
    "hidden labels": (_hide_labels, "cannot be scored on validation"),
    "other predictions": (_flip_a_prediction, "its predictions give accuracy 0.69"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD.values(), ids=list(BAD))
def test_a_bad_folder_is_named_left_out_and_counted(tmp_path: Path, spoil: Callable[[Path], Any], reason: str) -> None:
    good, bad = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    spoil(bad)
    found = collect(tmp_path)
    assert found.found == 2 and list(found.runs["folder"]) == [good]
    (problem,) = found.bad
    assert problem.place == bad.relative_to(tmp_path).as_posix()
    assert reason in problem.reason and str(tmp_path) not in problem.reason


def test_a_run_folder_may_be_the_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path).rename(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert len(collect(Path("run")).runs) == 1


def test_of_two_folders_of_one_run_the_one_in_its_place_is_kept(tmp_path: Path) -> None:
    good = write_run(tmp_path, seed=0)
    shutil.copytree(good, tmp_path / "a-copy" / "seed-0")  # sorts before the original
    found = collect(tmp_path)
    assert found.found == 2 and list(found.runs["folder"]) == [good]
    assert [problem.place for problem in found.bad] == ["a-copy/seed-0"]
    assert good.relative_to(tmp_path).as_posix() in found.bad[0].reason


def test_a_failed_run_is_a_row_without_a_score(tmp_path: Path) -> None:
    write_run(tmp_path, status="failed")
    found = collect(tmp_path)
    assert found.bad == () and list(found.runs["status"]) == ["failed"]
    assert np.isnan(found.runs["score"].iloc[0]) and found.runs["error"].iloc[0] == "Diverged: the loss is nan"


def test_a_run_that_is_still_going_is_no_run(tmp_path: Path) -> None:
    good = write_run(tmp_path)
    shutil.copytree(good, good.with_name(".seed-1.abcd"))
    assert collect(tmp_path).found == 1


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_no_runs_says_what_makes_some(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SymloraError, match="make glue TASK=rte"):
        collect(tmp_path / name)


def test_predictions_come_in_the_order_of_idx(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    path = folder / "predictions.parquet"
    before = load_predictions(folder, "best", "validation")
    pq.write_table(pq.read_table(path).take(list(reversed(range(200)))), path)
    assert load_predictions(folder, "best", "validation").equals(before) and len(before) == 100


# Which configuration is chosen, and where it lies.


def _grid(root: Path, method: str = "symlora", **scores: float) -> None:
    for lr, held_out in ((1e-3, 0.7), (2e-3, 0.8), (4e-3, 0.6)):
        for batch in (16, 32):
            write_run(root, method, lr=lr, batch_size=batch, held_out=held_out - (batch == 32) * 0.1)


def test_a_grid_at_one_seed_is_decided_on_the_held_out_slice(tmp_path: Path) -> None:
    _grid(tmp_path)
    chosen = choose(collect(tmp_path).runs, {})[("minilm", "short", "rte", "symlora")]
    assert [tuple(point) for point in chosen.runs[["lr", "batch_size"]].to_numpy()] == [(2e-3, 16)]
    assert len(chosen.grid) == 6 and "held-out slice" in chosen.why
    assert edge(chosen) == "lr inside 3"


def test_equal_scores_go_to_the_smaller_rate_and_then_the_larger_batch(tmp_path: Path) -> None:
    for lr, batch in ((4e-3, 16), (2e-3, 16), (2e-3, 32), (4e-3, 32)):
        write_run(tmp_path, lr=lr, batch_size=batch, held_out=0.7)
    chosen = choose(collect(tmp_path).runs, {})[("minilm", "short", "rte", "symlora")]
    assert chosen.runs[["lr", "batch_size"]].to_numpy().tolist() == [[2e-3, 32]]
    assert edge(chosen) == "4 points, no inside"


def test_grids_of_unlike_points_are_told(tmp_path: Path) -> None:
    _grid(tmp_path)
    _grid(tmp_path, "lora")
    cells = {key: cell for key, cell in choose(collect(tmp_path).runs, {}).items() if key[0] == "minilm"}
    assert unequal_grids(cells) == []
    write_run(tmp_path, lr=8e-3, held_out=0.1)
    cells = {key: cell for key, cell in choose(collect(tmp_path).runs, {}).items() if key[0] == "minilm"}
    assert unequal_grids(cells) == ["RTE: not tried at the same grid points (LoRA 6, SymLoRA 7)."]


def test_more_seeds_win_over_the_grid_which_is_not_averaged(tmp_path: Path) -> None:
    _grid(tmp_path)
    write_run(tmp_path, lr=4e-3, batch_size=16, seed=1, held_out=0.1)
    write_run(tmp_path, lr=4e-3, batch_size=16, seed=2, status="failed")  # a failed seed counts for the choice
    chosen = choose(collect(tmp_path).runs, {})[("minilm", "short", "rte", "symlora")]
    assert list(chosen.runs["seed"]) == [0, 1, 2] and set(chosen.runs["lr"]) == {4e-3}
    assert chosen.failed == 1 and len(chosen.finished) == 2
    assert len(chosen.grid) == 6 and chosen.grid_seed == 0  # the grid is that seed's, not the other seeds' runs
    assert edge(chosen) == "edge: lr highest of 3"


def test_the_selection_written_down_wins(tmp_path: Path) -> None:
    _grid(tmp_path / "runs")
    place = tmp_path / "best" / "short" / "minilm"
    place.mkdir(parents=True)
    (place / "symlora-rte.yaml").write_text("# @package _global_\ntrain: {lr: 1e-3, batch_size: 32}\n")
    best = read_best(tmp_path / "best")
    chosen = choose(collect(tmp_path / "runs").runs, best)[("minilm", "short", "rte", "symlora")]
    assert chosen.runs[["lr", "batch_size"]].to_numpy().tolist() == [[1e-3, 32]]
    assert chosen.why == "as selected (configs/best)" and edge(chosen) == "edge: lr lowest of 3"
    (place / "symlora-rte.yaml").write_text("train: 3\n")
    with pytest.raises(SymloraError, match="symlora-rte.yaml"):
        read_best(tmp_path / "best")


def test_seeds_that_only_one_method_has_are_missing(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, "lora", seed=seed)
    write_run(tmp_path, "symlora", seed=1)
    write_run(tmp_path, "head", seed=0)
    chosen = choose(collect(tmp_path).runs, {})
    assert {key[3]: cell.missing for key, cell in chosen.items() if key[:3] == ("minilm", "short", "rte")} == {
        "lora": (),
        "symlora": (0, 2),
        "head": (),
    }
    paper = [key for key in chosen if key[:2] == ("roberta-base", "paper")]
    assert len(paper) == 16 and all(chosen[key].runs.empty for key in paper)  # gaps that must be seen


# Typed input.

ENTRY = """- protocol: paper
  model: roberta-base
  method: symlora
  task: rte
  score: 78.1
  date: 2026-12-01
  url: https://example.org/
"""


def test_leaderboard_entries_are_checked_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ENTRY)
    scores, problems = load_leaderboard(tmp_path)
    assert problems == () and scores[("paper", "roberta-base", "symlora", "rte")].score == 78.1
    wrong = {
        "score: 78.1": ("score: 780.1", "not in points"),
        "task: rte": ("task: rtf", "no task"),
        "date: 2026-12-01": ("date: soon", "no date"),
        "url: https://example.org/": ("url: somewhere", "no address"),
        "method: symlora": ("methud: symlora", "exactly the keys"),
        "protocol: paper": ("protocol: paper", "a score already"),  # nothing changed: the same entry again
    }
    for old, (new, reason) in wrong.items():
        (tmp_path / "b.yaml").write_text(ENTRY.replace(old, new))
        scores, problems = load_leaderboard(tmp_path)
        assert len(scores) == 1 and len(problems) == 1
        assert problems[0].place.endswith("b.yaml, entry 1") and reason in problems[0].reason
    (tmp_path / "b.yaml").write_text("- [")
    assert "cannot be read" in load_leaderboard(tmp_path)[1][0].reason


def test_settings_are_checked(tmp_path: Path) -> None:
    text = (CONFIG_DIR / "report.yaml").read_text()
    path = tmp_path / "report.yaml"
    for old, new in (
        ("margin: 1.0", "margin: -1.0"),
        ("alpha: 0.05", "alpha: 5"),
        ("power", "pwer"),
        ("seed: 0", ""),
        ("margin: 1.0", "margin: .inf"),
        ("alpha: 0.05", "alpha: 0.6"),
        (text, "5"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(SymloraError, match="report.yaml"):
            load_criteria(path)
    assert load_criteria().margin == 1.0
