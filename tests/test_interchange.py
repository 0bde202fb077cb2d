"""Adapters in and out against closed forms from the stored tensors, dense eigenvalues, and PEFT's own merging."""

import json
import os
import re
import sys
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, TinyFactory, run_config, run_program
from hypothesis import given
from hypothesis import strategies as st
from layers import CLASSIFIER, base, logits
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification

from symlora import SymLoraConfig
from symlora.cli import COMMANDS, DETAILS, main
from symlora.errors import SymloraError
from symlora.interchange.base_scale import apply_base_scale
from symlora.interchange.loralib import loralib_to_lora
from symlora.interchange.merged import base_source, export_merged
from symlora.interchange.push import write_card
from symlora.interchange.symmetric import energy, symmetric_part
from symlora.interchange.to_lora import symlora_to_lora
from symlora.interchange.to_symlora import lora_to_symlora
from symlora.store.adapter_folder import BASE_SCALE, read_adapter

QUERY = "roberta.encoder.layer.1.attention.self.query"
VALUE = "roberta.encoder.layer.0.attention.self.value"
FILE = "adapter_model.safetensors"


def saved(folder: Path, base_dir: Path, config: Any, values: float | None = None) -> Any:
    """An adapter with random values everywhere, saved; `values` sets every λ."""
    torch.manual_seed(1)
    model = get_peft_model(base(base_dir), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
            if "symlora_lambda" in name:
                parameter.fill_(values if values is not None else 0.6 + 0.1 * len(name))
    model.save_pretrained(folder)
    return model


def symlora(**fields: Any) -> Any:
    return SymLoraConfig(**{"task_type": "SEQ_CLS", "r": 4, "alpha": 6, **fields})


def lora(**fields: Any) -> Any:
    return LoraConfig(
        **{"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 6, "target_modules": ["query", "value"], **fields}
    )


def matrix(folder: Path, module: str, scale: float) -> Any:
    """ΔW without λ, in float64, from the file alone."""
    tensors = {name: t.double() for name, t in load_file(folder / FILE).items()}
    key = f"base_model.model.{module}"
    if f"{key}.symlora_Q" in tensors:
        Q = tensors[f"{key}.symlora_Q"]
        return scale * Q @ torch.diag(tensors[f"{key}.symlora_diag"]) @ Q.T
    return scale * tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"]


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def drop(folder: Path, *ends: str) -> None:
    save_file({k: v for k, v in load_file(folder / FILE).items() if not k.endswith(ends)}, folder / FILE)


def put(folder: Path, end: str, value: torch.Tensor) -> None:
    save_file({k: value.clone() if k.endswith(end) else v for k, v in load_file(folder / FILE).items()}, folder / FILE)


def spoiled(**fields: Any) -> Any:
    return lambda folder: edit(folder, **fields)


@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 16), st.integers(0, 2**16))
def test_the_symmetric_part_is_the_dense_one(n: int, r: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(n, r)), rng.normal(size=(r, n))
    most = min(2 * r, n)
    rank = min(rank, most)
    delta = left @ right
    Q, diag = (array[..., :rank] for array in symmetric_part(left, right))
    np.testing.assert_allclose(Q.T @ Q, np.eye(rank), atol=1e-12)
    dense = np.linalg.eigvalsh((delta + delta.T) / 2)
    largest = dense[np.argsort(-np.abs(dense))]
    np.testing.assert_allclose(np.abs(diag), np.abs(largest[:rank]), atol=1e-10)
    # Distance to ΔW: what is left of the symmetric part, and the antisymmetric part.
    lost = np.square(largest[rank:]).sum() + np.square((delta - delta.T) / 2).sum()
    assert np.square(Q * diag @ Q.T - delta).sum() == pytest.approx(lost, rel=1e-9, abs=1e-9)
    assert energy(left, right) == pytest.approx(np.square(delta).sum())
    if rank == most:
        np.testing.assert_allclose(Q * diag @ Q.T, (delta + delta.T) / 2, atol=1e-10)


