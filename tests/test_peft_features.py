"""What PEFT users do with any adapter, done with SymLoRA; beyond test_adapter.py and PEFT's own suite.

PEFT's suite (test_peft_contract.py) has multi-layer perceptrons; most of these have RoBERTa and its composite head.
FSDP's state dict is TestFsdp there.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import TinyFactory
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn

from symlora import SymLoraConfig
from symlora.adapters.symlora import SymLoraLinear

CLASSIFIER: Any = transformers.AutoModelForSequenceClassification
IDS = torch.randint(3, 100, (4, 9), generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base_dir(tiny: TinyFactory) -> Path:
    return tiny("roberta", head=True, num_labels=3)


def base(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return CLASSIFIER.from_pretrained(folder, dtype=dtype).eval()


def config(**fields: Any) -> Any:
    return SymLoraConfig(**{"r": 4, "alpha": 6, "task_type": "SEQ_CLS", "init_weights": False, **fields})


def adapted(folder: Path, **fields: Any) -> Any:
    torch.manual_seed(3)
    return get_peft_model(base(folder), config(**fields)).eval()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(IDS).logits


def layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, SymLoraLinear)]


def two_saved(base_dir: Path, root: Path, **fields: Any) -> tuple[Path, Path]:
    """Two saved adapters of one base model; the first empties one layer with λ = 0."""
    for name, own in {"a": {}, "b": {"r": 2, "target_modules": ["query", "key"]}}.items():
        model = adapted(base_dir, **own, **fields)
        if name == "a":
            layers(model)[0].symlora_lambda["default"].data.zero_()
        model.save_pretrained(root / name)
    return root / "a", root / "b"


@pytest.fixture(scope="module")
def two_dirs(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """With a head each, as task_type="SEQ_CLS" saves them."""
    return two_saved(base_dir, tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def two_headless(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """On the base model's own head: only such adapters can be at work together (PEFT has one head at a time)."""
    return two_saved(base_dir, tmp_path_factory.mktemp("headless"), task_type=None)


# Several adapters.


def test_adapters_are_loaded_switched_and_deleted_with_their_heads(base_dir: Path, two_dirs: Any) -> None:
    singles = [logits(PeftModel.from_pretrained(base(base_dir), folder)) for folder in two_dirs]
    model: Any = PeftModel.from_pretrained(base(base_dir), two_dirs[0], adapter_name="a").eval()
    model.load_adapter(two_dirs[1], "b", low_cpu_mem_usage=True)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}  # and none on meta
    for name, expected in zip("ab", singles, strict=True):
        model.set_adapter(name)
        assert torch.equal(logits(model), expected)  # with its own head
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(base(base_dir)))
    assert torch.equal(logits(model), singles[1])
    status = model.get_model_status()
    assert status.peft_types == {"a": "SYMLORA", "b": "SYMLORA"} and status.active_adapters == ["b"]
    model.delete_adapter("b")
    assert not [name for name in model.state_dict() if name.endswith(".b") or ".b." in name]
    model.set_adapter("a")
    assert torch.equal(logits(model), singles[0])


def test_adapters_at_work_together_are_merged_one_by_one_and_unmerged(base_dir: Path, two_headless: Any) -> None:
    singles = [logits(PeftModel.from_pretrained(base(base_dir), folder)) for folder in two_headless]
    model: Any = PeftModel.from_pretrained(base(base_dir), two_headless[0], adapter_name="a").eval()
    model.load_adapter(two_headless[1], "b")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.base_model.set_adapter(["a", "b"])
    expected = logits(model)
    assert not any(torch.allclose(expected, single, atol=1e-3) for single in singles)
    model.merge_adapter(adapter_names=["a"])
    emptied = layers(model)[0]
    assert emptied.symlora_lambda["a"].item() == 0
    with pytest.warns(UserWarning, match="additionally merging"):
        model.merge_adapter(adapter_names=["b"])
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert model.get_model_status().merged_adapters == ["a", "b"]
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    merged = model.merge_and_unload(adapter_names=["b", "a"])  # the order does not matter
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    assert not layers(merged) and type(merged) is type(base(base_dir))


# Precision.


@pytest.mark.parametrize(("dtype", "near"), [(torch.float16, 0.02), (torch.bfloat16, 0.08), (torch.float32, 1e-5)])
def test_training_and_merging_on_a_base_of_any_precision(
    dtype: torch.dtype, near: float, base_dir: Path, two_dirs: Any
) -> None:
    reference = logits(PeftModel.from_pretrained(base(base_dir), two_dirs[0]))
    model: Any = PeftModel.from_pretrained(base(base_dir, dtype), two_dirs[0], is_trainable=True).eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for name, p in trained.items() if "symlora_" in name} == {torch.float32}
    out = logits(model)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), reference, rtol=near, atol=near)
    model(IDS, labels=LABELS).loss.backward()
    assert len(trained) == 4 * 3 + 4
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in trained.values())
    merged = model.merge_and_unload(safe_merge=True)
    assert {p.dtype for p in merged.parameters()} == {dtype}
    torch.testing.assert_close(logits(merged).float(), reference, rtol=near, atol=near)


