"""SymLoRA against closed forms, finite differences and published counts; then as a PEFT adapter: save, load, merge.

References: the dense formula W = λ W0 + (α/r) Q diag(Λ) Qᵀ written out here, float64 finite differences, and the counts
of LoRA's Table 2. PEFT's own suite is test_peft_contract.py. Half a minute.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners._buffer_dict import BufferDict
from peft.utils import PeftType
from torch import Tensor, nn
from transformers.models.auto import CONFIG_MAPPING

from symlora import SymLoraConfig
from symlora.adapters import AdapterLayer, AdapterModel, SymLoraLinear, symmetric_update
from symlora.adapters.registry import METHODS, register

TINY: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "num_labels": 3,
    "initializer_range": 0.25,  # not 0.02: attention, and so the adapters in it, must matter to the output
}
CONFIGS = {"bert": transformers.BertConfig(**TINY), "roberta": transformers.RobertaConfig(**TINY)}
CLASSIFIER: Any = transformers.AutoModelForSequenceClassification  # transformers' types stop at the auto classes
ENCODER: Any = transformers.AutoModel
IDS = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(0))


def classifier(kind: str = "roberta", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = CLASSIFIER.from_config(CONFIGS[kind]).to(dtype).eval()
    for name, value in model.named_parameters():  # biases are 0 in a new model, where scaling them would not show
        if name.endswith("bias"):
            value.data.normal_(0, 0.3)
    return model


def encoder_config(kind: str, **kwargs: Any) -> Any:
    return CONFIG_MAPPING[kind](**kwargs)


def adapted(base: Any, **kwargs: Any) -> Any:
    return get_peft_model(base, SymLoraConfig(task_type="SEQ_CLS", **kwargs)).eval()


def layer(n: int = 6, r: int = 3, alpha: float = 5.0, *, bias: bool = True, **kwargs: Any) -> Any:
    """A double precision layer with random values everywhere."""
    torch.manual_seed(1)
    config = SymLoraConfig(r=r, alpha=alpha, init_weights=False, **kwargs)
    return SymLoraLinear(nn.Linear(n, n, bias=bias).double(), "default", config, "lin").requires_grad_(True)


def parts(module: Any, adapter: str = "default") -> tuple[Tensor, Tensor, Tensor]:
    return module.symlora_Q[adapter], module.symlora_diag[adapter], module.symlora_lambda[adapter]


# The formula.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-9, 0.7, 1.0, 1.3, -0.4])
def test_forward_is_the_dense_formula_and_leaves_the_bias(value: float, bias: bool) -> None:
    module = layer(bias=bias)
    Q, diag, lam = parts(module)
    lam.data.fill_(value)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    W = value * module.base_layer.weight + (5.0 / 3) * Q @ torch.diag(diag) @ Q.T
    expected = x @ W.T + (module.base_layer.bias if bias else 0.0)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_changes_of_two_adapters_add() -> None:
    module = layer()
    module.update_layer("second", SymLoraConfig(r=2, alpha=1, init_weights=False), "lin")
    module.set_adapter(["default", "second"])
    x = torch.randn(4, 6, dtype=torch.float64)
    W = module.base_layer.weight.clone()
    for adapter, scale in (("default", 5 / 3), ("second", 1 / 2)):
        Q, diag, lam = parts(module, adapter)
        W = W + (lam - 1) * module.base_layer.weight + scale * Q @ torch.diag(diag) @ Q.T
    torch.testing.assert_close(module(x), x @ W.T + module.base_layer.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.7, 1.0])
def test_gradients_are_finite_differences(value: float) -> None:
    module = layer()
    parts(module)[2].data.fill_(value)
    values = dict(module.named_parameters())
    names = ["symlora_Q.default", "symlora_diag.default", "symlora_lambda.default", "base_layer.bias"]

    def run(x: Tensor, *given: Tensor) -> Any:
        return torch.func.functional_call(module, values | dict(zip(names, given, strict=True)), (x,))

    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *(values[name] for name in names)))


def test_zero_start_of_q_is_a_dead_saddle() -> None:
    gradients = {}
    for start in ("ours", "zero"):
        module = SymLoraLinear(nn.Linear(6, 6), "default", SymLoraConfig(r=3), "lin")
        if start == "zero":
            parts(module)[0].data.zero_()
        module(torch.randn(5, 6)).square().sum().backward()
        gradients[start] = [float(p.grad.abs().max()) for p in parts(module) if p.grad is not None]
    assert gradients["zero"][:2] == [0.0, 0.0]  # neither factor will ever move
    assert gradients["ours"][0] == 0.0 and gradients["ours"][1] > 0  # Λ moves first, then Q
    assert gradients["ours"][2] > 0


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.1, 10), st.integers(0, 2**16))
def test_update_is_symmetric_and_of_rank_r(n: int, r: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    Q = torch.randn(n, r, dtype=torch.float64, generator=generator)
    diag = torch.randn(r, dtype=torch.float64, generator=generator)
    update = symmetric_update(Q, diag, scale)
    torch.testing.assert_close(update, update.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(update, scale * Q @ torch.diag(diag) @ Q.T, rtol=1e-12, atol=1e-12)
    assert int(torch.linalg.matrix_rank(update, rtol=1e-9)) <= r


def test_start_of_q_is_gaussian_of_the_stated_width() -> None:
    for std in (0.5, 0.1):
        layer = SymLoraLinear(nn.Linear(768, 768), "default", SymLoraConfig(r=8, init_std=std), "lin")
        values = layer.symlora_Q["default"].detach().double()
        assert abs(float(values.mean())) < 5 * std / math.sqrt(values.numel())
        assert abs(float(values.std()) / std - 1) < 5 / math.sqrt(2 * values.numel())
    wrong: Any
    for wrong in (0.0, -1.0, float("nan"), float("inf"), "wide"):
        with pytest.raises(ValueError, match="init_std"):
            SymLoraConfig(init_std=wrong)


def test_first_adamw_step_changes_the_weight_as_the_docstring_says() -> None:
    """‖ΔW‖ after one step: lr·n·init_std²·√r for SymLoRA, lr·√(n r / 3) for LoRA."""
    n, r, lr = 384, 8, 1e-3
    torch.manual_seed(0)
    for config, expected in (
        (SymLoraConfig(r=r, target_modules=["0"], train_lambda=False), lr * n * 0.25 * math.sqrt(r)),
        (LoraConfig(r=r, lora_alpha=r, target_modules=["0"]), lr * math.sqrt(n * r / 3)),
    ):
        model: Any = get_peft_model(nn.Sequential(nn.Linear(n, n)), config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
        (model(torch.randn(64, n)) * torch.randn(64, n)).sum().backward()
        optimizer.step()
        layer = model.base_model.model[0]
        found = float(torch.linalg.norm(layer.get_delta_weight("default").detach()))
        assert found == pytest.approx(expected, rel=0.1)


def test_dropout_touches_the_low_rank_part_only() -> None:
    module = layer(dropout=0.5).train()
    x = torch.randn(4, 6, dtype=torch.float64)
    assert not torch.equal(module(x), module(x))
    parts(module)[1].data.zero_()
    assert torch.equal(module(x), module(x))


def test_stacked_adapters_under_vmap_equal_single_ones() -> None:
    singles = [layer() for _ in range(3)]
    for k, single in enumerate(singles):
        for value in parts(single):
            value.data.add_(0.1 * k)
    stacked = {
        name: torch.stack([dict(single.named_parameters())[name] for single in singles])
        for name, _ in singles[0].named_parameters()
        if name.startswith("symlora_")
    }
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    out = torch.vmap(lambda values, row: torch.func.functional_call(singles[0], values, (row,)))(stacked, x)
    expected = torch.stack([single(row) for single, row in zip(singles, x, strict=True)])
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-13)
    wanted = torch.autograd.grad(expected.square().sum(), [p for single in singles for p in parts(single)])
    got = torch.autograd.grad(out.square().sum(), list(stacked.values()))
    for i, grad in enumerate(got):
        torch.testing.assert_close(grad, torch.stack(wanted[i::3]), rtol=1e-11, atol=1e-11)


def test_step_0_returns_any_base_output_to_the_last_bit() -> None:
    base = nn.Linear(64, 64)
    nn.init.normal_(base.bias, std=3.0)
    module = SymLoraLinear(base, "default", SymLoraConfig(r=8), "lin")
    base_out = 1e-3 * torch.randn(500, 64)  # so small beside the bias that (out - b) + b is off
    x = torch.randn(500, 64)
    assert torch.equal(module.adapted(["default"], x, base_out), base_out)


# In a model.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_step_0_is_the_base_model_to_the_last_bit(kind: str, dtype: torch.dtype) -> None:
    expected = classifier(kind, dtype)(IDS).logits
    model = adapted(classifier(kind, dtype))
    assert torch.equal(model(IDS).logits, expected)
    for single in [m for m in model.modules() if isinstance(m, SymLoraLinear)]:
        single.symlora_lambda["default"].data.fill_(0.5)
    assert not torch.equal(model(IDS).logits, expected)  # the adapters are in the path


def test_bfloat16_base_keeps_lambda_in_float32() -> None:
    model = adapted(classifier("bert", torch.bfloat16), init_weights=False)
    modules: list[Any] = [m for m in model.modules() if isinstance(m, SymLoraLinear)]
    assert {p.dtype for m in modules for p in parts(m)} == {torch.float32}
    module = modules[0]
    assert module.base_layer.weight.dtype == torch.bfloat16
    x = torch.randn(64, 16, dtype=torch.bfloat16)
    Q, diag, lam = parts(module)
    lam.data.fill_(1.003)  # bfloat16 would round it to 1
    weight, bias = module.base_layer.weight.double(), module.base_layer.bias.double()
    exact = x.double() @ (1.003 * weight + symmetric_update(Q, diag).double()).T + bias
    base_only = x.double() @ (weight + symmetric_update(Q, diag).double()).T + bias
    with torch.no_grad():
        out = module(x)
    assert out.dtype == torch.bfloat16
    # Each output is rounded, but unbiasedly: the projection on the change of λ shows it.
    change = (exact - base_only).detach()
    assert float(((out - base_only.detach()) * change).sum() / change.square().sum()) == pytest.approx(1, abs=0.15)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        model = adapted(classifier("bert"), init_weights=False)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model(IDS, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert len(grads[0]) == 3 * 4 + 2  # Q, Λ and λ of four matrices; the head
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("safe_merge", [False, True])
def test_merged_equals_unmerged(kind: str, safe_merge: bool) -> None:
    model = adapted(classifier(kind), init_weights=False, alpha=3)
    expected = model(IDS).logits
    assert not torch.allclose(expected, classifier(kind)(IDS).logits, atol=1e-3)
    model.merge_adapter(safe_merge=safe_merge)
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    model.unmerge_adapter()
    assert torch.equal(model(IDS).logits, expected)
    plain = model.merge_and_unload(safe_merge=safe_merge)  # on RoBERTa, PEFT's own methods but LoRA fail here
    assert type(plain) is type(classifier(kind))
    assert not [name for name, _ in plain.named_parameters() if "symlora" in name or "base_layer" in name]
    torch.testing.assert_close(plain(IDS).logits, expected, rtol=1e-5, atol=1e-5)


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


def test_safe_merge_refuses_nan_and_leaves_the_base() -> None:
    module = layer()
    parts(module)[1].data[0] = float("nan")
    original = module.base_layer.weight.clone()
    with pytest.raises(ValueError, match="NaNs detected"):
        module.merge(safe_merge=True)
    assert torch.equal(module.base_layer.weight, original) and not module.merged


def test_delta_weight_is_all_that_is_added() -> None:
    module = layer()
    Q, diag, lam = parts(module)
    before = module.base_layer.weight.clone()
    delta = module.get_delta_weight("default").detach()
    torch.testing.assert_close(delta, (lam - 1) * before + (5 / 3) * Q @ torch.diag(diag) @ Q.T, rtol=1e-12, atol=1e-12)
    module.merge()
    torch.testing.assert_close(module.base_layer.weight, before + delta, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(module.get_delta_weight("default"), delta)  # also while it is merged


@pytest.mark.parametrize("imports", ["import symlora, peft", "import peft, symlora"])
def test_saved_adapter_loads_in_a_fresh_process(imports: str, tmp_path: Path) -> None:
    base = classifier()
    base.save_pretrained(tmp_path / "base")
    model = adapted(base, init_weights=False, r=5, alpha=3, rank_pattern={"value": 2}, alpha_pattern={"value": 7})
    model.save_pretrained(tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert "adapter_model.safetensors" in files and not [name for name in files if name.endswith((".bin", ".pt"))]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "SYMLORA"
    program = f"""{imports}
