"""Check the tables cell by cell, their formats and the command line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_runs import edit_run, write_run, write_seeds
from scipy import stats as scipy_stats

from symlora.audit.names import TASKS
from symlora.cli import main
from symlora.config.compose import CONFIG_DIR
from symlora.report import cost
from symlora.report.build import Report, build
from symlora.report.collect import collect
from symlora.report.comparison import Paired
from symlora.report.figures.cost import cost_panel, cost_points
from symlora.report.formats import to_csv, to_latex, to_markdown
from symlora.report.report_page import answer
from symlora.report.table import Cell, Section, Table, gap
from symlora.stats import seeds_needed

SHORT = "Ours: MiniLM, protocol short"
PAPER = "Ours: RoBERTa-base, protocol paper"
SOME = [70, 72, 74]


def _build(root: Path, tasks: tuple[str, ...] = ("rte",), **places: Path) -> Report:
    """Build a report with few resamples, and nothing typed unless given."""
    criteria, nowhere = root / "report.yaml", root / "nowhere"
    criteria.write_text((CONFIG_DIR / "report.yaml").read_text().replace("resamples: 10000", "resamples: 200"))
    return build(root, tasks, **{"leaderboard": nowhere, "best": nowhere, "criteria_file": criteria, **places})


def _row(report: Report, name: str, section: str, *begins: str) -> dict[str, str]:
    """Find a row by its first cells; a repeated header gets a 2."""
    table = next(table for table in report.tables if table.name == name)
    (found,) = [part for part in table.sections if part.title == section]
    (row,) = [row for row in found.rows if tuple(cell.text for cell in row[: len(begins)]) == begins]
    names = [f"{name}2" if name in table.header[:i] else name for i, name in enumerate(table.header)]
    return dict(zip(names, (cell.text for cell in row), strict=True))


def test_the_paper_as_printed_and_without_truncation(tmp_path: Path) -> None:
    write_run(tmp_path)
    report = _build(tmp_path)
    printed = "The paper, RoBERTa-base: as printed (arXiv 2504.03719, table 1)"
    again = "The same, from published numbers without truncation, in points"
    table = report.tables[0]
    assert [section.title for section in table.sections] == [printed, again, PAPER, SHORT]
    tasks = ["MNLI", "SST-2", "MRPC", "CoLA", "QNLI", "QQP", "RTE", "STS-B"]
    assert [[row[0].text for row in section.rows] for section in table.sections[:2]] == [tasks, tasks]
    assert list(_row(report, "table1", printed, "RTE").values()) == [
        *("RTE", "accuracy", "0.86", "0.85 ± 4.1", "not printed", "0.78 ± 1.5")
    ]
    assert _row(report, "table1", printed, "CoLA")["SymLoRA, test"] == "0.60*"
    assert _row(report, "table1", again, "QQP")["LoRA, validation"] == "90.8 ± 0.1"  # printed as 0.90
    assert _row(report, "table1", again, "MRPC")["LoRA, validation"] == "89.7 ± 0.7 (from MNLI)"
    mrpc = _row(report, "table1", again, "MRPC")
    wilson = scipy_stats.binomtest(round(0.885 * 408), 408).proportion_ci(method="wilson")
    assert mrpc["SymLoRA, validation"] == f"88.0 to 89.0, ± {50 * (wilson.high - wilson.low):.1f}"  # printed: ± 1.5
    half = 50 * (
        math.tanh(math.atanh(0.905) + 1.959964 / 1497**0.5) - math.tanh(math.atanh(0.905) - 1.959964 / 1497**0.5)
    )
    assert _row(report, "table1", again, "STS-B")["SymLoRA, validation"] == f"90.0 to 91.0, ± {half:.1f}"
    assert _row(report, "table1", again, "CoLA")["SymLoRA, validation"] == "63.0 to 64.0"


def _half(s: float, n: int) -> str:
    """Compute the half-width of a t interval of n values."""
    return f"{scipy_stats.t.ppf(0.975, n - 1) * s / math.sqrt(n):.1f}"


@pytest.mark.parametrize(
    ("name", "loras", "ours", "cells"),
    [
        ("table1", SOME, [87, 87, 87, 88], {
            "LoRA, validation": f"72.0 ± {_half(2, 3)} (n = 3, 1 missing)",
            "SymLoRA, validation": f"87.2 ± {_half(0.5, 4)} (n = 4)",  # 87.25: half to even
        }),
        ("table1", [70, 55, None], [70], {
            "LoRA, validation": f"62.5 ± {_half(15 / math.sqrt(2), 2)} (n = 2, 1 at chance, 1 failed)",
            "SymLoRA, validation": "70.0 (n = 1, 2 missing)",
        }),
        ("table2", SOME, SOME, {"Verdict": "equivalent (no spread)", "p McNemar": "1.000", "Needed": "–"}),
        ("table2", SOME, [75, 77, 80], {"Verdict": "better", "p McNemar": "0.062", "Needed": "–"}),  # 2 · 0.5^5
        ("table2", SOME, [65, 67, 68], {"Verdict": "worse", "p McNemar": "0.062", "Needed": "–"}),
        ("table2", [60, 60, 60], [60, 60, 60], {"Verdict": "none (6 at chance)", "Mean": "60.0 (chance)"}),
        ("table2", [70, 72, 74, 99], [71, 73, None], {"n": "2 (1 failed, 1 missing)", "Difference": "1.0"}),
        ("table3", [70, 72], [None], {"n": "failed"}),
        ("table3", [70, 72], [70, 72], {"PSCP": f"{71 / (1 + 150 / 250) / 4:.1f}"}),
    ],
)  # fmt: skip
def test_cells(tmp_path: Path, name: str, loras: list[int], ours: list[int], cells: dict[str, str]) -> None:
    write_seeds(tmp_path, lora=loras, symlora=ours)
    row = _row(_build(tmp_path), name, SHORT, "RTE", *(["SymLoRA"] if name != "table1" else []))
    assert {column: row[column] for column in cells} == cells


def test_encoders_and_protocols_are_sections(tmp_path: Path) -> None:
    write_run(tmp_path, right=70)
    write_run(tmp_path, right=80, protocol="short_holdout", held_out=0.5)
    report = _build(tmp_path)
    assert _row(report, "table1", SHORT, "RTE")["SymLoRA, validation"] == "70.0 (n = 1)"
    other = _row(report, "table1", "Ours: MiniLM, protocol short_holdout", "RTE")
    assert other["SymLoRA, validation"] == "80.0 (n = 1)"
    paper = _row(report, "table1", PAPER, "RTE")  # another encoder fills no cell of the paper's
    assert paper["LoRA, validation"] == paper["SymLoRA, validation"] == "no run"
    (section,) = [part for part in report.tables[0].sections if part.title == SHORT]
    assert section.notes == ("A made-up encoder.",)


def test_a_test_score_comes_from_the_leaderboard_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "runs")
    board = tmp_path / "leaderboard"
    board.mkdir()
    entry = "- {protocol: short, model: minilm, method: symlora, task: rte, date: 2026-12-01, url: u, score: 68.05}\n"
    (board / "mine.yaml").write_text(entry * 2 + entry.replace("minilm", "minlim"))
    report = _build(tmp_path / "runs", leaderboard=board)
    row = _row(report, "table1", SHORT, "RTE")
    assert row["SymLoRA, test"] == "68.0 (2026-12-01)" and row["LoRA, test"] == "no score"
    again, unshown = report.tally.bad
    assert again.startswith("leaderboard/mine.yaml, entry 2: ")
    assert "minlim" in unshown and "no row of table 1" in unshown


def test_the_tests_of_one_task(tmp_path: Path) -> None:
    write_seeds(tmp_path, lora=[70, 72, 74], symlora=[70, 73, 74])
    report = _build(tmp_path)
    row = _row(report, "table2", SHORT, "RTE", "SymLoRA")
    s = math.sqrt(1 / 3)
    half = scipy_stats.t.ppf(0.975, 2) * s / math.sqrt(3)
    p = scipy_stats.t.sf((1 - 1 / 3) / (s / math.sqrt(3)), 2)
    assert (row["n"], row["Mean"], row["s"]) == ("3", "72.3", "2.1")
    assert (row["Difference"], row["95 %, paired"]) == ("0.3", f"{1 / 3 - half:.1f} to {1 / 3 + half:.1f}")
    assert (row["Verdict"], row["p TOST"], row["Holm2"]) == ("inconclusive", f"{p:.3f}", f"{p:.3f}")
    assert (row["p t"], row["Holm"], row["p sign flip"], row["p McNemar"]) == ("0.423", "0.423", "1.000", "1.000")
    assert (row["lr"], row["Batch"], row["In its grid"]) == ("4e-3", "16", "no grid")
    low, high = map(float, row["95 %, seeds and rows"].split(" to "))
    assert low <= 0.0 and 0.3 < high < 4.0
    assert int(row["Needed"]) > 3
    assert _row(report, "table2", SHORT, "RTE", "LoRA")["Difference"] == "reference"


def test_a_failed_run_leaves_no_verdict_and_the_family_is_fixed(tmp_path: Path) -> None:
    def judge() -> dict[str, tuple[str, Paired]]:
        report = _build(tmp_path, ("cola", "mrpc"))
        pairs = {task: report.pairs["minilm", "study", task, "symlora"] for task in ("cola", "mrpc")}
        rows = {task: _row(report, "table2", "Ours: MiniLM, protocol study", TASKS[task], "SymLoRA") for task in pairs}
        return {task: (rows[task]["Verdict"], pairs[task]) for task in pairs}

    for task, worse in (("cola", [60, 61, 64]), ("mrpc", [81, 84, 86])):  # the family's STS-B has no run here
        write_seeds(tmp_path, task, lora=[90, 92, 94], symlora=worse, protocol="study", majority=50)
    judged = judge()
    verdict, pair = judged["cola"]
    assert verdict == "worse" and pair.decision is not None and pair.p_difference is not None
    assert pair.decision.p_difference == pytest.approx(3 * pair.p_difference)
    spread = scipy_stats.tstd([a - b for a, b in zip(*pair.scores, strict=True)])
    assert pair.needed == seeds_needed(spread, 1.0, 0.8, 0.05 / 3)
    assert judged["mrpc"][0] == "worse"
    write_run(tmp_path, "lora", "mrpc", seed=3, status="failed", protocol="study", majority=50)
    judged = judge()
    assert judged["cola"][1].decision == pair.decision
    verdict, failed = judged["mrpc"]
    assert verdict == "none (1 failed)" and failed.decision is not None and failed.decision.p_difference == 1


def test_the_verdict_holds_over_the_tasks_of_a_section(tmp_path: Path) -> None:
    write_seeds(tmp_path, lora=[70, 72, 74], symlora=[75, 80, 79])
    alone = _row(_build(tmp_path), "table2", SHORT, "RTE", "SymLoRA")
    p = scipy_stats.ttest_rel([75, 80, 79], [70, 72, 74]).pvalue
    assert (alone["Verdict"], alone["p t"], alone["Holm"]) == ("better", f"{p:.3f}", f"{p:.3f}")
    for task in ("mrpc", "cola"):  # noise
        write_seeds(tmp_path, task, lora=[70, 72, 74], symlora=[72, 70, 77])
    write_seeds(tmp_path, "stsb", lora=[70], symlora=[70])  # one seed: in no family
    write_seeds(tmp_path, head=[60, 61, 62])  # another method is another family
    report = _build(tmp_path, ("rte", "mrpc", "cola", "stsb"))
    rte = _row(report, "table2", SHORT, "RTE", "SymLoRA")
    assert (rte["Verdict"], rte["p t"], rte["Holm"]) == ("inconclusive", f"{p:.3f}", f"{3 * p:.3f}")
    assert rte["95 %, paired"] == alone["95 %, paired"]  # not corrected
    stsb = _row(report, "table2", SHORT, "STS-B", "SymLoRA")
    assert [stsb[name] for name in ("Verdict", "p t", "Holm", "p TOST", "p sign flip")] == ["one seed", *["–"] * 4]


def test_other_rows_under_the_same_name_get_no_verdict(tmp_path: Path) -> None:
    write_seeds(tmp_path, lora=[70, 72])
    write_seeds(tmp_path, symlora=[70, 72], majority=50)
    row = _row(_build(tmp_path), "table2", SHORT, "RTE", "SymLoRA")
    assert (row["p McNemar"], row["95 %, seeds and rows"], row["Difference"]) == ("–", "–", "0.0")
    assert row["Verdict"] == "none (other rows)" and row["Holm"] == "1.000"


@pytest.mark.parametrize("lost", [1, 4, 5])
def test_failing_on_other_tasks_makes_no_verdict_easier(lost: int, tmp_path: Path) -> None:
    write_seeds(tmp_path, "cola", lora=[70, 72, 74, 71, 73], symlora=[75, 80, 79, 76, 80])
    for task in ("mrpc", "stsb"):
        write_seeds(tmp_path, task, lora=[90, 91, 92, 90, 91], symlora=[*[None] * lost, *[80, 84, 81, 82][lost - 1 :]])
    report = _build(tmp_path, ("cola",))  # the others are shown too, as they have runs
    pair = report.pairs["minilm", "short", "cola", "symlora"]
    assert pair.decision is not None and pair.p_difference is not None
    assert pair.decision.p_difference == pytest.approx(3 * pair.p_difference)
    verdict = _row(report, "table2", SHORT, "MRPC", "SymLoRA")["Verdict"]
    assert verdict == f"none ({lost} failed)"
    assert f"MRPC ({lost} failed)" in answer(report, "minilm", "short")


def test_correlations_get_a_two_level_interval_and_no_mcnemar(tmp_path: Path) -> None:
    write_seeds(tmp_path, "stsb", lora=[90, 92], symlora=[80, 82])
    row = _row(_build(tmp_path, ("stsb",)), "table2", SHORT, "STS-B", "SymLoRA")
    low, high = map(float, row["95 %, seeds and rows"].split(" to "))
    assert low < float(row["Difference"]) < high < 0 and row["p McNemar"] == "–"


def test_costs(tmp_path: Path) -> None:
    write_seeds(tmp_path, lora=[70, 72])
    assert list(_row(_build(tmp_path), "table3", SHORT, "RTE", "LoRA").values()) == [
        *("RTE", "LoRA", "2", "71.0", "200", "50", "250", "2", "1.00", "12", "9", "2.50", "–", "8.9", "a processor")
    ]  # inference: one second of ten, over two epochs of 200 sentences; PSCP: an eighth of 71


def test_test_rows_are_no_part_of_the_inference_time(tmp_path: Path) -> None:
    """They are predicted once at the end; the seconds are of scoring after each epoch."""
    write_seeds(tmp_path, lora=[70], symlora=[70])

    def predicted(record: dict[str, Any]) -> None:
        record["data"]["test"] = {"rows": 3000}
        record["config"]["task"]["test"] = ["test"]

    edit_run(next(tmp_path.rglob("symlora/rte/*/seed-0")), predicted)
    assert collect(tmp_path).runs["inference_seconds"].nunique() == 1


def test_costs_of_two_devices_or_packs_are_not_set_against_each_other(tmp_path: Path) -> None:
    write_seeds(tmp_path, lora=SOME, symlora=SOME)
    changes: dict[str, Any] = {
        "pack": lambda record: record["cost"].update(packed_runs=5),
        "device": lambda record: record["provenance"].update(device="another"),
    }
    for name, change in changes.items():
        for folder in tmp_path.rglob("symlora/rte/*/seed-?"):
            edit_run(folder, change)
        assert _row(_build(tmp_path), "table3", SHORT, "RTE", "SymLoRA")["PSCP"] == f"– (other {name})"


def test_best_and_last_epoch_are_of_the_same_seeds(tmp_path: Path) -> None:
    write_seeds(tmp_path, "stsb", lora=SOME, symlora=SOME)
    folder = next(tmp_path.rglob("symlora/stsb/*/seed-2"))
    table = pd.read_parquet(folder / "predictions.parquet")
    table.loc[table["selection"] == "last", "prediction"] = 2.5  # whose correlation is not defined
    table.to_parquet(folder / "predictions.parquet")
    edit_run(folder, lambda record: record["selections"]["last"]["metrics"]["validation"].update(pearson=None))
    row = _row(_build(tmp_path, ("stsb",)), "table4", SHORT, "STS-B", "SymLoRA")
    assert row["n"] == "3" and row["Best epoch"] != row["Last epoch"] == row["Best − last"] == "–"


def test_a_split_of_two_rows_has_a_table_and_no_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("report_runs.ROWS", 2)
    write_seeds(tmp_path, "stsb", lora=[2, 2], symlora=[2, 2])
    for folder in tmp_path.rglob("seed-?"):
        edit_run(folder, lambda record: record["config"]["task"]["splits"].update(validation=2))
    assert _row(_build(tmp_path, ("stsb",)), "table4", SHORT, "STS-B", "SymLoRA")["Rows, one model"] == "–"


@pytest.mark.parametrize(
    ("key", "runs", "change"),
    [
        ("train.epochs", "{}/rte/*/*", lambda record: record["config"]["train"].update(epochs=20)),
        ("precision", "{}/rte/*/seed-1", lambda record: record.update(precision="bf16")),
        (
            "weights",
            "*/rte/*/*",
            lambda record: record["provenance"].update(weights_sha256=record["config"]["method"]["name"]),
        ),
    ],
)
@pytest.mark.parametrize(("method", "name"), [("symlora", "SymLoRA"), ("dora", "dora")])
def test_settings_that_differ_between_methods_are_said(
    method: str, name: str, key: str, runs: str, change: Any, tmp_path: Path
) -> None:
    for own in ("lora", method):
        for seed in range(3):
            write_run(tmp_path, own, seed=seed)

    def notes() -> str:
        (section,) = [part for part in _build(tmp_path).tables[1].sections if part.title == SHORT]
        return " ".join(section.notes)

    assert "other settings" not in notes()
    for folder in tmp_path.rglob(runs.format(method)):
        edit_run(folder, change)
    assert f"RTE: LoRA and {name} differ in other settings ({key})." in notes()


def test_pscp_is_the_score_over_its_penalties(tmp_path: Path) -> None:
    free = dict.fromkeys(cost.PENALISED, 0.0)
    lora = {"total": 5e8, "peak_memory_bytes": 94e9, "inference_seconds": 0.01}
    assert cost.pscp(80.0, free, lora) == 80.0 and cost.pscp(80.0, lora, lora) == 10.0
    assert cost.pscp(80.0, {**lora, "total": 1.5e9}, lora) == 5.0  # three times the parameters
    assert cost.pscp(60.0, {**free, "peak_memory_bytes": 47e9}, lora) == pytest.approx(40.0)
    write_seeds(tmp_path, lora=[70, 72], symlora=[70, 72])
    points = cost_points(_build(tmp_path).chosen, "minilm", "short")
    assert list(points["pscp"]) == pytest.approx([71 / 8, 71 / 6.4]) and list(points["inference_ms"]) == [2.5, 2.5]


@pytest.mark.parametrize(
    ("change", "lacking", "column"),
    [
        (lambda record: record["cost"].pop("peak_memory_bytes"), "no memory recorded", "Memory, GiB"),
        (lambda record: record["cost"].pop("train_seconds"), "no inference time recorded", "Training, s"),
        (lambda record: record.pop("epochs"), "no inference time recorded", "Inference, ms"),
    ],
)
def test_a_cost_that_an_old_run_lacks_is_a_dash_with_a_reason(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], lacking: str, column: str
) -> None:
    write_seeds(tmp_path, lora=[70, 72])
    write_seeds(tmp_path, "mrpc", head=[60, 61])
    edit_run(write_run(tmp_path, "symlora"), change)
    report = _build(tmp_path, ("rte", "mrpc"))
    row = _row(report, "table3", SHORT, "RTE", "SymLoRA")
    assert (row[column], row["PSCP"], row["Score"]) == ("–", f"– ({lacking})", "70.0")
    assert _row(report, "table3", SHORT, "RTE", "LoRA")["PSCP"] == "8.9"
    assert _row(report, "table3", SHORT, "MRPC", "head alone")["PSCP"] == "– (no run of LoRA)"
    points = cost_points(report.chosen, "minilm", "short")
    assert points.loc[points["method"] == "symlora", "pscp"].isna().all()
    drawn = cost_panel(points, "MiniLM, protocol short")
    told = points[["parameters", "memory_gib", "training_seconds", "inference_ms"]].notna().to_numpy().sum()
    assert sum(len(axes.lines) for axes in drawn.axes) == told  # what is not told has no point
    assert [axes.get_ylim() for axes in drawn.axes[-4:]] == [(69.5, 71.5)] * 4  # 70 and 71, at least two points apart


def test_best_last_and_held_out_side_by_side(tmp_path: Path) -> None:
    write_seeds(tmp_path, lora=[70, 72], best=76, last=69, held_out=0.8)
    write_seeds(tmp_path, symlora=[70], best=70, last=66)
    report = _build(tmp_path)
    row = _row(report, "table4", SHORT, "RTE", "LoRA")
    columns = ("Best epoch", "Last epoch", "Held-out epoch", "Best − last", "Best − held-out")
    assert [row[name] for name in columns] == ["76.0", "69.0", "71.0", "7.0", "5.0"]
    wilson = scipy_stats.binomtest(70, 100).proportion_ci(method="wilson")
    assert row["Rows, one model"] == f"{100 * wilson.low:.1f} to {100 * wilson.high:.1f}"
    assert (row["Chance"], row["Median"], row["At chance"]) == ("60.0", "71.0", "0")
    row = _row(report, "table4", SHORT, "RTE", "SymLoRA")
    assert [row[name] for name in columns] == ["70.0", "66.0", "–", "4.0", "–"] and row["Missing"] == "1"


def test_the_footer_counts_and_names(tmp_path: Path) -> None:
    write_seeds(tmp_path, lora=[70, 72, 74], symlora=[70, 72])
    write_seeds(tmp_path, "mrpc", lora=[None])
    (write_run(tmp_path, "symlora", "mrpc") / "run.json").write_text('{"schema_version": 9}')
    write_run(tmp_path, protocol="study", grid_seeds=[0])
    report = _build(tmp_path, ("rte", "mrpc"))
    counts = report.tally
    assert (counts.found, counts.finished, len(counts.failed), len(counts.bad)) == (8, 6, 1, 1)
    assert (len(counts.seeds), len(counts.cells), counts.complete) == (1, 5, False)  # 4 of RoBERTa's, 1 left out
    for table in report.tables:
        text = "\n".join(table.footers)
        assert "Runs: 8 found: 6 finished, 1 failed, 1 left out. Missing: 1 seed, 5 cells" in text
        assert "Failed: short/minilm/lora/mrpc/" in text and "Diverged" in text
        assert "Left out: short/minilm/symlora/mrpc/" in text and "schema version 9" in text
        assert "Missing seeds: MiniLM, protocol short, SymLoRA on RTE: 2." in text
        assert "Grid runs only, so not in any table yet: MiniLM, protocol study, 1 run." in text
        assert "Made by commit: 0123456789." in text and "torch 9.9" in text and "a processor, fp32" in text
    assert _row(report, "table2", SHORT, "MRPC", "LoRA")["n"] == "0 (1 failed)"


def _table() -> Table:
    rows = ((Cell("a_b|c"), Cell("87.2 ± 0.8", 87.25, 0.75)), (Cell("50 %"), gap("no run")))
    sections = (Section("S_1", ("n*te",), rows),)
    return Table("t", "Table 9. Odds & ends", "In `code_x` and 95 %.", ("Name", "Mean"), sections, ("f<g",), labels=1)


def test_markdown() -> None:
    assert to_markdown(_table()).splitlines() == [
        *("## Table 9. Odds & ends", "", "In `code_x` and 95 %.", "", "### S\\_1", "", "n\\*te", ""),
        *("| Name | Mean |", "| --- | ---: |", "| a\\_b\\|c | 87.2 ± 0.8 |", "| 50 % | _no run_ |", "", "- f&lt;g"),
    ]


def test_latex() -> None:
    text = to_latex(_table())
    assert r"a\_b|c & 87.2 $\pm$ 0.8 \\" in text and r"50 \% & no run \\" in text
    assert r"\caption{Odds \& ends}" in text and r"\multicolumn{2}{l}{\textit{S\_1}} \\" in text
    assert text.count("{") == text.count("}") and r"\begin{tabular}{lr}" in text
    assert all(text.count(rule) == 1 for rule in (r"\toprule", r"\bottomrule"))


def test_csv_holds_unrounded_numbers_and_the_text_that_says_more() -> None:
    assert to_csv(_table()).splitlines() == ["Section,Name,Mean,Mean ±", "S_1,a_b|c,87.25,0.75", "S_1,50 %,no run,"]
    row = (Cell("MNLI"), Cell("86.0 to 87.0, ± 0.5", 86.5, 0.48))
    assert to_csv(Table("t", "", "", ("Task", "Mean"), (Section("s", (), (row,)),))).splitlines() == [
        'Section,Task,Mean,Mean ±,"Mean, as shown"',
        's,MNLI,86.5,0.48,"86.0 to 87.0, ± 0.5"',
    ]


def command(*words: object) -> None:
    main(["report", *map(str, words)])


def test_table1_is_written_and_strict_fails_after_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_seeds(runs, lora=[70], symlora=[70], model="roberta-base", protocol="paper")
    arguments = ("table1", "--results-dir", runs, "--out", out)
    command(*arguments, "--tasks", "rte", "--strict")  # nothing is missing
    assert "2 found: 2 finished" in capsys.readouterr().out
    (out / "tables" / "table1.md").unlink()
    with pytest.raises(SystemExit, match="--strict"):
        command(*arguments, "--strict")  # seven tasks are
    assert (out / "tables" / "table1.md").is_file()
    (write_run(runs, "lora", seed=7, model="roberta-base", protocol="paper") / "run.json").write_text("{}")
    with pytest.raises(SystemExit, match="--strict"):
        command(*arguments, "--tasks", "rte", "--strict")
    assert "left out: paper/roberta-base/lora/rte/" in capsys.readouterr().out


def test_audit_needs_no_run(tmp_path: Path) -> None:
    command("audit", "--out", tmp_path, "--results-dir", tmp_path / "nowhere")
    assert (tmp_path / "audit.md").read_text().startswith("# ") and "<h2" in (tmp_path / "audit.html").read_text()
