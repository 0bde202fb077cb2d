"""SymLoRA as PEFT's users meet it: its layer, saved adapters, refusals; and how PEFT comes to know a method."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT, run_program
from layers import CLASSIFIER, IDS, base, containers, forget, inputs, layer_of, logits
from peft import LoraConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from torch import Tensor, nn
from transformers.models.auto import CONFIG_MAPPING

from symlora import SymLoraConfig
from symlora.adapters.config import LowRankConfig
from symlora.adapters.loralambda import LoraLambdaConfig
from symlora.adapters.lorta import LortaConfig
from symlora.adapters.registry import METHODS
from symlora.adapters.symlora import SymLoraLinear
from symlora.adapters.symmetric import SymmetricConfig
from symlora.adapters.tuner import AdapterModel

ENCODER: Any = transformers.AutoModel
LABELS = torch.tensor([0, 1, 2, 0])


def layer(**fields: Any) -> Any:
    """A layer 6 -> 6 in float64 with random values everywhere."""
    return layer_of(SymLoraConfig(**{"r": 3, "alpha": 5, "init_weights": False, **fields}), 6, 6)


def parts(module: Any) -> tuple[Tensor, Tensor, Tensor]:
    Q, diag, lam = containers(module).values()
    return Q, diag, lam


def config(**fields: Any) -> Any:
    return SymLoraConfig(**{"r": 4, "alpha": 6, "task_type": "SEQ_CLS", "init_weights": False, **fields})


def adapted(folder: Path, **fields: Any) -> Any:
    torch.manual_seed(3)
    return get_peft_model(base(folder), config(**fields)).eval()


def layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, SymLoraLinear)]


@pytest.fixture(scope="module")
def two_dirs(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two saved adapters of one base model, with a head each; the second has frozen factors, those of its start."""
    root = tmp_path_factory.mktemp("heads")
    adapted(base_dir).save_pretrained(root / "a")
    other = adapted(base_dir, r=2, target_modules=["query", "key"], init_weights="eigen_largest")
    for module in layers(other):
        module.symlora_diag["default"].data.normal_()
    other.save_pretrained(root / "b")
    return root / "a", root / "b"


@pytest.mark.parametrize("zero", [False, True])
def test_zero_start_of_q_is_a_dead_saddle(zero: bool) -> None:
    """Neither factor would ever move. From our start Λ moves first, then Q."""
    module = layer(init_weights=True)
    Q, diag, lam = parts(module)
    if zero:
        Q.data.zero_()
    module(inputs(6)).square().sum().backward()
    assert [bool(value.grad.any()) for value in (Q, diag, lam) if value.grad is not None] == [False, not zero, True]


def test_dropout_touches_the_low_rank_part_only() -> None:
    module, x = layer(dropout=0.5).train(), inputs(6)
    assert not torch.equal(module(x), module(x))
    parts(module)[1].data.zero_()
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_0_returns_any_base_output_to_the_last_bit(dtype: torch.dtype) -> None:
    module = layer_of(SymLoraConfig(r=8), 64, 64, dtype)
    nn.init.normal_(module.base_layer.bias, std=3.0)
    base_out = 1e-3 * torch.randn(500, 64, dtype=dtype)  # so small beside the bias that (out - b) + b is off
    assert torch.equal(module.combine(["default"], inputs(64, 500, dtype), base_out).to(dtype), base_out)


def test_lambda_keeps_its_digits_on_a_bfloat16_base() -> None:
    module = layer_of(SymLoraConfig(init_weights=False), 16, 16, torch.bfloat16)
    W0, bias = module.base_layer.weight.double(), module.base_layer.bias.double()
    Q, diag, lam = parts(module)
    assert {value.dtype for value in (Q, diag, lam)} == {torch.float32}
    x = inputs(16, 1000, torch.bfloat16)
    with torch.no_grad():
        lam.fill_(1.003)  # bfloat16 would round it to 1
        out = module(x)
        change = 0.003 * x.double() @ W0.T
        rest = x.double() @ (W0 + (Q * diag @ Q.T).double()).T + bias
    assert out.dtype == torch.bfloat16
    # Each output is rounded, but unbiasedly: the projection on the change of λ shows it.
    assert float(((out - rest) * change).sum() / change.square().sum()) == pytest.approx(1, abs=0.1)


