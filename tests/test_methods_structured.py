"""LoRTA, LoRA², LoRand, Houlsby's adapters, BitFit and LoRA+: what the tests of all methods leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from conftest import CPU, TinyFactory, fit, made_up, run_config
from layers import CLASSIFIER
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from test_pack import alike, trained_alone, trained_together
from torch import nn
from torch.nn.functional import gelu, linear
from transformers import T5Config

from symlora.adapters.houlsby import HoulsbyConfig
from symlora.adapters.lora2 import Lora2Config, entries_kept
from symlora.adapters.loramini import LoraMiniConfig
from symlora.adapters.lorand import LorandConfig
from symlora.adapters.lorta import LortaConfig
from symlora.adapters.melora import MeloraConfig
from symlora.adapters.prilora import PriLoraConfig, PriLoraLinear
from symlora.config.schema import Config
from symlora.data.batches import gather, padded
from symlora.errors import SymloraError
from symlora.model.build import build, encoder_is_frozen
from symlora.model.catalog import examine, load
from symlora.model.run_model import HEAD_FILE, RunModel
from symlora.training.hooks import step_hook
from symlora.training.optimizer import AdamW

get_peft_model: Any = peft.get_peft_model  # whose type says too little of the models that it makes
ROWS = [5, 3, 9, 4]
CS = ("C_head", "C_matrix", "C_layer")
DATA = {"train": made_up(ROWS * 4), "validation": made_up(ROWS, seed=1)}


@pytest.fixture(scope="module")
def bare(tiny: TinyFactory) -> Callable[[], Any]:
    """A classifier of 2 layers, 16 wide, 4 heads, without dropout, in float64; the same every time."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    folder = tiny("bert", head=True, vocab_size=20, hidden_size=16, intermediate_size=24, **still)
    return lambda: CLASSIFIER.from_pretrained(folder).double()


def adapted(model: Any, config: Any) -> Any:
    torch.manual_seed(1)
    wrapped = get_peft_model(model, config).eval()
    with torch.no_grad():
        for value in wrapped.parameters():
            if value.requires_grad:
                value.add_(0.3 * torch.randn_like(value))
    return wrapped


def first_layer(model: Any) -> Any:
    return next(model.base_model.tuner_layers())


def config_of(name: str, folder: Path, **train: Any) -> Config:
    return run_config(folder, name, **{"model_dropout": 0.0, "lr": 1e-2, "warmup_ratio": 0.0, **train})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeloraConfig(num_mini_loras=3), "num_mini_loras = 3 does not divide.*16 x 16"),
        (MeloraConfig(num_mini_loras=8, r=3), "r = 3 is more than a mini-LoRA of 2 x 2"),
        (LoraMiniConfig(r=2, a_width=17), "a_width = 17 must be from r = 2 up to 16"),
        (LoraMiniConfig(r=2, a_width=4, b_width=1), "b_width = 1 must be from r = 2"),
        (Lora2Config(r=2, inner_width=17), "inner_width = 17 is more than 16: the weight of module .*query.* 16 x 16"),
        (LorandConfig(kernel_size=9), "kernel_size = 9 is more than the inner width 8"),
        (LortaConfig(r=2, num_heads=3), "num_heads = 3 does not divide the 16 outputs"),
        (LortaConfig(target_modules=["query", "intermediate.dense"]), "one shape, but have .* = .*16, 16.*16, 24"),
    ],
)
def test_what_does_not_fit_is_refused(config: Any, message: str, bare: Any) -> None:
    with pytest.raises(ValueError, match=message):
        get_peft_model(bare(), config)


def test_lorta_is_its_tensor(bare: Any) -> None:
    model = adapted(bare(), LortaConfig(r=3, alpha=6))
    first = first_layer(model)
    A, B, heads, matrices, layers = (getattr(first, f"lorta_{n}")["default"].detach() for n in ("A", "B", *CS))
    assert [t.shape for t in (A, B, heads, matrices, layers)] == [(16, 3), (3, 4), (4, 3), (2, 3), (2, 3)]
    x = torch.randn(5, 16, dtype=torch.float64)
    for number in range(2):
        attention = model.base_model.model.bert.encoder.layer[number].attention.self
        for matrix, layer in enumerate((attention.query, attention.value)):
            blocks = [A @ torch.diag(heads[h] * matrices[matrix] * layers[number]) @ B for h in range(4)]
            delta = 2.0 * torch.cat(blocks, 1).T
            torch.testing.assert_close(layer.get_delta_weight("default").detach(), delta)
            torch.testing.assert_close(layer(x) - layer.base_layer(x), x @ delta.T)