import torch, transformers
base = transformers.AutoModelForSequenceClassification.from_pretrained({str(tmp_path / "base")!r})
model = peft.PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r}).eval()
torch.save(model(torch.tensor({IDS.tolist()})).logits.detach(), {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), model(IDS).logits)


def test_load_without_train_lambda_and_with_low_cpu_mem_usage(tmp_path: Path) -> None:
    model = adapted(classifier(), init_weights=False, train_lambda=False)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(classifier(), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(again(IDS).logits, model(IDS).logits)


# Counts.


def test_parameter_counts_of_roberta_base() -> None:
    counts = {}
    for config in (SymLoraConfig, LoraConfig):
        for task in (None, TaskType.SEQ_CLS):
            with torch.device("meta"):
                base = CLASSIFIER.from_config(encoder_config("roberta", num_labels=2))
            model = get_peft_model(base, config(r=8, target_modules=["query", "value"], task_type=task))
            counts[config, task] = model.get_nb_trainable_parameters()[0]
    assert counts[SymLoraConfig, None] == 147_672 == 24 * SymLoraConfig(r=8).parameter_count(768, 768)
    assert counts[LoraConfig, None] == 294_912
    assert counts[SymLoraConfig, TaskType.SEQ_CLS] == 739_802
    assert counts[LoraConfig, TaskType.SEQ_CLS] == 887_042


def test_without_train_lambda_there_is_no_lambda() -> None:
    model = get_peft_model(classifier(), SymLoraConfig(train_lambda=False))
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name in trained if "lambda" in name]
    assert sum(trained.values()) == 4 * (16 + 1) * 8 == 4 * SymLoraConfig(train_lambda=False).parameter_count(16, 16)
    model = get_peft_model(classifier(), SymLoraConfig(train_lambda=False, init_weights=False))
    module = next(m for m in model.modules() if isinstance(m, SymLoraLinear))
    delta = module.get_delta_weight("default")
    torch.testing.assert_close(delta, delta.T)  # no share of W0 in it
    assert module.supports_lora_conversion() and not layer().supports_lora_conversion()