def test_transformers_loads_an_adapter_folder_itself(base_dir: Path, two_dirs: Any) -> None:
    expected = logits(PeftModel.from_pretrained(base(base_dir), two_dirs[0]))
    assert torch.equal(logits(CLASSIFIER.from_pretrained(two_dirs[0], num_labels=3).eval()), expected)
    model = base(base_dir)
    model.load_adapter(str(two_dirs[0]))
    assert torch.equal(logits(model.eval()), expected)


# Compilers and processes.


def test_a_pipeline_takes_the_adapted_and_the_merged_model(minilm_dir: Path) -> None:
    torch.manual_seed(0)
    names = {0: "equivalent", 1: "not_equivalent"}
    model = get_peft_model(CLASSIFIER.from_pretrained(minilm_dir, id2label=names), config()).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_dir)
    pair = {"text": "Rates rose by half a point.", "text_pair": "The bank raised its rates."}
    with torch.no_grad():
        chances = model(**tokenizer(*pair.values(), return_tensors="pt")).logits.softmax(-1)[0]
    for subject in (model, model.merge_and_unload()):
        answer: Any = transformers.pipeline("text-classification", model=subject, tokenizer=tokenizer)(pair)
        assert answer["label"] == names[int(chances.argmax())]
        assert answer["score"] == pytest.approx(float(chances.max()), abs=1e-5)


def test_compiled_whole_without_a_graph_break(base_dir: Path) -> None:
    model = adapted(base_dir)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits(compiled), logits(model))


# Quantised bases.


@pytest.mark.parametrize(("bits", "near"), [(8, 0.02), (4, 0.15)])
def test_quantised_base(bits: int, near: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bnb: Any = pytest.importorskip(
            "bitsandbytes", reason="bitsandbytes is not installed: 8-bit and 4-bit bases untested"
        )
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    make: Callable[[], Any] = (
        (lambda: bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False))
        if bits == 8
        else (lambda: bnb.nn.Linear4bit(64, 64, compute_dtype=torch.float32, quant_type="nf4"))
    )
    quantised = nn.Sequential(make(), nn.ReLU(), make())
    quantised.load_state_dict(plain.state_dict())
    quantised.to("cpu")  # which quantises
    x = torch.randn(5, 64)
    start = quantised(x).detach()
    model: Any = get_peft_model(quantised, config(task_type=None, target_modules=["0", "2"], init_weights=True))
    assert torch.equal(model(x), start)
    first = layers(model)[0]
    with torch.no_grad():
        first.symlora_diag["default"].normal_()
        first.symlora_lambda["default"].fill_(0.7)
    out = model(x)
    out.square().sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "symlora_" in name)
    W0 = first.original_weight().double()  # dequantised
    Q, diag = first.symlora_Q["default"].double(), first.symlora_diag["default"].double()
    dense = x.double() @ (0.7 * W0 + 6 / 4 * Q @ torch.diag(diag) @ Q.T).T + first.get_base_layer().bias
    scale = float(dense.detach().abs().max())
    torch.testing.assert_close(first(x).double(), dense, rtol=0, atol=0.01 * scale)
    model.merge_adapter()
    torch.testing.assert_close(model(x), out, rtol=0, atol=near * float(out.detach().abs().max()))
    model.unmerge_adapter()
    torch.testing.assert_close(model(x), out, rtol=0, atol=1e-3 * float(out.detach().abs().max()))
    merged = model.merge_and_unload()
    assert type(merged[0]) is type(make()) and not layers(merged)


# Bad files: what PEFT says of them, so that nobody trains or scores something else.


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"r": 3}, RuntimeError, r"query\.symlora_Q.*torch.Size\(\[32, 4\]\).*torch.Size\(\[32, 3\]\)"),
        ({"r": 33}, ValueError, r"r = 33.*attention\.self\.query.*32 x 32"),
        (None, SafetensorError, "file not fully covered"),
    ],
    ids=["another rank", "no such rank", "cut short"],
)
def test_a_bad_adapter_file_is_refused(
    fields: Any, error: Any, words: str, base_dir: Path, two_dirs: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(two_dirs[0], tmp_path / "bad"))
    if fields is None:
        content = (folder / FILE).read_bytes()
        (folder / FILE).write_bytes(content[: len(content) // 2])
    else:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(error, match=f"(?s){words}"):
        PeftModel.from_pretrained(base(base_dir), folder)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["qeury"], r"Did you mean query\?"),
        (["self.quary", "valeu"], r"Did you mean self\.query, .*value\?"),
        (["xyz"], r"linear layers end in dense, key, out_proj, query, value\."),
        ("no_such_.*", r"linear layers end in dense"),
    ],
)
def test_an_unmatched_target_lists_similar_names(targets: Any, words: str, base_dir: Path) -> None:
    with pytest.raises(ValueError, match=rf"not found in the base model.*{words}"):
        get_peft_model(base(base_dir), config(task_type=None, target_modules=targets))