def test_lorta_parameters_are_one_each(bare: Any) -> None:
    """One object for all layers, so that its gradient is their sum."""
    model = get_peft_model(bare(), LortaConfig(r=3, task_type="SEQ_CLS"))
    layers = list(model.base_model.tuner_layers())
    own = [(name, value) for name, value in model.named_parameters() if "lorta_" in name]
    assert len(own) == 5 and sum(value.numel() for _, value in own) == (16 + 4 + 4 + 2 + 2) * 3
    for name in layers[0].adapter_layer_names:
        assert len({id(getattr(layer, name)["default"]) for layer in layers}) == 1
    assert sum(value.requires_grad for value in model.parameters()) == 5 + 2  # and the head's
    model.float().double()
    assert sum("lorta_" in name for name, _ in model.named_parameters()) == 5


def test_lorta_is_shared_after_a_bfloat16_file(bare: Any, tmp_path: Path) -> None:
    get_peft_model(bare().bfloat16(), LortaConfig(r=3)).bfloat16().save_pretrained(tmp_path)
    loaded: Any = PeftModel.from_pretrained(bare(), str(tmp_path), is_trainable=True, low_cpu_mem_usage=True)
    assert loaded.get_nb_trainable_parameters()[0] == (16 + 4 + 4 + 2 + 2) * 3


def test_layers_of_two_stacks_are_told_apart() -> None:
    """T5 numbers encoder and decoder from 0, and the parts of a block too."""
    shape = {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 24, "vocab_size": 20}
    model = CLASSIFIER.from_config(T5Config(num_layers=3, **shape))
    wrapped = get_peft_model(model, PriLoraConfig(r=4, r_first=2, target_modules=["q"]))
    ranks = {name: layer.r["default"] for name, layer in wrapped.named_modules() if isinstance(layer, PriLoraLinear)}
    assert list(ranks.values()) == [2, 4, 6, 2, 2, 4, 4, 6, 6]  # the decoder's blocks have two attentions
    model = CLASSIFIER.from_config(T5Config(num_layers=2, **shape))
    layers = get_peft_model(model, LortaConfig(r=2, target_modules=["SelfAttention.q"])).base_model.tuner_layers()
    assert len({layer.place["default"] for layer in layers}) == 4


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_lorta_loads_beside_another(low_cpu_mem_usage: bool, bare: Any, tmp_path: Path) -> None:
    """Two adapters of other ranks and targets, each with parameters of its own; deleting one leaves the other."""
    ids, wanted = torch.arange(12).view(2, 6), {}
    for name, config in (("one", LortaConfig(r=3)), ("two", LortaConfig(r=2, target_modules=["key"]))):
        model = adapted(bare(), config)
        wanted[name] = model(ids).logits
        model.save_pretrained(tmp_path / name)
    loaded: Any = PeftModel.from_pretrained(
        bare(), str(tmp_path / "one"), "one", is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage
    ).eval()
    loaded.load_adapter(str(tmp_path / "two"), "two", low_cpu_mem_usage=low_cpu_mem_usage)
    for name, count in (("one", (16 + 4 + 4 + 2 + 2) * 3), ("two", (16 + 4 + 4 + 1 + 2) * 2)):
        loaded.set_adapter(name)
        assert loaded.get_nb_trainable_parameters()[0] == count
        torch.testing.assert_close(loaded(ids).logits, wanted[name], rtol=0, atol=0)
        assert [n.rsplit(".", 1)[1] for n, v in loaded.named_parameters() if v.requires_grad] == [name] * 5
    loaded.delete_adapter("one")
    torch.testing.assert_close(loaded(ids).logits, wanted["two"], rtol=0, atol=0)


def test_lorta_needs_the_number_of_heads() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(ValueError, match="set num_heads: the model's configuration has no num_attention_heads"):
        get_peft_model(model, LortaConfig(r=2, target_modules=["0", "1"]))
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    wrapped = get_peft_model(model, LortaConfig(r=2, target_modules=["0", "1"], num_heads=2))
    assert wrapped.get_nb_trainable_parameters()[0] == (8 + 4 + 2 + 2 + 1) * 2  # no layers: two matrices of one