ENCODERS = """albert bert big_bird camembert data2vec-text deberta-v2 distilbert electra ernie eurobert mpnet nomic_bert
roberta roformer xlm-roberta xlm-roberta-xl xmod"""


@pytest.mark.parametrize("kind", ENCODERS.split())
def test_default_targets_are_query_and_value(kind: str) -> None:
    config = encoder_config(kind, **{"n_layers" if kind == "distilbert" else "num_hidden_layers": 1})
    with torch.device("meta"):
        model = get_peft_model(ENCODER.from_config(config), SymLoraConfig())
    names = [name.rsplit(".")[-1] for name in model.targeted_module_names]
    assert sorted(name[0] for name in names) == ["q", "v"]


# Refusals.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0),
        ("r", 2.0),
        ("r", True),
        ("rank_pattern", {"query": -1}),
        ("alpha", 0),
        ("alpha", float("inf")),
        ("alpha", "8"),
        ("alpha", True),
        ("rank_pattern", None),
        ("alpha_pattern", {"(": 2.0}),
        ("target_modules", "("),
        ("exclude_modules", "("),
        ("init_weights", "pissa"),
        ("layers_to_transform", "1"),
        ("alpha_pattern", {"query": -2.0}),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("bias", "lora_only"),
        ("layers_pattern", "layer"),
    ],
)
def test_config_refuses(field: str, value: Any) -> None:
    word = {"r": "rank", "rank_pattern": "rank", "alpha_pattern": "alpha"}.get(field, field)
    with pytest.raises(ValueError, match=word):
        SymLoraConfig(**{field: value})


