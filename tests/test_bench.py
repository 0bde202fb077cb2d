"""Check the bench's counts, and that both sides do the same work."""

import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import CPU, ROOT, TinyFactory, made_up, run_config
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(ROOT / "scripts"))

from bench import workers
from bench.__main__ import main
from bench.cases import DYNAMIC, PADDED, RIVAL, Settings, cases
from bench.flops import Shape, needed
from bench.report import task_table, text
from bench.trainers import Baseline, Ours
from bench.work import Case, Load, measuring_rows

from symlora.data.batches import pack_batch
from symlora.errors import SymloraError

LENGTHS = [5, 3, 12, 4, 8, 9, 3, 15, 7, 3, 4, 11]
OPTIONS = "--tasks rte --runs 2 --rounds 1 --steps 1 --min-seconds 0 --cores 1 --precision fp32 --model-shape 1x64"
RECORD = json.loads((ROOT / "results" / "bench" / "intel-xeon-processor.json").read_text())
COUNTS = ("steps", "run_steps", "sentences", "tokens", "flops")


def load(
    folder: Path, lengths: list[int], method: str = "lora", padding: str = "none", dropout: float = 0.0, runs: int = 1
) -> Load:
    side = "ours" if padding == "none" else "baseline"
    case = Case("a case", side, method, padding, "fp32", dropout, runs)
    return Load(case, run_config(folder, method), made_up(lengths), np.ones(len(lengths)), batch_size=4)


def baseline(what: Load) -> Baseline:
    words = Tokenizer(WordLevel({"[PAD]": 0}, unk_token="[PAD]"))
    return Baseline(what, CPU, PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]"))


def sizes(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> dict[str, int]:
    """Count the trained ones, by name without the wrappers' own."""
    trained = {name: parameter.numel() for name, parameter in parameters if parameter.requires_grad}
    return {re.sub(r"base_model\.model\.|modules_to_save\.default\.|^model\.", "", n): s for n, s in trained.items()}


@pytest.mark.parametrize(
    ("model_type", "method"), [("bert", "symlora"), ("bert", "lora"), ("roberta", "lora"), ("distilbert", "symlora")]
)
def test_flops_are_those_that_torch_counts(tiny: TinyFactory, model_type: str, method: str) -> None:
    what = load(tiny(model_type), [16] * 4, method)  # of one length, a multiple of 16: attention pads nothing
    ours = Ours(what, CPU)
    shape = Shape.of(ours.pack.encoder.model.config, what.config)
    assert shape == Shape(width=32, inner=48, layers=2, classes=2, rank=8)
    with FlopCounterMode(display=False) as counter:
        ours.run(0, 1)
    expected = needed(shape, what.rows.lengths, first_query_only=False).sum()
    if model_type != "distilbert":  # in the last layer the first token alone attends
        expected -= 4 * 3 * 4 * 15 * 16 * 32
    else:  # all tokens go through its last layer, not the first alone
        expected += 2 * 4 * 15 * (2 * 32 * 32 + 4 * 32 * 48)
    assert counter.get_total_flops() == expected


def test_one_query_in_the_last_layer_saves_the_others_forward_and_backward() -> None:
    n, r, shape = 16, 4, Shape(width=16, inner=64, layers=3, classes=2, rank=4)
    least, all_queries = (needed(shape, np.array([1, 7]), first_query_only=first) for first in (True, False))
    per_query = 2 * 2 * n * n + 3 * 4 * 7 * n + 3 * 4 * n * r  # projection; scores and values; adapter
    assert (all_queries - least).tolist() == [0, 6 * per_query]


def test_measuring_rows_have_the_lengths_of_the_split() -> None:
    data = made_up([3 + row % 17 for row in range(170)], types=True)
    rows = measuring_rows(data, 34)
    assert len(rows) == 34 and rows.lengths.mean() == pytest.approx(data.lengths.mean())
    for row, source in enumerate(rows.idx):
        here, there = slice(*rows.offsets[[row, row + 1]]), slice(*data.offsets[[source, source + 1]])
        assert rows.input_ids[here].tolist() == data.input_ids[there].tolist()
        assert rows.arrays()["token_type_ids"][here].tolist() == data.arrays()["token_type_ids"][there].tolist()
    with pytest.raises(SymloraError, match="lower --steps"):
        measuring_rows(data, 171)


def test_grouped_rows_fill_batches_of_like_length(tmp_path: Path) -> None:
    data = made_up([3 + row % 17 for row in range(170)])
    rows = measuring_rows(data, 16, together=4)
    what = load(tmp_path, rows.lengths.tolist(), padding="grouped")
    for turn in (1, 2):
        batches = rows.lengths[what.order(turn, 0)].reshape(-1, 4)
        assert all(max(batch) - min(batch) <= 1 for batch in batches) and batches.mean() == pytest.approx(11, abs=0.3)
    assert (what.order(1, 0) != what.order(2, 0)).any() or (what.order(1, 1) != what.order(2, 1)).any()


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 8, 32])
def test_every_pack_goes_through_the_same_batches(tmp_path: Path, runs: int) -> None:
    what = load(tmp_path, [4] * 16, runs=runs)
    orders = what.orders(1, 0)
    batches = [tuple(batch) for order in orders for batch in order.reshape(-1, 4)]
    assert len(orders) == runs and {len(order) for order in orders} == {4 * what.steps}
    assert set(batches) == {tuple(batch) for batch in what.order(1, 0).reshape(-1, 4)}
    if runs != 3:  # which cannot take each as often as the others
        assert len({batches.count(batch) for batch in batches}) == 1
    assert (what.order(1, 0) != what.order(1, 1)).any() and (what.order(1, 0) != what.order(2, 0)).any()