@pytest.mark.parametrize(("width", "rank"), [(None, 16), (8, 8)], ids=["ours", "the authors' 8"])
def test_lora2_reaches_its_rank(width: int | None, rank: int, bare: Any) -> None:
    """The authors' code has an inner width of 8 whatever r is: the rank is never above 8."""
    layer = first_layer(adapted(bare(), Lora2Config(r=16, inner_width=width)))
    assert int(torch.linalg.matrix_rank(layer.get_delta_weight("default").detach())) == rank


def test_lora2_penalty_is_that_of_four_matrices(bare: Any) -> None:
    layer = first_layer(adapted(bare(), Lora2Config(r=3, inner_width=5)))
    A, B, _, aa, bb = (getattr(layer, name)["default"].detach() for name in layer.adapter_layer_names)
    expected = sum(float((M - torch.eye(5)).square().sum().sqrt()) for M in (A @ A.T, B.T @ B, aa @ aa.T, bb.T @ bb))
    assert float(layer.orthogonality("default").detach()) == pytest.approx(expected / 4, rel=1e-12)


def test_lora2_schedule() -> None:
    config = Lora2Config(r=4, target_r=1, tinit=10, tfinal=20)
    kept = [entries_kept(config, step, 100, 8, 2) for step in (1, 10, 11, 45, 80, 81, 100)]
    assert kept == [None, None, 2 + int(6 * (69 / 70) ** 3), 2 + int(6 * 0.5**3), 2, 2, 2]
    shares = Lora2Config(r=4, target_r=1, tinit=0.1, tfinal=0.2)
    assert kept == [entries_kept(shares, step, 100, 8, 2) for step in (1, 10, 11, 45, 80, 81, 100)]
    assert [entries_kept(Lora2Config(target_r=1), step, 2, 8, 2) for step in (1, 2)] == [2, 2]


def test_lora2_importance_and_mask(bare: Any) -> None:
    """One step by hand: the averages start at 0, and the entry with the smallest product of the two goes."""
    model = adapted(bare(), Lora2Config(r=4, inner_width=5, target_r=3, beta1=0.6, beta2=0.9))
    model(torch.arange(12).view(2, 6)).logits.square().sum().backward()
    layers = list(model.base_model.tuner_layers())
    scores, before = [], [layer.lora2_E["default"].detach().clone() for layer in layers]
    for layer in layers:
        products = []
        for value in (layer.lora2_E["default"], layer.lora2_B["default"], layer.lora2_aa["default"]):
            sensitivity = (value * value.grad).abs().detach()
            mean = 0.4 * sensitivity
            products.append(mean * 0.1 * (sensitivity - mean).abs())
        scores.append(products[0] + products[1].mean(1) + products[2].mean(0))
    model.base_model.after_step(1, 1, None)
    lowest = torch.cat(scores).argsort()[:4]  # 16 entries, 3 a layer stay
    pruned = torch.zeros(16, dtype=torch.bool)
    pruned[lowest] = True
    found = torch.cat([layer.lora2_E["default"].detach() for layer in layers])
    torch.testing.assert_close(found, torch.where(pruned, 0.0, torch.cat(before)), rtol=0, atol=0)


def test_lora2_prunes_to_its_target_and_takes_its_averages_along(tiny: TinyFactory) -> None:
    some = [config_of("lora2", tiny("bert"), seed=k, lr=0.1 / (k + 1), peft={"r": 4, "target_r": 3}) for k in range(2)]
    run = build(some[0], CPU, "fp32")
    assert sum("lora2_sensitivity" in name for name, _ in run.moving()) == 4 * 3
    alone = fit(some[0], DATA, run)
    values = [layer.lora2_E["default"] for _, layer in run.adapted_layers()]
    assert int(torch.stack(values).count_nonzero()) == 3 * 4 and len(values) == 4
    fits, _ = trained_together(some, DATA)
    alike(fits[0], alone)