@pytest.mark.parametrize("kind", ["without λ", "λ = 1", "λ", "eigen_smallest"])
def test_symlora_to_lora_is_the_same_function(kind: str, base_dir: Path, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"query": 2}, "alpha_pattern": {r"layer\.0.*value": 5}}
    value = 1.0 if kind == "λ = 1" else None
    eigen = kind == "eigen_smallest"  # without λ, and with a start that is subtracted: twice the rank
    start = {"train_lambda": kind.startswith("λ"), "init_weights": kind if eigen else True}
    model = saved(tmp_path / "a", base_dir, symlora(dropout=0.1, **start, **patterns), value)
    report = symlora_to_lora(read_adapter(tmp_path / "a"), tmp_path / "b", base(base_dir).state_dict())
    assert [row.rank for row in report] == ([4, 8] if eigen else [2, 4]) * 2
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["lora_dropout"] == 0.1 and config["task_type"] == "SEQ_CLS"
    for module in (QUERY, VALUE):
        delta = model.base_model.model.get_submodule(module).get_delta_weight("default").detach()
        if kind != "λ":
            close(matrix(tmp_path / "b", module, 1.0).float(), delta, 1e-6)
    assert (tmp_path / "b" / BASE_SCALE).is_file() == (kind == "λ")
    plain = base(base_dir)
    apply_base_scale(plain, tmp_path / "b")
    again: Any = PeftModel.from_pretrained(plain, tmp_path / "b").eval()
    assert {layer.scaling["default"] for layer in again.modules() if hasattr(layer, "lora_A")} == {1.0}
    close(logits(again), logits(model))
    forgotten = PeftModel.from_pretrained(base(base_dir), tmp_path / "b").eval()
    assert torch.allclose(logits(forgotten), logits(model), rtol=1e-5, atol=1e-5) == (kind != "λ")


def test_reconstruction_errors_are_the_closed_form(base_dir: Path, tmp_path: Path) -> None:
    saved(tmp_path / "a", base_dir, symlora(), 0.7)
    weights = base(base_dir).state_dict()
    report = symlora_to_lora(read_adapter(tmp_path / "a"), tmp_path / "b", weights)
    assert {row.module for row in report} >= {QUERY, VALUE} and len(report) == 4
    for row in report:
        W0, low_rank = weights[f"{row.module}.weight"].double(), matrix(tmp_path / "a", row.module, 6 / 4)
        lam = load_file(tmp_path / "a" / FILE)[f"base_model.model.{row.module}.symlora_lambda"].double()
        rounding = matrix(tmp_path / "b", row.module, 1.0) - low_rank
        assert row.base_scale == pytest.approx(0.7)
        assert row.change == pytest.approx(float(torch.linalg.norm((lam - 1) * W0 + low_rank)), rel=1e-9)
        assert row.error_unscaled == pytest.approx(float(torch.linalg.norm(rounding - (lam - 1) * W0)), rel=1e-9)
        assert row.error == pytest.approx(float(torch.linalg.norm(rounding)), rel=1e-6)
        assert 0 < row.error < 1e-7 * float(torch.linalg.norm(low_rank))
    blind = symlora_to_lora(read_adapter(tmp_path / "a"), tmp_path / "c")
    assert all(np.isnan(row.change) and np.isnan(row.error_unscaled) and row.error < 1e-6 for row in blind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_scale_is_applied_once_to_the_plain_base_or_not_at_all(
    dtype: torch.dtype, base_dir: Path, tmp_path: Path
) -> None:
    saved(tmp_path / "a", base_dir, symlora(), 1.003)  # bfloat16 would round it to 1
    symlora_to_lora(read_adapter(tmp_path / "a"), tmp_path / "b")
    model = base(base_dir).to(dtype)
    before = model.state_dict()[f"{QUERY}.weight"].clone()
    apply_base_scale(model, tmp_path / "b")
    lam = load_file(tmp_path / "a" / FILE)[f"base_model.model.{QUERY}.symlora_lambda"]
    expected = (before.double() * lam.double()).to(dtype)  # rounded once
    assert torch.equal(model.state_dict()[f"{QUERY}.weight"], expected) and not torch.equal(expected, before)
    with pytest.raises(SymloraError, match="scaled already"):
        apply_base_scale(model, tmp_path / "b")
    with pytest.raises(SymloraError, match=r"no weight roberta.*before PEFT wraps it"):
        apply_base_scale(get_peft_model(base(base_dir), lora()), tmp_path / "b")
    (tmp_path / "b" / BASE_SCALE).write_bytes(b"short")
    with pytest.raises(SymloraError, match="cut short"):
        apply_base_scale(base(base_dir), tmp_path / "b")


@pytest.mark.parametrize(
    "fields", [{}, {"use_rslora": True}, {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3}}]
)
def test_lora_to_symlora_keeps_the_largest_eigenvalues(fields: dict[str, Any], base_dir: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "a", base_dir, lora(**fields))
    report = lora_to_symlora(read_adapter(tmp_path / "a"), tmp_path / "b")
    whole = lora_to_symlora(read_adapter(tmp_path / "a"), tmp_path / "c", full=True)
    again: dict[str, Any] = {
        name: PeftModel.from_pretrained(base(base_dir), tmp_path / name).base_model.model for name in ("b", "c")
    }
    for row, every in zip(report, whole, strict=True):
        layer = model.base_model.model.get_submodule(row.module)
        delta = layer.get_delta_weight("default").detach().double()  # PEFT's own
        values = torch.linalg.eigvalsh((delta + delta.T) / 2).square().sort(descending=True).values
        rank = fields.get("rank_pattern", {}).get("query", 4) if "query" in row.module else 4
        assert (row.rank, every.rank) == (rank, 2 * rank)
        assert row.energy == pytest.approx(float(delta.square().sum()), rel=1e-5)
        assert row.symmetric == pytest.approx(float(values.sum()), rel=1e-5) == every.kept
        assert row.kept == pytest.approx(float(values[:rank].sum()), rel=1e-5)
        found = {name: m.get_submodule(row.module).get_delta_weight("default").double() for name, m in again.items()}
        close(found["c"], (delta + delta.T) / 2, 1e-6)
        assert float((found["b"] - delta).square().sum()) == pytest.approx(row.energy - row.kept, rel=1e-5)
    assert torch.equal(again["b"].classifier.out_proj.weight, model.base_model.model.classifier.out_proj.weight)


