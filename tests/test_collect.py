"""Check the frame of run folders, and the choice of configurations."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_runs import committed, edit_run, read_record, write_run, write_seeds

from symlora.config.compose import CONFIG_DIR
from symlora.config.typed import read_yaml
from symlora.errors import SymloraError
from symlora.metrics.functions import chance_level
from symlora.report.build import build
from symlora.report.choice import Chosen, choose, grid_edge, read_best, unlike
from symlora.report.collect import COLUMNS, collect
from symlora.report.comparison import Criteria, compare
from symlora.report.leaderboard import load_leaderboard
from symlora.report.predictions import load_predictions
from symlora.store.folder import scan
from symlora.store.listing import table


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
    found = committed()
    assert found.bad == () and found.found == len(found.runs) >= 16
    rte = found.runs[found.runs["task"] == "rte"]
    assert rte["chance"].unique() == pytest.approx([146 / 277])  # RTE's validation split: 146 of entailment, 131 not
    assert list(rte["at_chance"]) == list(rte["score"] <= 146 / 277) and rte["at_chance"].any()
    stsb = found.runs[(found.runs["task"] == "stsb") & ~found.runs["chose"]]  # a grid's largest rates fail
    assert len(stsb) and not stsb["at_chance"].any()


def test_at_chance_means_not_above_the_majority_class(tmp_path: Path) -> None:
    write_seeds(tmp_path, symlora=[59, 60, 61], majority=60)
    assert list(collect(tmp_path).runs["at_chance"]) == [True, True, False]


def test_chance_of_each_metric() -> None:
    labels = np.array([1, 1, 1, 0])
    assert chance_level("accuracy", labels) == 0.75
    assert chance_level("f1", labels) == pytest.approx(6 / 7)
    assert [chance_level(name, labels) for name in ("matthews_correlation", "pearson", "spearmanr")] == [0, 0, 0]


Spoil = Callable[[Path], Any]


def _record(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    return lambda folder: edit_run(folder, change)


def _unsealed(folder: Path) -> None:
    """Change run.json as a text editor does."""
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"finished"', '"failed"'))


def _score(value: Any) -> Spoil:
    def change(record: dict[str, Any]) -> None:
        record["selections"]["best"]["metrics"]["validation"]["accuracy"] = record["score"]["value"] = value

    return _record(change)


def _predictions(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "predictions.parquet"
        change(pd.read_parquet(path)).to_parquet(path)
        edit_run(folder)

    return spoil


def _cell(column: str, value: Any) -> Spoil:
    return _predictions(lambda table: table.assign(**{column: [value, *table[column][1:]]}))


BAD: dict[str, tuple[Spoil, str]] = {
    "truncated": (lambda folder: os.truncate(folder / "run.json", 200), "cut short"),
    "a list": (lambda folder: (folder / "run.json").write_text("[]"), "no record"),
    "no run.json": (lambda folder: (folder / "run.json").unlink(), "has no run.json"),
    "other schema": (_record(lambda record: record.update(schema_version=7)), "schema version 7"),
    "no schema": (_record(lambda record: record.pop("schema_version")), "schema version None"),
    "edited": (_unsealed, "run.json was changed"),
    "no configuration": (_record(lambda record: record.pop("config")), "lacks something"),
    "running": (_record(lambda record: record.update(status="running")), "neither finished nor failed"),
    "nan": (_score(float("nan")), "its predictions give accuracy 0.700000 on validation under best, not nan"),
    "text": (_score("0.7"), "not a number"),
    "points": (_score(70.0), "fractions are expected"),
    "other epoch's score": (_record(lambda record: record["score"].update(value=0.1)), "not that of its own rule"),
    "no predictions": (lambda folder: (folder / "predictions.parquet").unlink(), "predictions.parquet: No such file"),
    "changed": (lambda folder: (folder / "predictions.parquet").write_text("x"), "predictions.parquet has 1 bytes"),
    "short": (_predictions(lambda table: table[:150]), "50 rows (50 different) of validation under last; the split"),
    "a row twice": (_cell("idx", 1), "100 rows (99 different)"),
    "hidden labels": (_predictions(lambda table: table.assign(label=-1)), "cannot be scored on validation"),
    "other predictions": (_cell("prediction", 0), "its predictions give accuracy 0.69"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD.values(), ids=list(BAD))
def test_a_bad_folder_is_named_left_out_and_counted(tmp_path: Path, spoil: Spoil, reason: str) -> None:
    good, bad = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    spoil(bad)
    found = collect(tmp_path)
    assert found.found == 2 and list(found.runs["folder"]) == [good]
    (problem,) = found.bad
    assert problem.startswith(f"{bad.relative_to(tmp_path).as_posix()}: ")
    assert reason in problem and str(tmp_path) not in problem


def test_a_run_that_collapsed_blocks_the_verdict_as_a_failed_one(tmp_path: Path) -> None:
    """Pearson's r of equal predictions is not defined, which run.json writes as null."""
    write_seeds(tmp_path, "stsb", lora=[70, 71, 72], symlora=[70, 72, 74])
    folder = next(tmp_path.rglob("symlora/stsb/*/seed-2"))

    def collapse(record: dict[str, Any]) -> None:
        record["score"]["value"] = None
        for chosen in record["selections"].values():
            chosen["metrics"]["validation"]["pearson"] = None

    _predictions(lambda table: table.assign(prediction=2.5))(folder)
    edit_run(folder, collapse)
    found = collect(tmp_path)
    assert found.bad == () and len(found.runs) == 6
    chosen = {key[3]: entry for key, entry in choose(found.runs, {}, ("stsb",)).items() if key[2] == "stsb"}
    assert [chosen[method].failed for method in ("lora", "symlora")] == [0, 1]
    pair = compare(chosen["symlora"], chosen["lora"], read_yaml(CONFIG_DIR / "report.yaml", Criteria))
    assert pair is not None and pair.obstacle == "1 failed" and len(pair.seeds) == 2


