"""The README.md next to an adapter: its lines run, its numbers are those of the run, its front matter is the hub's."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT
from huggingface_hub import ModelCard
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from scipy import stats
from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped]
from test_run import small, train

from symlora.config.schema import Config
from symlora.data.batches import gather, padded
from symlora.metrics.functions import matthews_correlation
from symlora.runner.model_card import score_interval, write_card
from symlora.runner.prepare import prepare_data

HUB = "sentence-transformers/all-MiniLM-L6-v2"


def trained(tmp_path: Path, *overrides: str) -> tuple[Config, Path, dict[str, Any]]:
    config = small(tmp_path, "task=mrpc", "method=symlora", "train.epochs=1", *overrides)
    return config, *train(config)


@pytest.fixture(scope="module")
def demo_run(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path, dict[str, Any]]:
    return trained(tmp_path_factory.mktemp("card"))


@pytest.mark.parametrize("local", [False, True])
def test_the_lines_of_the_card_load_the_run(
    local: bool, demo_run: Any, minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A base model's hub name is also a relative path: here it leads to the package's files, as a local one's does.
    base = tmp_path / ("encoder" if local else HUB)
    base.parent.mkdir(exist_ok=True)
    base.symlink_to(minilm_dir)
    ours = ("model=local", "model.name=mine", f"model.path={base}")
    config, folder, _ = trained(tmp_path, *ours) if local else demo_run
    text = (folder / "adapter" / "README.md").read_text()
    assert ('`"encoder"` is the folder of the encoder, which is on no hub' in text) == local
    assert str(tmp_path) not in text
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) <= (6 if local else 4) and code.startswith("import symlora")
    (tmp_path / "adapter").symlink_to(folder / "adapter")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(found["model"])
    assert loaded.keys() == tensors.keys() and all(bool((loaded[key] == tensors[key]).all()) for key in tensors)
    tokens = prepare_data(config)[1]["validation"]
    with torch.no_grad():
        logits = [found["model"](**padded(gather(tokens, np.array([row])), 0)).logits[0] for row in range(len(tokens))]
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    stored = table[(table.selection == config.protocol.selection) & (table.split == "validation")]
    np.testing.assert_allclose(torch.stack(logits).numpy(), np.stack(stored.logits.to_list()), rtol=1e-3, atol=1e-4)


def test_a_demo_card_claims_no_glue_and_names_no_machine(demo_run: Any) -> None:
    config, folder, record = demo_run
    card: Any = ModelCard.load(folder / "adapter" / "README.md")
    assert card.data.library_name == "peft" and card.data.base_model == HUB
    assert card.data.datasets is None and card.data.eval_results is None
    assert "made-up demo sentences, not GLUE" in card.text and config.model.note in card.text
    private = (str(folder.parents[5]), os.uname().nodename, record["provenance"]["device"], f"{Path.home()}/")
    assert not [name for name in private if name in card.content]


def committed(method: str, task: str) -> tuple[dict[str, Any], Any, Any]:
    """Record, logits and labels of a run on real GLUE rows that is part of this repository."""
    folder = min((ROOT / "results" / "runs" / "archive" / "short" / "minilm" / method / task).glob("*/seed-0"))
    record = json.loads((folder / "run.json").read_text())
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    rows = table[(table.selection == record["score"]["selection"]) & (table.split == record["score"]["split"])]
    labels = rows.label.to_numpy().astype(np.float32 if task == "stsb" else np.int64)
    return record, np.stack(rows.logits.to_list()), labels


def card_of(folder: Path, record: dict[str, Any], logits: Any, labels: Any) -> Any:
    key = (record["score"]["selection"], record["score"]["split"])
    write_card(folder, record, {key: {"label": labels, "logits": logits}})
    return ModelCard.load(folder / "README.md")


@pytest.mark.parametrize(("method", "task"), [("symlora", "mrpc"), ("symlora", "stsb"), ("lora", "cola")])
def test_front_matter_and_score_of_a_glue_run(method: str, task: str, tmp_path: Path) -> None:
    record, logits, labels = committed(method, task)
    card, kind = card_of(tmp_path, record, logits, labels), record["score"]["metric"]
    assert card.data.datasets == "nyu-mll/glue"
    assert (card.data.base_model, card.data.library_name) == (HUB, "peft")
    assert ("arxiv:2504.03719" in card.data.tags) == (method == "symlora") == ("import symlora" in card.content)
    (result,) = card.data.eval_results
    assert (result.dataset_config, result.dataset_split) == (task, "validation")
    assert result.metric_value == record["score"]["value"]
    assert result.metric_type == {"pearson": "pearsonr"}.get(kind, kind) == card.data.metrics[0]
    found = re.search(r"\| (-?[\d.]+) to (-?[\d.]+) \|", card.content)
    assert found is not None
    low, high = float(found[1]), float(found[2])
    n = len(labels)
    if kind == "accuracy":
        expected: Any = proportion_confint(int((logits.argmax(1) == labels).sum()), n, method="wilson")
        assert f"(Wilson, n = {n})" in card.content
    elif kind == "pearson":
        expected = stats.pearsonr(logits[:, 0].astype(float), labels.astype(float)).confidence_interval(0.95)
        assert f"(Fisher z, n = {n})" in card.content
    else:
        draws = np.random.default_rng(7).integers(0, n, (2000, n))  # another generator than the card's
        values = [matthews_correlation(logits.argmax(1)[draw], labels[draw]) for draw in draws]
        expected = np.quantile(values, (0.025, 0.975))
        assert f"(percentile bootstrap, n = {n})" in card.content
    assert (low, high) == pytest.approx(tuple(expected), abs=0.006 if kind == "matthews_correlation" else 6e-5)
    assert low < record["score"]["value"] < high
    assert "nothing of other seeds" in card.content
    for count in ("adapter", "head", "total"):
        assert f"{record['parameters'][count]:,}" in card.content


def test_a_card_names_folder_subset_and_stop(tmp_path: Path) -> None:
    """`model.path` leaves the hub name of the model's file in the configuration."""
    record, logits, labels = committed("symlora", "mrpc")
    record["config"]["model"]["path"] = "encoder"
    record["config"]["data"] |= {"train_limit": 64, "allow_subset": True}
    card = card_of(tmp_path, record | {"stopped_epoch": 8}, logits, labels)
    assert card.data.base_model is None and card.data.eval_results is None and card.data.datasets is None
    assert HUB not in card.content and '`"encoder"` is the folder of the encoder' in card.content
    assert f"trained on {record['data']['train']['rows']:,} rows of GLUE (not the official splits)" in card.content
    assert "is stored; stopped after 8)" in card.content


def test_a_score_without_an_interval_says_so(tmp_path: Path) -> None:
    three = np.arange(3, dtype=np.float32)
    assert score_interval("pearson", three[:, None], three) is None
    record, logits, labels = committed("symlora", "stsb")
    record["score"]["value"] = None  # how run.json has nan
    card = card_of(tmp_path, record, np.zeros_like(logits), labels)
    assert card.data.eval_results is None and "| none | none |" in card.content and "no interval" in card.content