@pytest.mark.parametrize(("train_lambda", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_there_and_back(train_lambda: bool, dtype: torch.dtype, base_dir: Path, tmp_path: Path) -> None:
    saved(tmp_path / "a", base_dir, symlora(train_lambda=train_lambda, rank_pattern={"query": 2}))
    save_file({name: t.to(dtype) for name, t in load_file(tmp_path / "a" / FILE).items()}, tmp_path / "a" / FILE)
    symlora_to_lora(read_adapter(tmp_path / "a"), tmp_path / "b")
    report = lora_to_symlora(read_adapter(tmp_path / "b"), tmp_path / "c")
    assert all(row.kept == pytest.approx(row.energy, rel=1e-9) == row.symmetric for row in report)
    first, again = (PeftModel.from_pretrained(base(base_dir), tmp_path / name).eval() for name in "ac")
    close(logits(again), logits(first))
    close(matrix(tmp_path / "c", QUERY, 1.0), matrix(tmp_path / "a", QUERY, 6 / 2), 1e-6)


@pytest.mark.parametrize("kind", ["SymLoRA", "SymLoRA without a task type", "LoRA", "exported"])
def test_merged_is_a_plain_model_of_the_same_function(kind: str, base_dir: Path, tmp_path: Path) -> None:
    sym = symlora(task_type=None) if "without" in kind else symlora()
    model = saved(tmp_path / "a", base_dir, lora() if kind == "LoRA" else sym)
    if kind == "exported":
        symlora_to_lora(read_adapter(tmp_path / "a"), tmp_path / "b")
    export_merged(read_adapter(tmp_path / ("b" if kind == "exported" else "a")), tmp_path / "merged", str(base_dir))
    plain = base(tmp_path / "merged")
    assert type(plain) is type(base(base_dir)) and plain.config.num_labels == 3
    assert {name for name, _ in plain.named_parameters()} == {name for name, _ in base(base_dir).named_parameters()}
    close(logits(plain), logits(model))
    assert str(tmp_path) not in (tmp_path / "merged" / "config.json").read_text()


def test_merging_takes_the_number_of_classes_from_the_adapter(tiny: TinyFactory, tmp_path: Path) -> None:
    bare = tiny("roberta")  # an encoder without a head
    torch.manual_seed(0)
    model = get_peft_model(CLASSIFIER.from_pretrained(bare, num_labels=5), symlora(init_weights=False)).eval()
    model.save_pretrained(tmp_path / "a")
    export_merged(read_adapter(tmp_path / "a"), tmp_path / "merged")  # the adapter names its base
    close(logits(base(tmp_path / "merged")), logits(model))
    tensors = {name: t for name, t in load_file(tmp_path / "a" / FILE).items() if "classifier" not in name}
    save_file(tensors, tmp_path / "a" / FILE)
    with pytest.raises(SymloraError, match=r"no weights for classifier.*neither"):
        export_merged(read_adapter(tmp_path / "a"), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_base_models_revision_is_kept(base_dir: Path, tmp_path: Path) -> None:
    saved(tmp_path / "a", base_dir, symlora(revision="1234abcd"), 1.0)
    symlora_to_lora(read_adapter(tmp_path / "a"), tmp_path / "b")
    lora_to_symlora(read_adapter(tmp_path / "b"), tmp_path / "c")
    assert all(read_adapter(tmp_path / name).config.revision == "1234abcd" for name in "abc")
    edit(tmp_path / "c", base_model_name_or_path="some/base")
    assert base_source(read_adapter(tmp_path / "c")).revision == "1234abcd"
    assert base_source(read_adapter(tmp_path / "c"), "other/base").revision is None


RELEASED = SHARED / "lora-mnli-roberta-base" / "roberta_base_lora_mnli.safetensors"
needs_released = pytest.mark.skipif(not RELEASED.is_file(), reason=f"LoRA's released checkpoint is not at {RELEASED}")


def made_up_checkpoint() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    modules = [f"roberta.encoder.layer.{i}.attention.self.{p}" for i in range(2) for p in ("query", "value")]
    shapes: dict[str, tuple[int, ...]] = {f"{module}.lora_A": (4, 32) for module in modules}
    shapes |= {f"{module}.lora_B": (32, 4) for module in modules}
    for name, outputs in (("dense", 32), ("out_proj", 3)):
        shapes |= {f"classifier.{name}.weight": (outputs, 32), f"classifier.{name}.bias": (outputs,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["factors.safetensors", "factors.bin", "whole model.bin", "whole model.safetensors"])
def test_loralib_checkpoint_is_the_same_function_in_peft(
    kind: str, base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = made_up_checkpoint()
    expected = base(base_dir)
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            module = name.removesuffix(".weight")
            if f"{module}.lora_A" in content:
                parameter += 16 / 4 * content[f"{module}.lora_B"] @ content[f"{module}.lora_A"]
            if name in content:
                parameter.copy_(content[name])
    if kind.startswith("whole"):  # as loralib saves in eval mode, B A merged into the weights, and transformers 4
        content = {**expected.state_dict(), "roberta.embeddings.position_ids": torch.arange(24)[None], **content}
    file = tmp_path / kind
    save_file(content, file) if file.suffix == ".safetensors" else torch.save(content, file)
    main(["export", str(file), str(tmp_path / "out"), "--to", "lora", "--alpha", "16", "--base", "some/base"])
    said = capsys.readouterr().out
    assert "4 matrices, alpha 16" in said and ("other tensors of the encoder" in said) == kind.startswith("whole")
    config = read_adapter(tmp_path / "out").config
    assert (config.r, config.lora_alpha, config.base_model_name_or_path) == (4, 16, "some/base")
    assert config.modules_to_save == ["classifier"]
    close(logits(PeftModel.from_pretrained(base(base_dir), tmp_path / "out").eval()), logits(expected), 1e-4)


@pytest.mark.parametrize("place", ["layer.1.attention.self.query", "layer.0.attention.output.dense"])
def test_a_loralib_checkpoint_of_few_modules_adapts_these_alone(place: str, base_dir: Path, tmp_path: Path) -> None:
    factors = {"lora_A": torch.randn(4, 32), "lora_B": torch.randn(32, 4)}
    save_file({f"roberta.encoder.{place}.{name}": value for name, value in factors.items()}, tmp_path / "x.safetensors")
    loralib_to_lora(tmp_path / "x.safetensors", tmp_path / "out", 16)
    loaded = PeftModel.from_pretrained(base(base_dir), str(tmp_path / "out"))
    adapted = {name.rpartition(".lora_")[0] for name, _ in loaded.named_parameters() if ".lora_" in name}
    assert adapted == {f"base_model.model.roberta.encoder.{place}"}


def test_an_adapter_of_transformers_own_is_merged_into_its_class(base_dir: Path, tmp_path: Path) -> None:
    model = base(base_dir)
    model.add_adapter(SymLoraConfig(target_modules=["query"], init_weights=False))  # which notes no class
    model.save_pretrained(tmp_path / "a")
    main(["export", str(tmp_path / "a"), str(tmp_path / "out"), "--to", "merged", "--base", str(base_dir)])
    close(logits(base(tmp_path / "out")), logits(model))
    write_card(tmp_path / "out", read_adapter(tmp_path / "a"), str(base_dir))
    assert "import RobertaForSequenceClassification" in (tmp_path / "out" / "README.md").read_text()


def test_the_adapter_of_a_folder_is_its_own(base_dir: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "a", base_dir, symlora())
    model.add_adapter("adapter", symlora(r=2))  # which PEFT saves in a folder below
    model.save_pretrained(tmp_path / "b")
    assert read_adapter(tmp_path / "b").config.r == 4


@pytest.mark.parametrize("target", ["lora", "merged", "adapter"])
def test_an_adapter_of_old_peft_is_exported(target: str, base_dir: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "a", base_dir, symlora())
    strided = {name: t.T.contiguous().T if t.ndim == 2 else t for name, t in load_file(tmp_path / "a" / FILE).items()}
    torch.save(strided, tmp_path / "a" / "adapter_model.bin")
    expected = matrix(tmp_path / "a", QUERY, 6 / 4)
    (tmp_path / "a" / FILE).unlink()
    main(["export", str(tmp_path / "a"), str(tmp_path / "out"), "--to", target, "--base", str(base_dir)])
    if target == "merged":
        close(logits(base(tmp_path / "out")), logits(model))
    else:
        close(matrix(tmp_path / "out", QUERY, 1.0 if target == "lora" else 6 / 4), expected, 1e-6)
    torch.save({"a": Path("not a tensor")}, tmp_path / "a" / "adapter_model.bin")  # unpickling it would run code
    with pytest.raises(SystemExit, match="error: .*holds other objects"):
        main(["export", str(tmp_path / "a"), str(tmp_path / "again"), "--to", target])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": Path("not a tensor")}, "holds other objects"),  # unpickling it would run code
        ([torch.ones(1)], "state dict"),
        ({1: torch.ones(2)}, "state dict"),
        ({"a.lora_A": torch.eye(2).to_sparse(), "a.lora_B": torch.eye(2)}, "state dict"),
        (b"PK\x03\x04", "file of tensors: it is damaged"),
        (None, "cannot be read: No such file"),
        ({"classifier.weight": torch.ones(2)}, "holds no LoRA"),
        (made_up_checkpoint() | {"classifier.dense.bias": torch.full((32,), torch.nan)}, "classifier.dense.bias holds"),
        (made_up_checkpoint() | {"roberta.encoder.bias": torch.ones(32)}, "encoder.bias belongs to the encoder"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_one_clear_error(content: Any, words: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / "x.bin").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "x.bin")
    with pytest.raises(SymloraError, match=words) as refused:
        loralib_to_lora(tmp_path / "x.bin", tmp_path / "out", 16)
    assert "weights_only" not in str(refused.value)  # torch's advice is to run the file's code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_none_is_refused(alpha: float, tmp_path: Path) -> None:
    with pytest.raises(SymloraError, match="alpha"):
        loralib_to_lora(tmp_path / "x.bin", tmp_path / "out", alpha)


@needs_released
@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_runs_start_from_the_released_mnli_checkpoint(task: str, base_shape: Path, tmp_path: Path) -> None:
    from symlora.model.build import build

    loralib_to_lora(RELEASED, tmp_path / "mnli", alpha=16)
    config = run_config(base_shape, "lora", task)
    config.init_from = str(tmp_path / "mnli")
    with pytest.raises(SymloraError, match="lora_alpha=16"):  # the YAML has the paper's 8
        build(config, torch.device("cpu"), "fp32")
    config.method.peft_config["lora_alpha"] = 16
    model = build(config, torch.device("cpu"), "fp32")
    content = {name: t.double() for name, t in load_file(RELEASED).items()}
    layers = dict(model.adapted_layers())
    assert len(layers) == 24
    for name in (QUERY, VALUE):
        expected = 16 / 8 * content[f"{name}.lora_B"] @ content[f"{name}.lora_A"]
        close(layers[name].get_delta_weight("default").double(), expected, 1e-6)
    head = model.encoder.model.classifier.modules_to_save["default"]
    assert torch.equal(head.dense.weight.double(), content["classifier.dense.weight"])
    assert torch.equal(head.dense.bias.double(), content["classifier.dense.bias"])
    assert len(head.out_proj.weight) == (1 if task == "stsb" else 2)  # this run's own
    assert model.counts().adapter == 294_912


@needs_released
def test_released_checkpoint_is_half_symmetric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(RELEASED), str(tmp_path / "sym"), "--to", "symlora", "--alpha", "16"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 24 + 1 + 1
    assert lines[-2].split() == ["total", "50.0", "%", "45.6", "%"]  # shares of the whole ‖ΔW‖²
    assert read_adapter(tmp_path / "sym").method == "SYMLORA"


def test_a_full_disk_leaves_nothing_behind(base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a", base_dir, symlora())
    before = sorted(tmp_path.rglob("*"))
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("symlora.interchange.write.save_file", full)
    with pytest.raises(SymloraError, match="could not be written: No space left"):
        symlora_to_lora(read_adapter(tmp_path / "a"), tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("config", "spoil", "words"),
    [
        (symlora(), lambda folder: put(folder, "query.symlora_lambda", torch.tensor([torch.inf])), "not finite"),
        (symlora(), lambda folder: put(folder, "query.symlora_lambda", torch.ones(2)), "is not one number"),
        (symlora(), lambda folder: drop(folder, "0.attention.self.query.symlora_lambda"), "symlora_lambda is missing"),
        (symlora(), spoiled(train_lambda=False), "symlora_lambda is there"),
        (lora(), lambda folder: put(folder, "out_proj.bias", torch.full((3,), torch.nan)), "out_proj.bias holds"),
        (symlora(), lambda folder: os.truncate(folder / FILE, 2000), "cut short"),
        (symlora(), lambda folder: (folder / FILE).unlink(), "there is no adapter_model.safetensors"),
        (symlora(), spoiled(r=3), "factors of rank 4, but adapter_config.json says 3"),
        (symlora(), spoiled(r=0), "cannot be read as a PEFT configuration.*at least 1"),
        (symlora(), spoiled(peft_type="NONESUCH"), "NONESUCH"),
        (symlora(), lambda folder: (folder / "adapter_config.json").write_text("{"), "PEFT configuration"),
        (symlora(), lambda folder: drop(folder, "symlora_diag"), "has only symlora_Q"),
        (symlora(), lambda folder: drop(folder, "symlora_Q", "symlora_diag"), "holds no LoRA or SymLoRA factors"),
        (symlora(), lambda folder: put(folder, "symlora_diag", torch.ones(3)), "has Q of .* and Λ of"),
        (symlora(bias="all"), lambda folder: None, "bias"),
        (lora(), spoiled(r=3), "factors of rank 4, but adapter_config.json says 3"),
        (symlora(alpha=1e5), lambda folder: put(folder, "symlora_diag", torch.full((4,), 3e38)), "lora_B.*holds"),
        (lora(), spoiled(init_lora_weights="pissa"), "changed the base model"),
        (lora(), spoiled(lora_alpha="16"), "cannot be converted to SymLoRA"),
        (lora(use_dora=True), lambda folder: None, "use_dora"),
        (lora(bias="all"), lambda folder: None, "bias"),
        (lora(target_modules=["intermediate.dense"]), lambda folder: None, r"dense is not square \(48 x 32"),
        (lora(target_modules=["query", "word_embeddings"]), lambda folder: None, "belongs to no linear layer"),
        (lora(trainable_token_indices=[0, 1]), lambda folder: None, "trainable_tokens.*belongs to no linear layer"),
        (lora(), spoiled(alora_invocation_tokens=[5]), "alora_invocation_tokens=.*not imported"),
        (lora(), spoiled(layer_replication=[[0, 2], [1, 2]]), "layer_replication=.*not imported"),
        (lora(), spoiled(modules_to_save=None), "classifier.*to no saved module"),
    ],
)
def test_a_bad_adapter_is_one_clear_error(
    config: Any, spoil: Any, words: str, base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a"
    get_peft_model(base(base_dir), config).save_pretrained(folder)
    spoil(folder)
    target = "lora" if isinstance(config, SymLoraConfig) else "symlora"
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{words}") as stopped:
        main(["export", str(folder), str(tmp_path / "out"), "--to", target])
    assert "\n" not in str(stopped.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture(scope="module")
def folder_of_all(base_dir: Path, tiny: TinyFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters, base models and other files, for commands that change none of them."""
    root = tmp_path_factory.mktemp("all")
    for name, shape in {"wide": {"hidden_size": 16}, "flat": {"num_hidden_layers": 1}, "bert": {}}.items():
        kind = "bert" if name == "bert" else "roberta"
        (root / name).symlink_to(tiny(kind, head=True, num_labels=3, **shape))
    for name, config in (("sym", symlora()), ("nameless", symlora()), ("regex", lora()), ("lora", lora())):
        saved(root / name, base_dir, config)
    edit(root / "nameless", base_model_name_or_path=None)
    edit(root / "regex", exclude_modules="(")
    torch.save(made_up_checkpoint(), root / "loralib.bin")
    for folder in ("full/file", "checkpoint/pytorch_model.bin"):
        (root / folder).parent.mkdir()
        (root / folder).touch()
    return root


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("lora out --to lora", "is a LORA adapter, not a SymLoRA"),
        ("sym out --to symlora", "is a SYMLORA adapter, not a LoRA"),
        ("sym full --to lora", "is there already"),
        ("full out --to lora", "there is no adapter_config.json"),
        ("sym out --to lora --rank 3", "go with --to symlora"),
        ("lora out --to symlora --rank 9", "at most 8"),
        ("lora out --to symlora --rank 0", "at least 1"),
        ("lora out --to symlora --rank 2 --full", "give either a whole number"),
        ("lora/adapter_model.safetensors out --to lora", "give --alpha"),
        ("lora/adapter_model.safetensors out --to lora --alpha 16", "was saved by PEFT: give the folder"),
        ("checkpoint out --to lora", "symlora export checkpoint/pytorch_model.bin FOLDER --to lora --alpha ALPHA"),
        ("lora out --to symlora --alpha 16", "--alpha goes with"),
        ("nowhere.bin out --to lora --alpha 16", "nowhere.bin does not exist"),
        ("loralib.bin out --to merged --alpha 16", "loralib.bin does not name its base model"),
        ("nameless out --to merged", "names no base model"),
        ("regex out --to merged", "cannot be merged"),
        ("sym out --to lora --base wide", r"is \(16, 16\) there, the adapter's is \(32, 32\)"),
        ("sym out --to lora --base bert", "has no roberta|no weights for"),
        ("sym out --to merged --base wide", "size mismatch"),
        ("sym out --to merged --base bert", "has no base_model.model.classifier"),
        ("sym out --to merged --base flat", "another base model.*has no counterpart"),
        ("sym out --to merged --base nobody/no-such-model", "could not be loaded"),
    ],
)
def test_a_command_that_does_not_fit_is_one_clear_error(
    command: str, words: str, folder_of_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_of_all)
    with pytest.raises(SystemExit, match=f"error: .*{words}"):
        main(["export", *command.split()])
    assert not Path("out").exists()


def test_the_command_prints_errors_and_a_hint(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "a", base_dir, symlora())
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    main(["export", "../a", ".", "--to", "lora", "--base", str(base_dir)])  # into the folder one stands in
    known = capsys.readouterr().out
    assert len([line for line in known.splitlines() if ".self." in line]) == 4 and "apply_base_scale" in known
    total = next(line.split() for line in known.splitlines() if line.startswith("total"))
    assert float(total[1]) < 1e-7 < 1e-2 < float(total[2])
    edit(tmp_path / "a", base_model_name_or_path=None)
    main(["export", str(tmp_path / "a"), str(tmp_path / "c"), "--to", "lora"])
    unknown = capsys.readouterr().out
    assert "W0 is not available: " in unknown and re.search(r"^total +- +-$", unknown, re.MULTILINE)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been sent: nothing leaves this machine."""
    sent: list[Any] = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **_: sent.append(name))

    def upload(self: Any, folder_path: Path, repo_id: str, **_: Any) -> Any:
        sent.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    return sent


@pytest.mark.parametrize("to", ["adapter", "lora", "merged"])
def test_a_push_is_a_dry_run_until_confirmed_and_its_card_loads(
    to: str, hub: list[Any], base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    model = saved(tmp_path / "a", base_dir, symlora())
    command = ["export", str(tmp_path / "a"), "--to", to, "--push", "someone/thing"]
    main([*command, str(tmp_path / "dry")])
    said = capsys.readouterr().out
    assert (f"a path on this machine: {base_dir}" in said) == (to != "merged")
    assert not hub and "would upload to https://huggingface.co/someone/thing" in said and "nothing was sent" in said
    main([*command, str(tmp_path / "out"), "--confirm"])
    assert hub[0] == "someone/thing" and "uploaded: https://huggingface.co/someone/thing/commit/1" in (
        capsys.readouterr().out
    )
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert hub[1:] == [("someone/thing", files)] and all(name in said for name in files)
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in card and str(base_dir) not in card and not card.startswith("---\nbase_model")
    assert f'"{base_dir.name}"` is the folder of the base model' in card or to == "merged"
    Path(tmp_path / base_dir.name).symlink_to(base_dir)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0], found)
    close(logits(found["model"].eval()), logits(model))


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_a_card_names_the_class_of_its_task(to: str, base_dir: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tagger = AutoModelForTokenClassification.from_pretrained(base_dir, num_labels=5)
    get_peft_model(tagger, symlora(task_type="TOKEN_CLS")).save_pretrained(tmp_path / "a")
    main(["export", str(tmp_path / "a"), "--to", to, "--push", "someone/thing", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "AutoModelForTokenClassification.from_pretrained" in card and "AutoModel." not in card
    assert (", num_labels=5, ignore_mismatched_sizes=True)" in card) == (to == "adapter")


def test_a_push_that_cannot_be_is_one_clear_error(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "a", base_dir, symlora())
    refused = Mock(side_effect=RuntimeError("401 Client Error"))  # the hub's client has errors of its own
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refused)
    start = ["export", str(tmp_path / "a")]
    for words, message in (
        ("n1 --to adapter --push someone/thing --confirm", "someone/thing could not be uploaded: 401.*hf auth login"),
        ("n2 --to adapter --push thing", "give USER/NAME"),
        ("n3 --to adapter --push a/b/c", "--push a/b/c"),
        ("n4 --to adapter --confirm", "--confirm goes with --push"),
    ):
        out, *rest = words.split()
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            main([*start, str(tmp_path / out), *rest])
        assert (tmp_path / out).exists() == (out == "n1")  # what is exported stays


def test_help_is_light() -> None:
    program = "import sys; from symlora.cli import main\ntry: main(['export', '--help'])\nexcept SystemExit: pass\n"
    check = "assert not {'torch', 'peft', 'transformers', 'numpy'} & set(sys.modules)"
    run_program(sys.executable, "-c", program + check)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_function(name: str) -> None:
    assert callable(resolve_name(f"symlora.{COMMANDS[name][0]}")) and DETAILS.keys() < COMMANDS.keys()


def test_the_documented_commands_run(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "predict.md").read_text()
    commands = [line.split()[1:] for line in page.splitlines() if line.startswith("    symlora ")]
    assert len(commands) == 6
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "adapter", base_dir, symlora())
    torch.save(made_up_checkpoint(), "roberta_base_lora_mnli.bin")
    for command in commands:
        main(command)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        *("adapter", "merged", "lora", "symmetric", "whole", "copy", "mnli")
    }
    assert capsys.readouterr().out.count("total") == 3