def test_lora2_penalty_reaches_the_training(tiny: TinyFactory) -> None:
    """The penalty alone moves W_A, which E = 0 keeps from the loss; without it W_A stands still for one step."""
    moves = {}
    for weight in (0.0, 0.1):
        peft = {"r": 4, "orth_reg_weight": weight}
        config = config_of("lora2", tiny("bert"), batch_size=16, weight_decay=0.0, peft=peft)
        run = build(config, CPU, "fp32")
        hook = step_hook(run, 1)
        penalty = hook.penalty()
        if weight:
            mean = torch.stack([layer.orthogonality("default") for _, layer in run.adapted_layers()]).mean()
            assert penalty is not None and float(penalty.detach()) == pytest.approx(weight * float(mean.detach()))
        else:
            assert penalty is None
        before = run.state()
        fit(config, DATA, run)
        moves[weight] = {name for name, value in run.state().items() if not torch.equal(value, before[name])}
    assert not any("lora2_A" in name for name in moves[0.0]) and any("lora2_A" in name for name in moves[0.1])


def test_lorand_is_its_bottleneck(bare: Any) -> None:
    """As the public code builds it, branch by branch, with K in both projections."""
    layer = first_layer(adapted(bare(), LorandConfig(num_branches=3, kernel_size=2, reduction_factor=4)))
    parts = {name: getattr(layer, name)["default"].detach() for name in layer.adapter_layer_names}
    down = sum(parts["lorand_down_P"][i] @ parts["lorand_K"][i] @ parts["lorand_down_Q"][i] for i in range(3)).T
    up = sum(parts["lorand_up_P"][i] @ parts["lorand_K"][i] @ parts["lorand_up_Q"][i] for i in range(3))
    h = layer.get_base_layer()(torch.randn(5, layer.in_features, dtype=torch.float64)).detach()
    inner = gelu(linear(h, down, parts["lorand_down_bias"]))
    expected = linear(inner, up.T, parts["lorand_up_bias"])
    torch.testing.assert_close(layer.adapter_output("default", h, h).detach(), expected)


def test_houlsby_is_its_bottleneck(bare: Any) -> None:
    model = adapted(bare(), HoulsbyConfig(bottleneck_size=3))
    names = [n for n, m in model.base_model.model.named_modules() if hasattr(m, "houlsby_up")]
    assert names == [
        f"bert.encoder.layer.{i}.{place}" for i in (0, 1) for place in ("attention.output.dense", "output.dense")
    ]
    layer = first_layer(model)
    down, b_down, up, b_up = (getattr(layer, name)["default"].detach() for name in layer.adapter_layer_names)
    x = torch.randn(5, 16, dtype=torch.float64)
    h = layer.get_base_layer()(x).detach()
    inner = linear(h, down, b_down)
    tanh = torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3))
    torch.testing.assert_close(layer(x).detach(), h + linear(0.5 * inner * (1 + tanh), up, b_up))


@pytest.mark.parametrize(("size", "norms", "count"), [(8, False, 313_536), (8, True, 351_936), (64, True, 2_417_664)])
def test_houlsby_counts_on_roberta_base(size: int, norms: bool, count: int) -> None:
    (method,) = load(["houlsby"])
    method.peft_config |= {"bottleneck_size": size} | ({"modules_to_save": ["LayerNorm"]} if norms else {})
    assert examine(method).trained == count


@pytest.mark.parametrize("kind", ["albert", "bert", "deberta-v2", "distilbert", "modernbert", "mpnet", "roberta"])
def test_houlsby_finds_its_places(kind: str, tiny: TinyFactory) -> None:
    """Two a layer (ALBERT's layers are one), each as wide as the encoder."""
    run = build(config_of("houlsby", tiny(kind), peft={"bottleneck_size": 3}), CPU, "fp32")
    layers = [layer for _, layer in run.adapted_layers()]
    number = 1 if kind == "albert" else run.encoder.model.config.num_hidden_layers
    assert [layer.out_features for layer in layers] == [32] * (2 * number)
    assert run.counts().adapter == 2 * number * (2 * 32 * 3 + 32 + 3)