def test_rectangular_targets_are_refused_by_name_and_shape() -> None:
    with pytest.raises(ValueError, match=r"square.*encoder\.layer\.0\.intermediate\.dense.*24 x 16"):
        get_peft_model(classifier(), SymLoraConfig(target_modules=["intermediate.dense"]))
    config = encoder_config("modernbert", num_hidden_layers=1)
    with torch.device("meta"):
        model = ENCODER.from_config(config)
    with pytest.raises(ValueError, match=r"square.*attn\.Wqkv.*2304 x 768"):
        get_peft_model(model, SymLoraConfig())


def test_a_refused_adapter_leaves_the_model_as_it_was() -> None:
    """PEFT of a half wrapped model would go on to train the whole encoder."""
    fresh = get_peft_model(classifier(), SymLoraConfig(target_modules=["query"]))
    model = classifier()
    names = [name for name, _ in model.named_modules()]
    for targets, error in ((["query", "dense"], ValueError), (["query", "word_embeddings"], TypeError)):
        with pytest.raises(error):
            get_peft_model(model, SymLoraConfig(target_modules=targets))
        assert [name for name, _ in model.named_modules()] == names
    again = get_peft_model(model, SymLoraConfig(target_modules=["query"]))
    assert again.get_nb_trainable_parameters() == fresh.get_nb_trainable_parameters()
    with pytest.raises(ValueError, match="square"):
        again.add_adapter("b", SymLoraConfig(target_modules=["query", "value", "intermediate.dense"]))
    kept = [name for name, _ in again.named_modules()]
    assert kept == [name for name, _ in fresh.named_modules()]
    again.add_adapter("b", SymLoraConfig(target_modules=["value"]))
    assert {name.rsplit(".", 1)[-1] for name, layer in again.named_modules() if "b" in getattr(layer, "r", ())} == {
        "value"
    }