@pytest.mark.parametrize("padding", ["maximum", "longest"])
def test_both_sides_train_the_same_parameters_on_the_same_rows(
    tiny: TinyFactory, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Ours(load(tiny("bert"), LENGTHS), CPU)
    theirs = baseline(load(tiny("bert"), LENGTHS, padding=padding))
    assert sizes(ours.pack.runs[0].trainable()) == sizes(theirs.model.named_parameters())
    assert any("pooler" in name for name in sizes(theirs.model.named_parameters()))

    collate, packed, collated = theirs.collate, Mock(wraps=pack_batch), Mock(wraps=theirs.collate)
    monkeypatch.setattr("bench.trainers.pack_batch", packed)
    theirs.collate = collated
    found, other = ours.run(3, 2), theirs.run(3, 2)
    assert [found[key] for key in COUNTS] == [other[key] for key in COUNTS] == [6, 6, 24, 2 * sum(LENGTHS), 24]
    ours_saw = torch.cat([pack_batch(*call.args).input_ids for call in packed.call_args_list])
    batches = [collate(*call.args) for call in collated.call_args_list]
    assert ours_saw.tolist() == torch.cat([b["input_ids"][b["attention_mask"] == 1] for b in batches]).tolist()
    widths = {batch["input_ids"].shape[1] for batch in batches}
    assert widths == {20} if padding == "maximum" else max(widths) == max(LENGTHS)
    assert 0 < other["started"] < other["stopped"] and 0 < found["started"] < found["stopped"]


def test_both_sides_start_from_one_model_with_the_same_dropout(tiny: TinyFactory) -> None:
    folder = tiny("bert", head=True)  # with a head in the file, none is drawn
    ours, theirs = Ours(load(folder, LENGTHS[:4]), CPU), baseline(load(folder, LENGTHS[:4], padding="maximum"))
    assert theirs.run(0, 1)["loss"] == pytest.approx(ours.run(0, 1)["loss"], rel=1e-5)
    ours = Ours(load(folder, LENGTHS, dropout=0.1), CPU)
    theirs = baseline(load(folder, LENGTHS, padding="longest", dropout=0.1))
    for model in (ours.pack.encoder, theirs.model):
        assert {module.p for module in model.modules() if type(module).__name__ == "Dropout"} == {0.1}


def test_a_compiled_rival_trains_as_the_others(tiny: TinyFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # in seconds, without g++
    counters.clear()
    what = load(tiny("bert"), LENGTHS, padding="longest")
    losses = [
        baseline(replace(what, case=replace(what.case, compiled=compiled))).run(1, 1)["loss"]
        for compiled in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and counters["stats"]["unique_graphs"] >= 1


def test_a_loss_that_is_not_finite_voids_the_measurement(tmp_path: Path) -> None:
    with pytest.raises(SymloraError, match="not worth timing"):
        load(tmp_path, [4] * 4).done([np.arange(4)], 1, float("nan"))


def made_up_record() -> dict[str, Any]:
    rates = {PADDED: (10, 20, 10), DYNAMIC: (20, 20, 16), "ours bf16, K = 1": (30, 80, 40)}
    rates |= {"ours bf16, K = 4": (60, 90, 80), "ours fp32, K = 1": (17, 18, 17)}
    rates |= {f"{RIVAL}, eager": (20, 30, 20), f"{RIVAL}, sdpa": (10, 45, 10)}
    measurements: list[dict[str, Any]] = []
    for name, by_turn in rates.items():
        runs, precision = 4 if "K = 4" in name else 1, "bf16" if "bf16" in name else "fp32"
        for turn, rate in enumerate(by_turn, 1):
            entry = {"label": "rte", "round": turn, "peak_bytes": 64_000_000, "seconds": 2.0}
            case = {"name": name, "runs": runs, "precision": precision}
            case["padding"] = "grouped" if name.startswith(RIVAL) else "none"
            entry |= {"case": case, "flops": rate * 1e9}
            measurements.append({**entry, "sentences_per_second": rate, "seconds_per_run_step": 1 / rate})
    peaks = [
        {"label": "rte", "round": turn, "precision": precision, "how": how, "matmul": "8x2x2", "flops_per_second": rate}
        for turn in (1, 2, 3)
        for precision, scale in (("fp32", 1e9), ("bf16", 4e9))
        for how, rate in (("1 thread", 99 * scale), ("all processes", 10 * scale), ("all threads", 9 * scale))
    ]
    data = {"rte": {"source": "demo", "mean_tokens": 60.0, "measured_mean_tokens": 61.0}}
    settings = {"tasks": ["rte"], "rounds": 3}
    busy = {"load_average": 2.6, "provenance": {**RECORD["provenance"], "dirty": True}}
    return {**RECORD, **busy, "measurements": measurements, "peaks": peaks, "data": data, "settings": settings}


def test_ratios_are_medians_of_the_rounds_own_ratios_and_shares_of_the_same_rounds_fastest_matmul() -> None:
    table = task_table(made_up_record(), "rte")
    packed = table["ours bf16, K = 4"]
    assert table["ours bf16, K = 1"]["x padded"] == "4.00 (3.00 to 4.00)"
    assert (packed["x padded"], packed["x dynamic"]) == ("6.00 (4.50 to 8.00)", "4.50 (3.00 to 5.00)")
    assert packed["x rival"] == "3.00 (2.00 to 4.00)"  # of the faster in each round: 20, 45, 20
    assert packed["x K = 1"] == "2.00" and table["ours bf16, K = 1"]["x K = 1"] == "-"
    assert (packed["MB/process"], packed["MB/run"]) == ("64", "16")
    assert table["ours fp32, K = 1"]["of peak"] == f"{17 / 2 / 10:.2f}" and packed["of peak"] == f"{80 / 2 / 40:.2f}"
    shown = text(made_up_record())
    for wanted in ("DEMO sentences", "WARNING: load average 2.6", "and changes"):
        assert wanted in shown


def test_the_page_shows_the_committed_record_and_every_case() -> None:
    page = (ROOT / "docs" / "bench.md").read_text()
    for part in text(RECORD).split("\n\n")[1:]:
        assert part in page, part
    settings = Settings(runs=tuple(RECORD["settings"]["runs"]), precision="bf16", compiled="eager, compiled" in page)
    assert [case.name for case in cases(settings, CPU)] == list(task_table(RECORD, "rte"))


def test_the_pages_ratios_are_the_records() -> None:
    tables = {task: task_table(RECORD, task) for task in RECORD["settings"]["tasks"]}
    page = (ROOT / "docs" / "bench.md").read_text()
    shown = {}
    for line, case, column in (
        ("LoRA here, against the strongest rival", "ours LoRA bf16, K = 16", "x rival"),
        ("SymLoRA here, against the strongest rival (LoRA)", "ours bf16, K = 16", "x rival"),
        ("SymLoRA here, against run_glue with dynamic padding", "ours bf16, K = 16", "x dynamic"),
        ("K = 1: LoRA here, against the strongest rival", "ours LoRA bf16, K = 1", "x rival"),
        ("K = 1: SymLoRA here, against the strongest rival (LoRA)", "ours bf16, K = 1", "x rival"),
    ):
        shown[line] = ratios = [float(table[case][column].split()[0]) for table in tables.values()]
        assert f"| {line} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |" in page
    said = re.findall(r"([\d.]+) to ([\d.]+)\s+times\s+as\s+fast", (ROOT / "README.md").read_text())
    wanted = [shown[line] for line in shown if line.startswith("SymLoRA")][::-1]  # run_glue first
    assert said == [(f"{min(ratios):.1f}", f"{max(ratios):.1f}") for ratios in wanted]


def test_the_bench_runs_from_end_to_end(
    minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GLUE_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--out", str(tmp_path / "new"), *OPTIONS.split()])
    main()
    (written,) = (tmp_path / "new").glob("*.json")
    assert written.name.endswith("-1x64-quick.json")  # not the record of the device's whole bench
    record = json.loads(written.read_text())
    assert text(record) in capsys.readouterr().out
    assert record["encoder"] == {"width": 64, "inner": 256, "layers": 1, "classes": 2, "rank": 8}
    assert record["threads"] == {"ours": [1], "baseline": [1]}
    done = {entry["case"]["name"]: entry for entry in record["measurements"]}
    assert {PADDED, DYNAMIC, "ours fp32, K = 2"} <= done.keys()
    assert all(np.isfinite(entry["loss"]) and entry["seconds"] > 0 for entry in done.values())
    assert 2 * done[PADDED]["tokens"] == done["ours fp32, K = 2"]["tokens"]
    assert {peak["how"] for peak in record["peaks"]} == {"1 thread", "all processes", "all threads"}


@pytest.mark.parametrize("wrong", ["--rounds 0", "--steps x", "--runs 0,4", "--runs 1;4", "--cores -1"])
def test_the_bench_refuses_wrong_numbers(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *wrong.split()])
    with pytest.raises(SystemExit, match="2"):
        main()
    monkeypatch.setattr(sys, "argv", ["bench", "--model-shape", "12"])
    with pytest.raises(SymloraError, match=r"--model-shape.*12x768"):
        main()


def test_a_worker_says_what_failed() -> None:
    with workers.Group(1, 1, "cpu") as group:
        with pytest.raises(SymloraError, match="KeyError: 'unknown'"):
            group.ask(workers.run, "unknown", 1, 1)
        with pytest.raises(SymloraError, match=r"killed, perhaps .* smaller --runs"):
            group.ask(os._exit, 1)