def test_unmerge_restores_every_bit_even_of_lambda_0_and_in_half_precision() -> None:
    module = layer().to(torch.bfloat16)
    module.update_layer("second", SymLoraConfig(r=2, init_weights=False), "lin")
    parts(module)[2].data.zero_()
    original = module.base_layer.weight.clone()
    module.merge(adapter_names=["default"])
    with pytest.warns(UserWarning, match="additionally merging"):
        module.merge(adapter_names=["second"])
    one_by_one = module.base_layer.weight.clone()
    assert not torch.equal(one_by_one, original)
    assert torch.equal(module.original_weight(), original)
    module.unmerge()
    assert torch.equal(module.base_layer.weight, original) and module.merged_adapters == []
    module.merge(adapter_names=["default", "second"])
    assert torch.equal(module.base_layer.weight, one_by_one)
    module.unmerge()
    module.merge(adapter_names=["default"])
    module.float()
    with pytest.warns(UserWarning, match="additionally merging"):
        module.merge(adapter_names=["second"])  # after a move: in the dtype that the layer has now
    assert module.base_layer.weight.dtype == torch.float32
    torch.testing.assert_close(module.base_layer.weight.bfloat16(), one_by_one)


def test_safe_merge_refuses_nan_and_leaves_the_base() -> None:
    module = layer()
    parts(module)[1].data[0] = float("nan")
    original = module.base_layer.weight.clone()
    with pytest.raises(ValueError, match="NaNs detected"):
        module.merge(safe_merge=True)
    assert torch.equal(module.base_layer.weight, original) and not module.merged


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
    assert [name for name in model.state_dict() if name.endswith("symlora_start_Q.b")]
    model.delete_adapter("b")
    assert not [name for name in model.state_dict() if name.endswith(".b") or ".b." in name]
    model.set_adapter("a")
    assert torch.equal(logits(model), singles[0])


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
    assert not layers(merged) and type(merged) is type(base(base_dir))
    torch.testing.assert_close(logits(merged).float(), reference, rtol=near, atol=near)


def test_transformers_loads_an_adapter_folder_itself(base_dir: Path, two_dirs: Any) -> None:
    expected = logits(PeftModel.from_pretrained(base(base_dir), two_dirs[0]))
    assert torch.equal(logits(CLASSIFIER.from_pretrained(two_dirs[0], num_labels=3).eval()), expected)
    model = base(base_dir)
    model.load_adapter(str(two_dirs[0]))
    assert torch.equal(logits(model.eval()), expected)


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


@pytest.mark.filterwarnings("ignore")  # of bitsandbytes, as it is imported
@pytest.mark.parametrize(("bits", "near"), [(8, 0.02), (4, 0.15)])
def test_quantised_base(bits: int, near: float) -> None:
    bnb: Any = pytest.importorskip("bitsandbytes")
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


ENCODERS = """albert bert big_bird camembert data2vec-text deberta-v2 distilbert electra ernie eurobert mpnet nomic_bert
roberta roformer xlm-roberta xlm-roberta-xl xmod"""