def test_a_run_folder_may_be_the_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path).rename(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert len(collect(Path("run")).runs) == 1


def test_of_two_folders_of_one_run_the_one_in_its_place_is_kept(tmp_path: Path) -> None:
    good = write_run(tmp_path, seed=0)
    shutil.copytree(good, tmp_path / "a-copy" / "seed-0")  # sorts before the original
    shutil.copytree(good, good.with_name(".seed-1.abcd"))  # is still going
    found = collect(tmp_path)
    assert found.found == 2 and list(found.runs["folder"]) == [good]
    (problem,) = found.bad
    assert problem.startswith("a-copy/seed-0: ") and good.relative_to(tmp_path).as_posix() in problem


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_no_runs_says_what_makes_some(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SymloraError, match="make glue TASK=rte"):
        collect(tmp_path / name)


def test_predictions_come_in_the_order_of_idx(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    before = load_predictions(folder, "best", "validation")
    _predictions(lambda table: table[::-1])(folder)
    assert load_predictions(folder, "best", "validation").equals(before) and len(before) == 100


def _chosen(root: Path, best: Any = None) -> Chosen:
    return choose(collect(root).runs, best or {})[("minilm", "short", "rte", "symlora")]


def _point(chosen: Chosen) -> tuple[float, float]:
    (point,) = {tuple(point) for point in chosen.runs[["lr", "batch_size"]].to_numpy().tolist()}
    return point


def _grid(root: Path, method: str = "symlora") -> None:
    for lr, held_out in ((1e-3, 0.7), (2e-3, 0.8), (4e-3, 0.6)):
        for batch in (16, 32):
            write_run(root, method, lr=lr, batch_size=batch, held_out=held_out - (batch == 32) * 0.1)


def test_a_grid_at_one_seed_is_decided_on_the_held_out_slice(tmp_path: Path) -> None:
    _grid(tmp_path)
    chosen = _chosen(tmp_path)
    assert _point(chosen) == (2e-3, 16) and len(chosen.grid) == 6 and "held-out slice" in chosen.why
    assert grid_edge(chosen) == "lr inside 3"


def test_equal_scores_go_to_the_smaller_rate_and_then_the_larger_batch(tmp_path: Path) -> None:
    for lr, batch in ((4e-3, 16), (2e-3, 16), (2e-3, 32), (4e-3, 32)):
        write_run(tmp_path, lr=lr, batch_size=batch, held_out=0.7)
    write_run(tmp_path, lr=1e-3, batch_size=32, held_out=0.7, status="failed")  # tried, and without a score
    chosen = _chosen(tmp_path)
    assert _point(chosen) == (2e-3, 32) and grid_edge(chosen) == "lr inside 3"


def test_grids_of_unlike_points_are_told(tmp_path: Path) -> None:
    _grid(tmp_path)
    _grid(tmp_path, "lora")

    def told() -> list[str]:
        chosen = choose(collect(tmp_path).runs, {})
        return unlike({key: cell for key, cell in chosen.items() if key[0] == "minilm"})

    assert told() == []
    write_run(tmp_path, lr=8e-3, held_out=0.1)
    assert told() == ["RTE: not tried at the same grid points (LoRA 6, SymLoRA 7)."]


def test_more_seeds_win_over_the_grid_which_is_not_averaged(tmp_path: Path) -> None:
    _grid(tmp_path)
    write_run(tmp_path, lr=4e-3, batch_size=16, seed=1, held_out=0.1)
    write_run(tmp_path, lr=4e-3, batch_size=16, seed=2, status="failed")  # a failed seed counts for the choice
    chosen = _chosen(tmp_path)
    assert list(chosen.runs["seed"]) == [0, 1, 2] and set(chosen.runs["lr"]) == {4e-3}
    assert chosen.failed == 1 and len(chosen.finished) == 2
    assert len(chosen.grid) == 6 and set(chosen.grid["seed"]) == {0}  # not the other seeds
    assert grid_edge(chosen) == "edge: lr highest of 3"


def test_seeds_that_chose_a_point_take_no_part_in_its_mean(tmp_path: Path) -> None:
    for lr, scores in ((1e-3, (0.9, 0.5)), (2e-3, (0.8, 0.8)), (4e-3, (1.0, None))):
        for seed, score in zip((100, 101), scores, strict=True):
            status = "failed" if score is None else "finished"
            write_run(tmp_path, lr=lr, seed=seed, held_out=score or 0.1, status=status, grid_seeds=[100, 101])
    assert {key[0] for key in choose(collect(tmp_path).runs, {})} == {"roberta-base"}  # a grid alone is no section
    for seed in (0, 1):
        write_run(tmp_path, lr=2e-3, seed=seed, held_out=0.1, grid_seeds=[100, 101])
    chosen = _chosen(tmp_path)
    assert list(chosen.runs["seed"]) == [0, 1] and list(chosen.grid["lr"]) == [1e-3, 2e-3, 4e-3]
    assert chosen.grid["criterion"].tolist() == pytest.approx([0.7, 0.8, float("nan")], nan_ok=True)
    assert list(chosen.grid["status"]) == ["finished", "finished", "failed"]
    listed = [line for line in table(record for _, record in scan(tmp_path)).splitlines() if " 0.002 " in line]
    assert ["(2 grid seeds)" in line for line in listed] == [False, True]


def test_settings_that_older_runs_lack_part_no_grid(tmp_path: Path) -> None:
    later = {"head_lr": None, "patience": None, "compile": "auto", "gradient_accumulation_steps": 2}
    for number, lr in enumerate((1e-3, 2e-3, 4e-3)):
        folder = write_run(tmp_path, lr=lr, held_out=0.1 * number + 0.1)
        if lr > 1e-3:
            edit_run(folder, lambda record: record["config"]["train"].update(later))
    assert len(_chosen(tmp_path).grid) == 3
    edit_run(folder, lambda record: record["config"]["train"].update(patience=1))
    assert len(set(collect(tmp_path).runs["grid"])) == 2


def test_runs_on_other_data_stand_in_a_section_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, "lora")
    folder = write_run(tmp_path)
    edit_run(folder, lambda record: record["config"]["data"].update(source="demo", train_limit=32))
    runs = collect(tmp_path).runs
    section = "short (demo sentences, 32 training rows)"
    assert dict(zip(runs["method"], runs["protocol"], strict=True)) == {"lora": "short", "symlora": section}
    assert {key[1] for key, cell in choose(runs, {}).items() if len(cell.runs)} == {"short", section}
    assert table([read_record(folder)]).startswith(f"protocol {section}, model minilm")


def test_the_selection_written_down_wins(tmp_path: Path) -> None:
    _grid(tmp_path / "runs")
    place = tmp_path / "best" / "short" / "minilm"
    place.mkdir(parents=True)
    (place / "symlora-rte.yaml").write_text("# @package _global_\ntrain: {lr: 1e-3, batch_size: 32}\n")
    chosen = _chosen(tmp_path / "runs", read_best(tmp_path / "best"))
    assert _point(chosen) == (1e-3, 32)
    assert chosen.why == "as selected (configs/best)" and grid_edge(chosen) == "edge: lr lowest of 3"
    (place / "symlora-rte.yaml").write_text("train: 3\n")
    with pytest.raises(SymloraError, match="symlora-rte.yaml"):
        read_best(tmp_path / "best")


def test_seeds_that_only_one_method_has_are_missing(tmp_path: Path) -> None:
    write_seeds(tmp_path, lora=[70, 70, 70], head=[70])
    write_run(tmp_path, "symlora", seed=1)
    chosen = choose(collect(tmp_path).runs, {})
    missing = {key[3]: cell.missing for key, cell in chosen.items() if key[:3] == ("minilm", "short", "rte")}
    assert missing == {"lora": (), "symlora": (0, 2), "head": ()}
    paper = [key for key in chosen if key[:2] == ("roberta-base", "paper")]
    assert len(paper) == 16 and all(chosen[key].runs.empty for key in paper)  # gaps that must be seen


def test_leaderboard_entries_are_read_one_by_one(tmp_path: Path) -> None:
    entry = "- {protocol: paper, model: m, method: symlora, task: rte, score: 78.1, date: 2026-12-01, url: here}\n"
    # No number, an unknown key, no score, and no points.
    wrong = ("rte, score: abc", "rte, scor: 78.1", "rte", "rte, score: .nan", "rte, score: 781")
    again = "the same protocol, model, method and task has a score already"
    (tmp_path / "a.yaml").write_text(entry + "".join(entry.replace("rte, score: 78.1", text) for text in wrong) + entry)
    (tmp_path / "b.yaml").write_text("- [")
    scores, problems = load_leaderboard(tmp_path)
    (found,) = scores.items()
    assert found[0] == ("paper", "m", "symlora", "rte") and (found[1].score, found[1].date) == (78.1, "2026-12-01")
    places = [*(f"a.yaml, entry {number}" for number in range(2, 8)), "b.yaml"]
    assert [problem.split(": ")[0] for problem in problems] == [f"{tmp_path.name}/{place}" for place in places]
    assert "abc" in problems[0] and "scor" in problems[1] and problems[5].endswith(f": {again}")


@pytest.mark.parametrize(
    ("old", "new"),
    [("power", "pwer"), ("seed: 0", ""), ("alpha: 0.05", "alpha: small"), ("level", "- ["), ("0.95", "95")],
)
def test_criteria_have_their_keys_and_types(tmp_path: Path, old: str, new: str) -> None:
    text = (CONFIG_DIR / "report.yaml").read_text()
    assert old in text
    (tmp_path / "report.yaml").write_text(text.replace(old, new))
    with pytest.raises(SymloraError, match="report.yaml"):
        build(tmp_path, criteria_file=tmp_path / "report.yaml")
    assert read_yaml(CONFIG_DIR / "report.yaml", Criteria).margin == 1.0
