"""The bench counts right and both of its sides do the same work. Nothing here depends on how long anything takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TinyFactory, made_up, run_config
from torch.utils.flop_counter import FlopCounterMode

from symlora.bench import growth, measure, record, table, work, workers
from symlora.bench.baseline import Baseline
from symlora.bench.flops import Shape, needed
from symlora.bench.ours import Ours
from symlora.bench.peak import matmul_rates
from symlora.bench.settings import Settings, cases, task_config
from symlora.bench.work import Case, Done, Load, Work, measuring_rows, random_rows
from symlora.bench.workers import Group, Sample, wall
from symlora.data.batches import pack_batch
from symlora.data.tokens import TokenizedSplit
from symlora.errors import SymloraError
from symlora.store.folder import write_json

CPU = torch.device("cpu")
LENGTHS = [5, 3, 12, 4, 8, 9, 3, 15, 7, 3, 4, 11]


def case(side: str = "ours", method: str = "lora", padding: str = "none", runs: int = 1, dropout: float = 0.0) -> Case:
    return Case(f"{side} {padding} {method} K = {runs}", side, method, padding, "fp32", dropout, runs)


def load_of(folder: Path, some: Case, rows: TokenizedSplit) -> Load:
    config = run_config(folder, some.method)
    return Load(some, config, Work(rows, 4, np.ones(len(rows))))


class _Tokenizer:
    """As much of a tokenizer as DataCollatorWithPadding uses."""

    deprecation_warnings: dict[str, bool] = {}

    def pad(self, items: list[dict[str, Any]], **_: Any) -> dict[str, torch.Tensor]:
        longest = max(len(item["input_ids"]) for item in items)
        out = {"labels": torch.tensor([item["labels"] for item in items])}
        for name in ("input_ids", "attention_mask"):
            out[name] = torch.tensor([item[name] + [0] * (longest - len(item[name])) for item in items])
        return out


# --- the FLOP formula


@pytest.mark.parametrize("method", ["lora", "symlora"])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_flops_are_those_that_torch_counts(tiny: TinyFactory, method: str, model_type: str) -> None:
    rows = made_up([6] * 4)  # of one length: attention pads nothing
    ours = Ours(load_of(tiny(model_type), case(method=method), rows), CPU)
    shape = Shape(width=32, inner=48, layers=2, classes=2, rank=8)
    with FlopCounterMode(display=False) as counter:
        ours.run(0, 1)
    expected = needed(shape, rows.lengths, first_query_only=False).sum()
    if model_type == "distilbert":  # its last layer is built otherwise: all tokens go through it, not the first alone
        n, m = shape.width, shape.inner
        expected += 2 * 4 * 5 * (2 * n * n + 4 * n * m)
    assert counter.get_total_flops() == expected


def test_one_query_in_the_last_layer_saves_the_others_forward_and_backward() -> None:
    shape, lengths = Shape(width=16, inner=64, layers=3, classes=2, rank=4), np.array([1, 7])
    least, all_queries = needed(shape, lengths), needed(shape, lengths, first_query_only=False)
    assert all_queries[0] == least[0]
    n, r, spared = 16, 4, 6
    per_query = 2 * 2 * n * n + 3 * 4 * 7 * n + 3 * 4 * n * r  # projection; scores and values; adapter
    assert all_queries[1] - least[1] == spared * per_query


def test_flops_of_minilm_are_perf_mds() -> None:
    """2F is 2 · 22.4 MFLOP a token at length 128; the exact cuts leave 0.85 of it, and adapters add 1 %."""
    shape = Shape(width=384, inner=1536, layers=6, classes=2, rank=8)
    per_token = needed(shape, np.array([128]))[0] / 128
    assert per_token == pytest.approx(0.86 * 2 * 22.4e6, rel=0.02)


def test_shape_reads_the_names_that_encoders_use(tiny: TinyFactory) -> None:
    from transformers import AutoConfig

    for model_type in ("bert", "roberta", "distilbert"):
        found = Shape.of(AutoConfig.from_pretrained(tiny(model_type)), classes=3, rank=8)
        assert found == Shape(width=32, inner=48, layers=2, classes=3, rank=8)


# --- the rows


def test_measuring_rows_have_the_lengths_of_the_split() -> None:
    data = made_up([3 + row % 17 for row in range(170)], types=True)
    rows = measuring_rows(data, 34)
    assert len(rows) == 34 and rows.lengths.mean() == pytest.approx(data.lengths.mean())
    first = int(rows.idx[0])
    a, b = data.offsets[first], data.offsets[first + 1]
    assert rows.token_type_ids is not None and data.token_type_ids is not None
    np.testing.assert_array_equal(rows.input_ids[: rows.offsets[1]], data.input_ids[a:b])
    np.testing.assert_array_equal(rows.token_type_ids[: rows.offsets[1]], data.token_type_ids[a:b])
    with pytest.raises(SymloraError, match="lower --steps"):
        measuring_rows(data, 171)


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 8, 32])
def test_every_pack_goes_through_the_same_batches(runs: int) -> None:
    some = Work(made_up([4] * 16), 4, np.ones(16))
    orders = some.orders(1, 0, runs)
    batches = [tuple(batch) for order in orders for batch in order.reshape(-1, 4)]
    assert len(orders) == runs and {len(order) for order in orders} == {4 * some.steps(runs)}
    assert set(batches) == {tuple(batch) for batch in some.order(1, 0).reshape(-1, 4)}
    if len(batches) % some.batches == 0:  # as often as one another: K = 3 alone cannot
        assert len({batches.count(batch) for batch in batches}) == 1
    assert (some.order(1, 0) != some.order(1, 1)).any() and (some.order(1, 0) != some.order(2, 0)).any()


# --- both sides


@pytest.mark.parametrize("padding", ["maximum", "longest"])
def test_both_sides_train_the_same_parameters_on_the_same_rows(
    tiny: TinyFactory, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = tiny("bert"), made_up(LENGTHS)
    ours = Ours(load_of(folder, case(), rows), CPU)
    baseline = Baseline(load_of(folder, case("baseline", padding=padding), rows), CPU, _Tokenizer())
    assert ours.trained() == baseline.trained() and any("pooler" in name for name in ours.trained())

    batches: list[list[int]] = []

    def seen_by_ours(*arguments: Any) -> Any:
        batch = pack_batch(*arguments)
        batches.append(torch.split(batch.input_ids, batch.lengths.tolist())[0].tolist())
        return batch

    monkeypatch.setattr("symlora.bench.ours.pack_batch", seen_by_ours)
    found = ours.run(3, 2)
    seen: list[torch.Tensor] = []
    collate = baseline.collate

    def seen_by_baseline(items: Any) -> Any:
        batch = collate(items)
        seen.append(batch["attention_mask"])
        first = batch["input_ids"][0]
        others.append(first[: int(batch["attention_mask"][0].sum())].tolist())
        return batch

    others: list[list[int]] = []
    baseline.collate = seen_by_baseline
    theirs, seconds = baseline.run(3, 2)
    assert (found.steps, found.run_steps, found.sentences, found.tokens, found.flops) == (
        6,
        6,
        24,
        2 * sum(LENGTHS),
        24,
    )
    assert work_of(theirs) == work_of(found) and seconds > 0
    assert others == batches
    widths = {mask.shape[1] for mask in seen}
    assert widths == {20} if padding == "maximum" else max(widths) == max(LENGTHS)


def work_of(some: Done) -> tuple[Any, ...]:
    return some.steps, some.run_steps, some.sentences, some.tokens, some.flops


def test_both_sides_start_from_one_model(tiny: TinyFactory) -> None:
    folder, rows = tiny("bert", head=True), made_up(LENGTHS[:4])  # one step; with a head in the file, none is drawn
    one = Ours(load_of(folder, case(), rows), CPU)
    other = Baseline(load_of(folder, case("baseline", padding="maximum"), rows), CPU)
    assert other.run(0, 1)[0].loss == pytest.approx(one.run(0, 1).loss, rel=1e-5)


def test_dropout_is_on_where_the_case_says_so(tiny: TinyFactory) -> None:
    from symlora.model.dropout import Dropout

    load = load_of(tiny("bert"), case("baseline", padding="maximum", dropout=0.1), made_up(LENGTHS))
    theirs = {m.p for m in Baseline(load, CPU).model.modules() if isinstance(m, torch.nn.Dropout)}
    load = load_of(tiny("bert"), case(dropout=0.1), made_up(LENGTHS))
    ours = {m.p for m in Ours(load, CPU).pack.encoder.modules() if isinstance(m, Dropout)}
    assert theirs == ours == {0.1}


def test_a_pack_counts_every_run(tiny: TinyFactory) -> None:
    ours = Ours(load_of(tiny("bert"), case(method="symlora", runs=6), made_up(LENGTHS)), CPU)
    found = ours.run(0, 2)
    assert work_of(found) == (2, 12, 48, 4 * sum(LENGTHS), 48)


def test_a_loss_that_is_not_finite_voids_the_measurement() -> None:
    some = Work(made_up([4] * 4), 4, np.ones(4))
    with pytest.raises(SymloraError, match="nothing is worth timing"):
        work.done(some, [np.arange(4)], 1, 1, float("nan"))


def test_workers_work_together_and_say_what_failed() -> None:
    group = Group(2, 1, "cpu")
    try:
        assert [answer["threads"] for answer in group.ask("about")] == [1, 1]
        assert len(group.ask("peak", 8, 16, "fp32")) == 2
        assert len(group.ask("peak", 8, 16, "fp32", only_first=True)) == 1
        with pytest.raises(SymloraError, match="KeyError: 'unknown'"):
            group.ask("run", "unknown", 1, 1, only_first=True)
    finally:
        group.close()


@pytest.mark.parametrize("some", [case(runs=2), case("baseline", padding="maximum")], ids=lambda some: some.side)
def test_a_worker_loads_runs_and_forgets(tiny: TinyFactory, some: Case) -> None:
    worker = workers._Worker(CPU, None)
    ready = worker.load(1, load_of(tiny("bert"), some, made_up(LENGTHS)))
    assert ready.peak_bytes is None or ready.peak_bytes >= 0
    sample = worker.run(1, some.name, 1, 2)
    assert sample.done.run_steps == {1: 6, 2: 8}[some.runs] and sample.stopped > sample.started
    worker.clear(1)
    assert not worker.cases


def test_wall_time_is_from_the_first_start_to_the_last_end() -> None:
    some = Done(1, 1, 1, 1, 1.0, 0.5)
    assert wall([Sample(some, 1.0, 3.0, 0.1), Sample(some, 1.5, 4.0, 0.1)]) == 3.0


def test_peak_counts_two_flops_a_product() -> None:
    rates = matmul_rates(8, 16, "fp32", CPU, seconds=0.001)
    assert list(rates) == ["1024x8x8", "1024x8x16", "1024x16x8"] and all(rate > 0 for rate in rates.values())


# --- growth


def test_growth_makes_encoders_of_any_depth_and_width(minilm_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    settings = Settings(growth=((4,), (1, 2)), steps=1)
    found = growth.loads(settings, tmp_path, "fp32")
    assert [load.case.name for load in found["length"]] == ["length 4"]
    assert [load.case.name for load in found["layers"]] == ["layers 1", "layers 2"]
    path = found["layers"][1].config.model.path
    assert path is not None and AutoConfig.from_pretrained(path).num_hidden_layers == 2
    config = task_config(settings, "rte", "lora")
    made = AutoConfig.from_pretrained(growth.random_encoder(config, tmp_path, 1, 128))
    assert (made.num_hidden_layers, made.hidden_size, made.intermediate_size) == (1, 128, 512)
    assert random_rows(4, 8, 100).lengths.tolist() == [4] * 8


def test_exponent_of_a_power() -> None:
    assert growth.exponent([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
    assert growth.exponent([1.0], [3.0]) is None


# --- the record, from made-up timings


def entry(name: str, turn: int, rate: float, runs: int = 1, side: str = "ours", task: str = "rte") -> dict[str, Any]:
    some = Case(name, side, "symlora", "none", "bf16" if "bf16" in name else "fp32", 0.1, runs)
    return {
        "part": "task",
        "label": task,
        "round": turn,
        "case": dict(vars(some)),
        "processes": 2,
        "seconds": 2.0,
        "flops": rate * 1e9,
        "steps": 4,
        "sentences_per_second": rate,
        "seconds_per_step": 0.5,
        "seconds_per_run_step": 0.5 / runs,
        "peak_bytes": 64_000_000 * runs,
    }


def made_up_record(device_type: str = "cpu") -> dict[str, Any]:
    rates = {record.PADDED: (10, 20, 10), record.DYNAMIC: (20, 20, 16)}
    ours = {"ours bf16, K = 1": (30, 80, 40), "ours bf16, K = 4": (60, 90, 80), "ours fp32, K = 1": (17, 18, 17)}
    measurements = [
        entry(name, turn + 1, rate, 4 if "K = 4" in name else 1, "baseline" if name in rates else "ours")
        for name, by_turn in {**rates, **ours}.items()
        for turn, rate in enumerate(by_turn)
    ]
    grown = [
        {
            "part": "length",
            "label": "length",
            "round": turn,
            "case": {"name": f"length {length}"},
            "seconds_per_step": s,
        }
        for length, s in ((16, 0.1), (32, 0.2))
        for turn in (1, 2)
    ]
    peaks = [
        {"label": "rte", "round": turn, "precision": precision, "how": how, "matmul": matmul, "flops_per_second": rate}
        for turn in (1, 2, 3)
        for precision, scale in (("fp32", 1e9), ("bf16", 4e9))
        for how, matmul, rate in (
            ("1 thread", "8x2x2", 99 * scale),
            ("all processes", "8x2x2", 9 * scale),
            ("all processes", "8x2x8", 10 * scale),
        )
    ]
    return {
        "schema_version": measure.SCHEMA_VERSION,
        "provenance": {"device": "Some CPU", "commit": "0123456789abcdef", "dirty": True, "packages": {"torch": "2"}},
        "device_type": device_type,
        "cores": 2,
        "load_average": 0.7,
        "threads": {"ours": [1, 1], "baseline": [2]},
        "settings": {"tasks": ("rte",), "rounds": 3},
        "batch_size": 16,
        "encoder": Shape(768, 3072, 12, 2, 8).as_dict(),
        "data": {"rte": {"source": "demo", "mean_tokens": 60.0, "measured_mean_tokens": 61.0}},
        "peaks": peaks,
        "measurements": measurements + grown,
    }


def test_ratios_are_medians_of_the_rounds_own_ratios() -> None:
    rows = record.derive(made_up_record())["table"]["rte"]
    assert rows["ours bf16, K = 1"]["over_padded"] == {"median": 4.0, "least": 3.0, "most": 4.0}
    assert rows["ours bf16, K = 4"]["over_padded"] == {"median": 6.0, "least": 4.5, "most": 8.0}
    assert rows["ours bf16, K = 4"]["over_dynamic"] == {"median": 4.5, "least": 3.0, "most": 5.0}
    assert rows["ours bf16, K = 4"]["over_single"] == {"median": 2.0, "least": 1.125, "most": 2.0}
    assert rows[record.PADDED]["over_padded"]["median"] == 1.0


def test_share_is_of_the_whole_machines_fastest_matmul_in_that_precision() -> None:
    rows = record.derive(made_up_record())["table"]["rte"]
    assert rows["ours fp32, K = 1"]["share_of_peak"]["median"] == pytest.approx(17 / 2 / 10)
    assert rows["ours bf16, K = 1"]["share_of_peak"]["median"] == pytest.approx(40 / 2 / 40)


def test_bounds_are_met_by_our_best_row_or_not() -> None:
    found = {(bound["task"], bound["what"]): bound for bound in record.derive(made_up_record())["bounds"]}
    padded = found["rte", "over_padded"]
    assert padded["met"] is True and padded["case"] == "ours bf16, K = 4" and padded["wanted"] == 4.0
    assert found["cola", "over_padded"]["met"] is None and found["cola", "over_padded"]["found"] is None
    shares = [b for b in record.derive(made_up_record())["bounds"] if b["what"] == "share_of_peak"]
    assert [bound["met"] for bound in shares] == [True, None] and shares[0]["found"]["median"] == pytest.approx(0.85)


def test_on_a_gpu_the_bounds_are_the_gpus() -> None:
    found = record.derive(made_up_record("cuda"))["bounds"]
    assert [(b["task"], b["what"], b["met"]) for b in found] == [
        ("rte", "over_single", False),
        ("cola", "over_single", None),
        ("rte", "share_of_peak", True),
        ("cola", "share_of_peak", None),
    ]


def test_record_is_json_and_its_text_says_what_it_stands_on(tmp_path: Path) -> None:
    whole = record.derive(made_up_record())
    write_json(tmp_path / "bench.json", whole)
    again = json.loads((tmp_path / "bench.json").read_text())
    assert again["table"]["rte"]["ours bf16, K = 4"]["over_padded"]["median"] == 6.0
    assert {"schema_version", "provenance", "threads", "load_average", "peak", "growth", "bounds"} <= again.keys()
    text = table.text(whole)
    for wanted in (
        "DEMO sentences",
        "WARNING: load average 0.7",
        "0123456789 and changes",
        "6.00 (4.50 to 8.00)",
        "not measured: no GPU here",
        "time ~ length^1.00",
    ):
        assert wanted in text
    assert "no GPU here" not in table.text(record.derive(made_up_record("cuda")))


def test_the_settings_name_every_configuration() -> None:
    names = [some.name for some in cases(Settings(precision="bf16"), CPU)]
    assert names[:2] == [record.PADDED, record.DYNAMIC] and len(set(names)) == len(names)
    assert [f"ours bf16, K = {k}" for k in (1, 4, 8, 16, 32)] == names[2:7]
    assert names[7:] == ["ours fp32, K = 1", "ours fp32, K = 8", "ours fp32, K = 1, no dropout"]
    assert measure.planned(Settings(tasks=("rte",), rounds=1, growth=((), ()), precision="bf16", device="cpu")) == 21


def test_a_rows_flops_do_not_depend_on_the_rows_beside_it() -> None:
    shape = Shape(width=16, inner=64, layers=2, classes=2, rank=4)
    both = needed(shape, np.array([3, 9]))
    np.testing.assert_array_equal(both, [needed(shape, np.array([n]))[0] for n in (3, 9)])