@pytest.mark.parametrize("kind", ENCODERS.split())
def test_default_targets_are_query_and_value(kind: str) -> None:
    shape = CONFIG_MAPPING[kind](**{"n_layers" if kind == "distilbert" else "num_hidden_layers": 1})
    with torch.device("meta"):
        model = get_peft_model(ENCODER.from_config(shape), SymLoraConfig())
    names = [name.rsplit(".")[-1] for name in model.targeted_module_names]
    assert sorted(name[0] for name in names) == ["q", "v"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (config(target_modules=["intermediate.dense"]), r"square.*encoder\.layer\.0\.intermediate\.dense.*48 x 32"),
        (SymmetricConfig(target_modules=["intermediate.dense"]), r"square.*encoder\.layer\.0\.intermediate.*48 x 32"),
        (config(r=33), r"r = 33.*encoder\.layer\.0\.attention\.self\.query.*32 x 32"),
        (LoraLambdaConfig(r=33, target_modules=["intermediate.dense"]), r"r = 33.*intermediate\.dense.*48 x 32"),
        (config(target_modules=["qeury"]), r"No modules were targeted.*Did you mean query\?"),
        (config(target_modules=["self.quary", "valeu"], task_type=None), r"Did you mean self\.query, .*value\?"),
        (config(target_modules=["xyz"]), r"linear layers end in dense, key, out_proj, query, value\."),
        (config(target_modules="no_such_.*", task_type=None), r"not found in.*linear layers end in dense"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(wrong: Any, words: str, base_dir: Path) -> None:
    with pytest.raises(ValueError, match=words):
        get_peft_model(base(base_dir), wrong)


def test_a_refused_adapter_leaves_the_model_as_it_was(base_dir: Path) -> None:
    """PEFT of a half wrapped model would go on to train the whole encoder."""

    def names(model: Any) -> list[str]:
        return [name for name, _ in model.named_modules()]

    fresh, model = adapted(base_dir, target_modules=["query"]), base(base_dir)
    before = names(model)
    for targets, error in ((["query", "dense"], ValueError), (["query", "word_embeddings"], TypeError)):
        with pytest.raises(error):
            get_peft_model(model, config(target_modules=targets))
        assert names(model) == before and all(value.requires_grad for value in model.parameters())
    with pytest.raises(ValueError, match="num_heads = 5"):  # when its layers are in place
        get_peft_model(model, LortaConfig(num_heads=5, target_modules=["query"]))
    assert names(model) == before and all(value.requires_grad for value in model.parameters())
    again = get_peft_model(model, config(target_modules=["query"]))
    assert again.get_nb_trainable_parameters() == fresh.get_nb_trainable_parameters()
    with pytest.raises(ValueError, match="square"):
        again.add_adapter("b", config(target_modules=["query", "value", "intermediate.dense"]))
    assert names(again) == names(fresh)
    again.add_adapter("b", config(target_modules=["value"]))
    with_b = {name.rsplit(".", 1)[-1] for name, module in again.named_modules() if "b" in getattr(module, "r", ())}
    assert with_b == {"value"}


def test_an_adapter_for_each_row_and_a_model_without_usual_targets_are_refused(base_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"adapter_names.*with LoRA only.*set_adapter"):
        adapted(base_dir)(IDS, adapter_names=["default", "__base__"] * 2)
    with pytest.raises(ValueError, match=r"specify `target_modules`.*'custom'"):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), SymLoraConfig())


@pytest.mark.parametrize(
    ("module", "target"), [(nn.MultiheadAttention(8, 2), "out_proj"), (nn.TransformerEncoderLayer(8, 2, 8), "linear1")]
)
def test_a_projection_that_its_module_reads_itself_is_refused(module: nn.Module, target: str) -> None:
    with pytest.raises(TypeError, match=rf"'1\.{target}': nn\.{type(module).__name__} does not call it"):
        get_peft_model(nn.Sequential(nn.Linear(8, 8), module), config(r=2, target_modules=[target], task_type=None))


def test_an_adapter_on_another_methods_is_not_merged(base_dir: Path) -> None:
    inner = get_peft_model(CLASSIFIER.from_pretrained(base_dir), LoraConfig(target_modules=["query"]))
    both: Any = get_peft_model(inner, config(task_type=None), adapter_name="outer")
    for merge in (both.merge_adapter, both.merge_and_unload, inner.merge_and_unload):
        with pytest.raises(ValueError, match=r"on another method's: merge that one before"):
            merge()