def test_trained_layernorms(tiny: TinyFactory) -> None:
    """In float32 on a bfloat16 encoder, without weight decay, and packed as alone."""
    peft = {"bottleneck_size": 3, "modules_to_save": ["LayerNorm"]}
    some = [config_of("houlsby", tiny("bert"), seed=k, lr=5e-3 / (k + 1), weight_decay=0.1, peft=peft) for k in (0, 1)]
    run = build(some[0], CPU, "bf16")
    norms = {name: value for name, value in run.trainable() if "LayerNorm" in name}
    assert len(norms) == 2 * 5 and {value.dtype for value in norms.values()} == {torch.float32}
    assert run.encoder.dtype == torch.bfloat16
    base = build(config_of("houlsby", tiny("bert"), peft={"bottleneck_size": 3}), CPU, "bf16")
    batch = gather(made_up(ROWS), np.arange(4))
    with torch.no_grad():
        assert torch.equal(run.encoder.eval()(batch), base.encoder.eval()(batch))
    groups = AdamW(run.trainable(), some[0].train, some[0].method, run.in_head).param_groups
    undecayed = {id(value) for group in groups if group["weight_decay"] == 0.0 for value in group["params"]}
    named = {name: id(value) in undecayed for name, value in run.trainable()}
    assert all(same == ("bias" in name or "LayerNorm" in name) for name, same in named.items())
    fits, _ = trained_together(some, DATA)
    for config, found in zip(some, fits, strict=True):
        alike(found, trained_alone(config, DATA)[0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("LayerNorm", "give a list of names"),
        (["classifier"], "classifier is in the head, which is always trained"),
        (["LayerNrm"], "'LayerNrm' matches nothing in this encoder"),
    ],
)
def test_modules_to_save_are_checked(value: Any, message: str, tiny: TinyFactory) -> None:
    with pytest.raises(SymloraError, match=message):
        build(config_of("houlsby", tiny("bert"), peft={"modules_to_save": value}), CPU, "fp32")


def test_bitfit_trains_every_bias(tiny: TinyFactory, tmp_path: Path) -> None:
    config = config_of("bitfit", tiny("roberta"))
    with_biases = config_of("symlora", tiny("roberta"), peft={"bias": "symlora_only"})
    for each in (config, with_biases):
        run = build(each, CPU, "bf16")  # a bias that trains in bfloat16 would lose its small steps
        assert not encoder_is_frozen(each.method) and {p.dtype for _, p in run.trainable()} == {torch.float32}
    run = build(config, CPU, "bf16")
    encoder = [name for name, _ in run.trainable() if not run.in_head(name)]
    stock = CLASSIFIER.from_pretrained(tiny("roberta"), num_labels=2)
    assert encoder == [
        f"model.{n}" for n, _ in stock.named_parameters() if n.endswith(".bias") and "classifier" not in n
    ]
    assert {value.dtype for value in run.encoder.parameters()} == {torch.float32}
    before = run.state()
    fit(config, DATA, run)
    state = run.state()
    still = {name for name, value in state.items() if torch.equal(value, before[name])}
    assert {name.rsplit(".", 2)[1] for name in still} <= {"key"}  # softmax does not see the key's bias
    run.save(tmp_path)
    file = load_file(tmp_path / HEAD_FILE)
    assert {f"model.{name}" for name in file} == set(state)
    problems = stock.load_state_dict(file, strict=False)
    assert not problems.unexpected_keys
    batch = gather(made_up(ROWS), np.arange(4))
    with torch.no_grad():
        expected = stock.eval()(**padded(batch, 1)).logits
        torch.testing.assert_close(run.encoder.eval()(batch), expected, rtol=1e-5, atol=1e-5)


def rates(groups: list[dict[str, Any]]) -> dict[int, tuple[float, float]]:
    return {id(value): (group["lr"], group["weight_decay"]) for group in groups for value in group["params"]}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_loraplus_groups_are_those_of_peft(kind: str, tiny: TinyFactory) -> None:
    config = config_of("loraplus", tiny(kind), lr=1e-3, weight_decay=0.1)
    run: RunModel = build(config, CPU, "fp32")
    ratio = config.method.lr_ratio["lora_B"]
    reference = create_loraplus_optimizer(
        run.peft,  # type: ignore[arg-type]
        torch.optim.AdamW,
        lr=1e-3,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=0.1,
    )
    ours = AdamW(run.trainable(), config.train, config.method, run.in_head)
    assert rates(ours.param_groups) == rates(reference.param_groups)
    assert {rate for rate, _ in rates(ours.param_groups).values()} == {1e-3, 16e-3}