def test_an_adapter_for_each_row_is_refused() -> None:
    model = get_peft_model(classifier(), SymLoraConfig())
    ids = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"adapter_names.*LoRA's alone.*set_adapter"):
        model(ids, adapter_names=["default", "__base__"])
    model(ids)


def test_two_changes_of_one_weight_are_not_merged() -> None:
    first, last = nn.Linear(8, 8), nn.Linear(8, 8)
    model = nn.Sequential(first, nn.Linear(8, 8), last)
    last.weight = first.weight
    before = first.weight.detach().clone()
    adapted = get_peft_model(model, SymLoraConfig(r=2, target_modules=["0", "1", "2"], init_weights=False))
    for merge in (adapted.merge_adapter, adapted.merge_and_unload):
        with pytest.raises(ValueError, match=r"^0 and 2 share one weight"):
            merge()
    assert torch.equal(before, first.weight)
    alone = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    alone[1].weight = alone[0].weight
    get_peft_model(alone, SymLoraConfig(r=2, target_modules=["0"])).merge_and_unload()


def test_too_large_a_rank_is_refused_by_name_and_shape() -> None:
    with pytest.raises(ValueError, match=r"r = 17.*encoder\.layer\.0\.attention\.self\.query.*16 x 16"):
        get_peft_model(classifier(), SymLoraConfig(r=17))


def test_unmatched_unknown_and_unsuited_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="no_such_module"):
        get_peft_model(classifier(), SymLoraConfig(target_modules=["no_such_module"]))
    with pytest.raises(ValueError, match=r"specify `target_modules`.*'custom'"):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), SymLoraConfig())
    with pytest.raises(TypeError, match=r"word_embeddings.*Embedding"):
        get_peft_model(classifier(), SymLoraConfig(target_modules=["word_embeddings"]))


# The package.


def test_import_is_light() -> None:
    program = "import sys, symlora; assert not {'torch', 'peft', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_registering_again_does_nothing() -> None:
    before = list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING)
    register()
    assert before == (list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING))
    assert {config.method.upper() for config, _ in METHODS} <= {member.value for member in before[0]}


def test_a_method_on_the_base_needs_start_and_change_only() -> None:
    """A frozen factor (LoRA with A fixed) in ten lines: frozen values are saved, deleted, and never trained."""

    class FixedLinear(AdapterLayer):
        adapter_layer_names = ("fixed_B",)
        frozen_layer_names = ("fixed_A",)
        fixed_A: BufferDict
        fixed_B: nn.ParameterDict

        def start(self, config: Any, r: int) -> dict[str, Tensor]:
            return {"fixed_A": torch.randn(r, self.in_features), "fixed_B": torch.randn(self.out_features, r)}

        def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
            A, B = self.fixed_A[adapter], self.fixed_B[adapter]
            out: Tensor = self.scaling[adapter] * self.adapter_input(adapter, x) @ A.T @ B.T
            return out

    class FixedModel(AdapterModel):
        prefix = "fixed_"
        tuner_layer_cls = FixedLinear

    config = SymLoraConfig(target_modules=["query", "intermediate.dense"])  # any type: the model is made by hand
    model = FixedModel(classifier(), config, "default")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all(name.endswith("fixed_B.default") for name in trained)
    assert len([name for name in model.state_dict() if "fixed_A" in name]) == 4
    assert not torch.allclose(model(IDS).logits, classifier()(IDS).logits)
    with pytest.raises(NotImplementedError, match="FixedLinear"):
        model.model.roberta.encoder.layer[0].attention.self.query.merge()
    model.delete_adapter("default")
    assert not [name for name in model.state_dict() if "fixed_" in name]
    torch.testing.assert_close(model(IDS).logits, classifier()(IDS).logits)