def test_two_changes_of_one_weight_are_not_merged() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    before = model[0].weight.detach().clone()
    adapted = get_peft_model(model, SymLoraConfig(r=2, target_modules=["0", "1", "2"], init_weights=False))
    for merge in (adapted.merge_adapter, adapted.merge_and_unload):
        with pytest.raises(ValueError, match=r"^0 and 2 share one weight"):
            merge()
    assert torch.equal(before, model[2].base_layer.weight)
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match=r"^0 and 1 share one weight"):  # 1 has no adapter, and would change
        get_peft_model(tied, SymLoraConfig(r=2, target_modules=["0"])).merge_and_unload()
    twice = nn.Sequential(linear := nn.Linear(8, 8), nn.ReLU(), linear)
    with pytest.raises(ValueError, match=r"^0 and 2 share one weight"):  # PEFT wraps a module in one place
        get_peft_model(twice, SymLoraConfig(r=2, target_modules=["0"])).merge_and_unload()


def test_a_fresh_process_knows_every_method_and_a_file_dropped_in(base_dir: Path, tmp_path: Path) -> None:
    """`import symlora` is enough for PEFT, before or after; a saved adapter loads; no part of the pipeline comes."""
    shutil.copytree(ROOT / "symlora", tmp_path / "symlora", ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "adding-a-method.md").read_text()
    (tmp_path / "symlora" / "adapters" / "gatedlora.py").write_text(page.split("```python\n")[1].split("```")[0])
    model = adapted(base_dir, r=5, alpha=3, rank_pattern={"value": 2}, alpha_pattern={"value": 7})
    model.save_pretrained(tmp_path / "adapter")
    assert not [*(tmp_path / "adapter").glob("*.bin"), *(tmp_path / "adapter").glob("*.pt")]
    program = f"""import sys, peft, symlora
ours = {{name for name in sys.modules if name.startswith("symlora")}}
assert {{"symlora.adapters.symlora", "symlora.adapters.xgblora"}} <= ours
assert all(name == "symlora" or name.startswith("symlora.adapters") for name in ours), ours
assert not {{"hydra", "omegaconf", "jaxtyping", "matplotlib"}} & set(sys.modules)
assert symlora.SymLoraConfig is peft.PEFT_TYPE_TO_CONFIG_MAPPING["SYMLORA"]
from symlora.adapters import GatedLoraConfig
assert peft.PEFT_TYPE_TO_CONFIG_MAPPING["GATEDLORA"] is GatedLoraConfig
assert peft.PEFT_TYPE_TO_TUNER_MAPPING["GATEDLORA"].prefix == "gatedlora_"
assert peft.get_peft_config({{"peft_type": "GATEDLORA", "r": 3}}).r == 3
import torch, transformers
base = transformers.AutoModelForSequenceClassification.from_pretrained({str(base_dir)!r})
model = peft.PeftModel.from_pretrained(base, "adapter").eval()
print(model(torch.tensor({IDS.tolist()})).logits.tolist())
"""
    done = run_program(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH="")
    assert json.loads(done.stdout) == logits(model).tolist()


def defined(method: str) -> tuple[Any, Any]:
    @dataclass
    class ToyConfig(LowRankConfig, method=method):
        pass

    class ToyModel(AdapterModel, config=ToyConfig, layer=SymLoraLinear):
        pass

    return ToyConfig, ToyModel


def test_of_a_method_defined_twice_the_last_definition_counts() -> None:
    """As when a notebook's cell runs again."""
    for _ in range(2):
        config_class, model = defined("toy")
        assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType("TOY")] is METHODS["TOY"] is model
        assert PeftType("TOY") is config_class().peft_type
    forget("toy")


def test_a_name_of_pefts_own_is_refused() -> None:
    before = PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA]
    with pytest.raises(KeyError, match="already PEFT method called 'lora'"):
        defined("lora")
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] is before and "LORA" not in METHODS
