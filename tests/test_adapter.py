"""SymLoRA against closed forms, finite differences and published counts; then as a PEFT adapter: save, load, merge.

References: the dense formula W = λ W0 + (α/r) Q diag(Λ) Qᵀ written out here, float64 finite differences, and the counts
of LoRA's Table 2. PEFT's own suite is test_peft_contract.py. Half a minute.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT
from layers import forget
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from torch import Tensor, nn
from transformers.models.auto import CONFIG_MAPPING

from symlora import SymLoraConfig
from symlora.adapters.config import LowRankConfig
from symlora.adapters.factors import FactorLayer
from symlora.adapters.layer import AdapterLayer
from symlora.adapters.loralambda import LoraLambdaConfig
from symlora.adapters.registry import METHODS
from symlora.adapters.symlora import SymLoraLinear, symmetric_update
from symlora.adapters.tuner import AdapterModel

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


def test_dropout_touches_the_low_rank_part_only() -> None:
    module = layer(dropout=0.5).train()
    x = torch.randn(4, 6, dtype=torch.float64)
    assert not torch.equal(module(x), module(x))
    parts(module)[1].data.zero_()
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_0_returns_any_base_output_to_the_last_bit(dtype: torch.dtype) -> None:
    base = nn.Linear(64, 64, dtype=dtype)
    nn.init.normal_(base.bias, std=3.0)
    module = SymLoraLinear(base, "default", SymLoraConfig(r=8), "lin")
    base_out = 1e-3 * torch.randn(500, 64, dtype=dtype)  # so small beside the bias that (out - b) + b is off
    x = torch.randn(500, 64, dtype=dtype)
    assert torch.equal(module.combine(["default"], x, base_out).to(dtype), base_out)


# In a model.


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


def test_saved_adapter_loads_in_a_fresh_process(tmp_path: Path) -> None:
    base = classifier()
    base.save_pretrained(tmp_path / "base")
    model = adapted(base, init_weights=False, r=5, alpha=3, rank_pattern={"value": 2}, alpha_pattern={"value": 7})
    model.save_pretrained(tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert "adapter_model.safetensors" in files and not [name for name in files if name.endswith((".bin", ".pt"))]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "SYMLORA"
    program = f"""import symlora, peft
import torch, transformers
base = transformers.AutoModelForSequenceClassification.from_pretrained({str(tmp_path / "base")!r})
model = peft.PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r}).eval()
torch.save(model(torch.tensor({IDS.tolist()})).logits.detach(), {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), model(IDS).logits)


# Counts.


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


def test_an_adapter_for_each_row_and_a_model_without_usual_targets_are_refused() -> None:
    model = get_peft_model(classifier(), SymLoraConfig())
    with pytest.raises(ValueError, match=r"adapter_names.*LoRA's alone.*set_adapter"):
        model(torch.ones(2, 3, dtype=torch.long), adapter_names=["default", "__base__"])
    with pytest.raises(ValueError, match=r"specify `target_modules`.*'custom'"):
        get_peft_model(nn.Sequential(nn.Linear(4, 4)), SymLoraConfig())


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
    with pytest.raises(ValueError, match=r"r = 17.*intermediate\.dense.*24 x 16"):
        get_peft_model(classifier(), LoraLambdaConfig(r=17, target_modules=["intermediate.dense"]))


# The package.


def test_import_is_light() -> None:
    """`import symlora` alone, and with PEFT, which then knows all methods: no part of the pipeline comes along."""
    program = """import sys, symlora
assert not {"torch", "peft", "numpy", "transformers"} & set(sys.modules)
import peft
ours = {name for name in sys.modules if name.startswith("symlora")}
assert {"symlora.adapters.symlora", "symlora.adapters.xgblora"} <= ours
assert all(name == "symlora" or name.startswith("symlora.adapters") for name in ours), ours
assert not {"hydra", "omegaconf", "jaxtyping", "matplotlib"} & set(sys.modules)
assert symlora.SymLoraConfig is peft.PEFT_TYPE_TO_CONFIG_MAPPING["SYMLORA"]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_file_dropped_in_is_a_method(tmp_path: Path) -> None:
    """Nothing else names it, and `import symlora` is enough for PEFT; also after PEFT."""
    shutil.copytree(ROOT / "symlora", tmp_path / "symlora", ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "adding-a-method.md").read_text()
    (tmp_path / "symlora" / "adapters" / "gatedlora.py").write_text(page.split("```python\n")[1].split("```")[0])
    program = """import peft, symlora
from symlora.adapters import GatedLoraConfig
assert peft.PEFT_TYPE_TO_CONFIG_MAPPING["GATEDLORA"] is GatedLoraConfig
assert peft.PEFT_TYPE_TO_TUNER_MAPPING["GATEDLORA"].prefix == "gatedlora_"
assert peft.get_peft_config({"peft_type": "GATEDLORA", "r": 3}).r == 3"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_a_method_is_known_once_its_classes_are_defined(tmp_path: Path) -> None:
    """LoRA with A fixed: trained, saved, loaded, merged and deleted, its frozen values too; and defined twice."""
    for times in (1, 2):

        @dataclass
        class ToyConfig(LowRankConfig, method="toy"):
            pass

        class ToyLinear(FactorLayer):
            adapter_layer_names = ("toy_B",)
            frozen_layer_names = ("toy_A",)
            factor_names = ("toy_B", "toy_A")

            def initial_values(self, config: Any, r: int) -> dict[str, Tensor]:
                return {"toy_A": torch.randn(r, self.in_features), "toy_B": torch.zeros(self.out_features, r)}

        class ToyModel(AdapterModel, config=ToyConfig, layer=ToyLinear):
            pass

        assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType("TOY")] is METHODS["TOY"] is ToyModel, times
    model: Any = get_peft_model(classifier(), ToyConfig(r=2, target_modules=["query", "intermediate.dense"]))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 4 and all(name.endswith("toy_B.default") for name in trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    model(IDS, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    assert {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])} == trained.keys()
    logits = model.eval()(IDS).logits
    assert not torch.allclose(logits, classifier()(IDS).logits)
    model.save_pretrained(tmp_path)
    torch.manual_seed(5)  # A comes from the file
    loaded: Any = PeftModel.from_pretrained(classifier(), tmp_path).eval()
    assert torch.equal(loaded(IDS).logits, logits)
    torch.testing.assert_close(loaded.merge_and_unload()(IDS).logits, logits)
    model.base_model.delete_adapter("default")
    assert not [name for name in model.state_dict() if "toy_" in name]
    forget("toy")


def test_a_name_of_pefts_own_is_refused() -> None:
    before = PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA]

    @dataclass
    class OtherConfig(LowRankConfig, method="lora"):
        pass

    with pytest.raises(KeyError, match="already PEFT method called 'lora'"):

        class OtherModel(AdapterModel, config=OtherConfig, layer=SymLoraLinear):
            pass

    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] is before and "LORA" not in METHODS


def test_a_layer_without_a_matrix_refuses_to_merge() -> None:
    class Shift(AdapterLayer):
        adapter_layer_names = ("shift",)

        def initial_values(self, config: Any, r: int) -> dict[str, Tensor]:
            return {"shift": torch.ones(self.out_features)}

        def adapter_output(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
            shift: Tensor = self.shift[adapter]
            return shift

    module = Shift(nn.Linear(4, 4), "default", SymLoraConfig(r=2), "lin")
    assert torch.equal(module(torch.ones(4)), module.base_layer(torch.ones(4)) + 1)
    with pytest.raises(NotImplementedError, match="Shift adds no matrix to the weight, so it cannot be merged"):
        module.merge()
