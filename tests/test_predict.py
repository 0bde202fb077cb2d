"""`symlora evaluate` and `symlora predict`: what a finished run scored comes out again, from forward passes alone."""

import io
import json
import math
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_run import scored_run, small, train
from transformers import AutoModelForSequenceClassification

from symlora.cli import main
from symlora.config.own_task import read_rows
from symlora.data.splits import load_splits
from symlora.data.tokens import tokenize_all
from symlora.errors import SymloraError
from symlora.interchange.merged import export_merged
from symlora.model.build import build_pack
from symlora.model.source import ModelSource, find, load_tokenizer
from symlora.runner.scoring import _alike, evaluate, predict
from symlora.runner.trained import logits_of, of_run, open_trained
from symlora.store.adapter_folder import read_adapter
from symlora.store.folder import seal


@pytest.fixture(scope="module")
def runs(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of SymLoRA and one of LoRA, on demo sentences of a task of pairs."""
    root = tmp_path_factory.mktemp("runs")
    for overrides in (["seed=0"], ["seed=1"], ["method=lora"]):
        train(small(root, "task=rte", "protocol.held_out=0.25", *overrides))
    return root / "runs"


def lora_of(runs: Path) -> Path:
    return next(runs.rglob("lora/rte/*/seed-0"))


def scores(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: Any) -> list[dict[str, Any]]:
    out = tmp_path / "scores.json"
    out.unlink(missing_ok=True)
    main(["evaluate", *map(str, words), "--out", str(out), "--device", "cpu"])
    capsys.readouterr()
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


def rows_of(runs: Path, path: Path, split: str = "validation") -> Path:
    """Write a split of the demo task as a table with class names."""
    config = small(runs, "task=rte")
    loaded = load_splits(config.task, config.data, [split])[split]
    columns: dict[str, Any] = dict(zip(config.task.columns, loaded.texts, strict=True))
    names = [config.task.labels[label] for label in loaded.labels]
    pd.DataFrame(columns | {"label": names}).to_csv(path, index=False)
    return path


def test_base_is_a_folder_or_a_hub_name(runs: Path, minilm_dir: Path) -> None:
    run = lora_of(runs)
    hub = of_run(run).config.model
    pinned = ModelSource(str(hub.hub), hub.revision)
    for base, source in (("a/b", ModelSource("a/b", "main")), (hub.hub, pinned), (str(minilm_dir), None)):
        assert find(of_run(run, base).config.model) == (source or ModelSource(str(minilm_dir), None))


def test_an_encoder_with_other_weights_is_warned_of(
    runs: Path, minilm_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_run(lora_of(runs), str(minilm_dir))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("symlora.runner.trained.weights_sha256", lambda source: "of another encoder")
    of_run(lora_of(runs), str(minilm_dir))
    assert "has other weights than the encoder of" in capsys.readouterr().err


@pytest.mark.usefixtures("minilm_dir")
@pytest.mark.parametrize(
    ("task", "method"),
    [("mnli", "symlora"), ("stsb", "lora"), ("mnli", "head"), ("mnli", "full"), ("rte", "adalora"), ("rte", "loraxs"),
     ("rte", "bitfit"), ("rte", "houlsby")],
)  # fmt: skip
def test_a_finished_run_scores_as_it_did_bit_for_bit(
    task: str, method: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder, record = scored_run(tmp_path_factory.getbasetemp(), task, method)
    splits = [*config.task.validation, "held_out"]
    found = scores(capsys, tmp_path, folder, "--split", ",".join(splits))
    assert len(found) == len(splits) * len(config.task.metrics)
    for row in found:
        value = record["selections"]["held_out" if config.protocol.selection == "held_out" else "best"]
        assert row["value"] == row["recorded"] == value["metrics"][row["split"]][row["metric"]]
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]


@pytest.mark.parametrize(
    ("method", "setting"), [("adalora", ()), ("houlsby", ("+method.peft_config.modules_to_save=[LayerNorm]",))]
)
def test_a_run_in_16_bits_gives_its_own_logits_again(
    method: str, setting: tuple[str, ...], minilm_dir: Path, tmp_path: Path
) -> None:
    """What trained in float32 is loaded in float32."""
    config = small(tmp_path, "task=stsb", f"method={method}", *setting, "precision=bf16")
    folder, record = train(config)
    stored = pd.read_parquet(folder / "predictions.parquet").query("split == 'validation' and selection == 'best'")
    assert record["precision"] == "bf16"
    splits = load_splits(config.task, config.data, ["validation"])
    tokens = tokenize_all(splits, load_tokenizer(find(config.model)), config.data)
    [found] = logits_of([of_run(folder)], tokens, "cpu")
    np.testing.assert_array_equal(np.stack(stored.sort_values("idx")["logits"].to_list()), found["validation"])


def test_trained_embeddings_are_scored_in_16_bits(minilm_dir: Path, tmp_path: Path) -> None:
    """As of an adapter from elsewhere: what comes in is no real number."""
    config = LoraConfig("SEQ_CLS", target_modules=["query"], modules_to_save=["classifier", "word_embeddings"])
    get_peft_model(AutoModelForSequenceClassification.from_pretrained(minilm_dir), config).save_pretrained(
        str(tmp_path)
    )
    with open_trained(tmp_path, "rte", str(minilm_dir)) as model:
        model.config.precision = "bf16"
        assert len(predict(model, [], None, ["a\tb"], "cpu")) == 1


def test_runs_of_one_method_share_a_pass(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Mock(wraps=build_pack)
    monkeypatch.setattr("symlora.runner.trained.build_pack", build)
    together = scores(capsys, tmp_path, runs)
    assert sorted(len(call.args[0]) for call in build.call_args_list) == [1, 2] and len(together) == 3
    folders = sorted(path.parent for path in runs.rglob("run.json"))
    alone = [row for folder in folders for row in scores(capsys, tmp_path, folder)]
    assert together == alone and all(row["value"] == row["recorded"] for row in alone)


def test_an_adapter_folder_and_loras_own_file_score_as_their_run(
    runs: Path, minilm_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = lora_of(runs), rows_of(runs, tmp_path / "rows.csv")
    [expected] = scores(capsys, tmp_path, run, "--file", table)
    assert expected["value"] == scores(capsys, tmp_path, run)[0]["value"] and expected["split"] == "rows.csv"
    shutil.copytree(run / "adapter", tmp_path / "peft")
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    plain = {name.removeprefix("base_model.model."): value for name, value in tensors.items()}
    named = {name.replace(".weight", "") if "lora_" in name else name: value for name, value in plain.items()}
    encoder = {name: value for name, value in named.items() if "lora_" in name}
    save_file(
        {**encoder, **{n: v for n, v in named.items() if n.startswith("classifier")}}, tmp_path / "lora.safetensors"
    )
    common = ["--task", "rte", "--base", minilm_dir, "--file", table]
    assert scores(capsys, tmp_path, tmp_path / "peft", *common)[0]["value"] == expected["value"]
    # MiniLM's pooler is its own in that file's place, and was trained in the run: near, not equal.
    [of_file] = scores(capsys, tmp_path, tmp_path / "lora.safetensors", *common, "--alpha", 8)
    assert of_file["rows"] == expected["rows"] and 0 <= of_file["value"] <= 1


def test_predictions_of_every_form_agree(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, table = lora_of(runs), rows_of(runs, tmp_path / "rows.csv")
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        main(["predict", str(run), "--split", "validation", "--out", str(tmp_path / name), "--device", "cpu"])
    frames = [pd.read_csv(tmp_path / "p.csv"), pd.read_json(tmp_path / "p.jsonl", lines=True)]
    whole = pd.read_parquet(tmp_path / "p.parquet")
    for frame in frames:
        pd.testing.assert_frame_equal(frame, whole, check_dtype=False, atol=1e-6)
    classes = ["entailment", "not_entailment"]
    stored = pd.read_parquet(run / "predictions.parquet").query("selection == 'best' and split == 'validation'")
    logits = np.stack(stored["logits"].to_list()).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(whole[[f"p_{name}" for name in classes]], shares, atol=1e-6)
    assert list(whole["prediction"]) == [classes[number] for number in stored["prediction"]]
    assert list(whole["label"]) == [classes[number] for number in stored["label"]]
    texts = ["\t".join(row) for row in pd.read_csv(table)[["sentence1", "sentence2"]].to_numpy().tolist()]
    capsys.readouterr()
    main(["predict", str(run), *texts, "--device", "cpu"])
    words = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts) + "\n"))
    main(["predict", str(run), "-", "--device", "cpu"])
    assert capsys.readouterr().out == words
    # Pairs stand in a last column of their own in the output's text: two cells.
    assert [line.split("\t")[-3] for line in words.splitlines()[1:]] == list(whole["prediction"])


def test_runs_without_their_adapter_are_left_out(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(next(runs.rglob("symlora")), tmp_path / "runs")
    [copy] = (tmp_path / "runs").rglob("seed-1/run.json")
    record = json.loads(copy.read_text())
    shutil.rmtree(copy.parent / "adapter")
    main(["evaluate", str(tmp_path / "runs"), "--device", "cpu"])
    printed = capsys.readouterr()
    assert "1 runs in" in printed.err and printed.out.count("accuracy") == 1
    seal(copy.parent, record)
    with pytest.raises(SystemExit, match="seed-1 has no adapter folder"):
        main(["evaluate", str(copy.parent), "--device", "cpu"])


def test_a_score_that_is_not_a_number_is_null_in_json(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"source": "a", "split": "b", "rows": 1, "metric": "pearson", "value": math.nan, "low": None, "high": None}
    monkeypatch.setattr("symlora.runner.scoring._scored", lambda *_: [{**row, "recorded": None}])
    [found] = scores(capsys, tmp_path, lora_of(runs))
    assert found["value"] is None


def test_runs_of_other_slices_are_scored_on_their_own(runs: Path) -> None:
    run = of_run(lora_of(runs))
    cut = replace(run, config=replace(run.config, data=replace(run.config.data, train_limit=40)))
    assert [len(group) for group in _alike([run, cut], ["validation"])] == [2]
    assert [len(group) for group in _alike([run, cut], ["held_out"])] == [1, 1]


def test_one_row_has_no_correlation_and_merged_says_regression(minilm_dir: Path, tmp_path: Path) -> None:
    folder, _ = train(small(tmp_path, "task=stsb", "train.epochs=1"))
    export_merged(read_adapter(folder), tmp_path / "merged")
    assert json.loads((tmp_path / "merged/config.json").read_text())["problem_type"] == "regression"
    pd.DataFrame([{"sentence1": "a", "sentence2": "b", "label": 3.5}]).to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(SymloraError, match="one.csv has one row"):
        evaluate([of_run(folder)], [], tmp_path / "one.csv", "cpu")


@pytest.mark.parametrize(("key", "value"), [("use_rslora", True), ("alpha_pattern", {"query": 64})])
def test_adapters_of_other_settings_are_scored_apart(
    runs: Path, minilm_dir: Path, tmp_path: Path, key: str, value: Any
) -> None:
    """Only their weights are read into a pass, so all that the configuration says must agree."""
    folders, table = [tmp_path / "one", tmp_path / "other"], rows_of(runs, tmp_path / "rows.csv")
    for folder in folders:
        shutil.copytree(lora_of(runs) / "adapter", folder)
    saved = json.loads((folders[1] / "adapter_config.json").read_text())
    (folders[1] / "adapter_config.json").write_text(json.dumps(saved | {key: value}))
    with ExitStack() as opened:
        models = [opened.enter_context(open_trained(folder, "rte", str(minilm_dir))) for folder in folders]
        config = models[0].config
        splits = {"rows": read_rows([table], config.task)}
        tokens = tokenize_all(splits, load_tokenizer(find(config.model)), config.data)
        (first, second), [alone] = logits_of(models, tokens, "cpu"), logits_of(models[1:], tokens, "cpu")
    np.testing.assert_array_equal(second["rows"], alone["rows"])
    assert not np.allclose(first["rows"], second["rows"], atol=1e-3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "RUN"], "give one of: sentences"),
        (["predict", "RUN", "one sentence"], "rte takes two sentences with a tab between them"),
        (["predict", "ROOT", "a\tb"], "holds 3 runs: name one"),
        (["evaluate", "RUN", "--split", "nope"], "has no split 'nope'"),
        (["evaluate", "RUN", "--split", "test"], "labels of test are hidden"),
        (["evaluate", "RUN/adapter"], "give --task"),
        (["predict", "RUN/adapter", "x", "--task", "custom"], "--task custom needs a run folder"),
        (["predict", "RUN", "a\tb\udcff"], "the sentences are not UTF-8"),
        (["predict", "HEADLESS", "a\tb", "--task", "rte", "--base", "BASE"], "headless has no weights for classifier"),
        (["evaluate", "RUN", "--task", "mrpc"], "leave out --task and --alpha"),
        (["evaluate", "RUN/nowhere"], "nowhere does not exist"),
        (["evaluate", "RUN/adapter", "--task", "mnli", "--base", "BASE", "--file", "ROWS"], "lacks the column premise"),
        (["predict", "RUN", "a\tb", "--out", "x.txt"], "must end in"),
        (["predict", "RUN", "a\tb", "--out", __file__], "exists already"),
        (["evaluate", "RUN", "--out", __file__], "exists already"),
        (["evaluate", "RUN", "--out", "nowhere/x.json"], "the folder nowhere does not exist"),
        (["predict", "RUN", ""], "sentence 1 (''): rte takes"),
    ],
)
def test_a_wrong_call_is_one_message(
    runs: Path, minilm_dir: Path, tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    headless = tmp_path / "headless"
    shutil.copytree(lora_of(runs) / "adapter", headless)
    settings = json.loads((headless / "adapter_config.json").read_text()) | {"task_type": None, "modules_to_save": None}
    (headless / "adapter_config.json").write_text(json.dumps(settings))
    tensors = load_file(headless / "adapter_model.safetensors")
    save_file({n: v for n, v in tensors.items() if "lora_" in n}, headless / "adapter_model.safetensors")
    table = rows_of(runs, tmp_path / "rows.csv")
    places = {"HEADLESS": headless, "RUN": lora_of(runs), "ROOT": runs, "BASE": minilm_dir, "ROWS": table}
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert says in str(ended.value)
