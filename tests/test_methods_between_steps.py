"""Methods that act between the steps, against closed forms and loops written out in plain torch."""

import copy
import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from conftest import CPU, TinyFactory, epoch_batches, fit, run_config
from hypothesis import given
from hypothesis import strategies as st
from layers import containers, model_of
from test_pack import data_of
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from symlora.adapters import DyLoraConfig, PriLoraConfig, SaraConfig, SingLoraConfig, XgbLoraConfig, rank_of_share
from symlora.adapters.lora2 import Lora2Config, entries_kept
from symlora.config.schema import Config
from symlora.data.batches import padded
from symlora.errors import SymloraError
from symlora.model.build import build
from symlora.model.packable import why_alone
from symlora.model.run_model import RunModel
from symlora.runner.norms import adapter_norms
from symlora.training.hooks import AdaLora, step_hook
from symlora.training.loop import predict

LENGTHS = [5, 3, 12, 4, 8, 8, 3, 15, 7, 3, 4]


def adapted(config: Any) -> tuple[Any, Any]:
    model = model_of(config, 6, 5)
    return model, model.base_model.model[0]


def tuner(run: RunModel) -> Any:
    """PEFT's model of the method, around the run's encoder."""
    assert run.peft is not None
    return run.peft.base_model


def generator_of(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(step)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_dylora_is_the_reference_code_at_a_rank(rank: int, frozen: bool) -> None:
    """Its layer takes columns up to b, the earlier ones detached, times √(r/b) each, and α/r on top."""
    model, layer = adapted(DyLoraConfig(r=4, alpha=6, frozen=frozen, init_weights=False))
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator_of(1))
    layer.set_rank("default", rank, last_only=True)
    A, B = (value["default"].detach().clone().requires_grad_() for value in (layer.dylora_A, layer.dylora_B))

    def cut(factor: Tensor) -> Tensor:
        kept = factor[:, : rank - 1].detach() if frozen else factor[:, : rank - 1]
        return torch.cat([kept, factor[:, rank - 1 : rank]], dim=1) * math.sqrt(4 / rank)

    wanted = layer.base_layer(x) + x @ cut(A.T) @ cut(B).T * (6 / 4)
    found = model(x)
    torch.testing.assert_close(found, wanted)
    wanted.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(layer.dylora_A["default"].grad, A.grad)
    torch.testing.assert_close(layer.dylora_B["default"].grad, B.grad)


def test_dylora_moves_one_row_a_step() -> None:
    """Whatever momentum and decay AdamW has for the others; drawn ranks are uniform; between steps all rows work."""
    model, layer = adapted(DyLoraConfig(r=4, init_weights=False))
    A, B = layer.dylora_A["default"], layer.dylora_B["default"]
    optimizer = torch.optim.AdamW([A, B], lr=0.1, weight_decay=0.5)
    x = torch.randn(7, 6, dtype=torch.float64)
    moved = []
    for step in range(1, 201):
        before_A, before_B = A.detach().clone(), B.detach().clone()
        model.base_model.before_step(step, 200, generator_of(step))
        rank = int((layer.dylora_rows["default"] > 0).sum())
        model(x).square().sum().backward()
        optimizer.step()
        model.base_model.after_step(step, 200, optimizer)
        optimizer.zero_grad()
        rows = (before_A != A).any(1).nonzero().flatten().tolist()
        assert rows == (before_B != B).any(0).nonzero().flatten().tolist() == [rank - 1]
        moved.append(rank)
        assert torch.equal(layer.dylora_rows["default"], torch.ones(4, dtype=torch.float64))
    assert all(30 <= moved.count(rank) <= 70 for rank in (1, 2, 3, 4))  # 50 ± 3.3 standard deviations


def test_a_cut_dylora_merges_as_cut() -> None:
    model, layer = adapted(DyLoraConfig(r=4, alpha=6, init_weights=False))
    tuner = model.base_model
    tuner.set_rank(2)
    A, B = layer.dylora_A["default"].detach(), layer.dylora_B["default"].detach()
    torch.testing.assert_close(layer.get_delta_weight("default").detach(), 3 * B[:, :2] @ A[:2])
    x = torch.randn(3, 6, dtype=torch.float64)
    wanted = model(x).detach()
    torch.testing.assert_close(model.merge_and_unload()(x).detach(), wanted)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        tuner.set_rank(0)


@given(r=st.integers(1, 64), first=st.integers(1, 64), layers=st.integers(1, 48))
def test_prilora_ranks_rise_and_keep_their_mean(r: int, first: int, layers: int) -> None:
    ranks = PriLoraConfig(r=max(r, first), r_first=min(r, first)).ranks(layers)
    assert sum(ranks) == layers * max(r, first) and ranks == sorted(ranks) and len(ranks) == layers
    assert PriLoraConfig().ranks(12) == [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]


def test_prilora_prunes_by_weight_and_input() -> None:
    config = PriLoraConfig(r=3, r_first=3, pruned_share=0.5, pruning_interval=2, rank_pattern={"0": 3})
    model, layer = adapted(config)
    A = layer.prilora_A["default"]
    start, norm = A.detach().clone(), np.zeros(6)
    optimizer = torch.optim.AdamW([A], lr=0.1)
    for step in (1, 2):
        x = torch.randn(4, 2, 6, dtype=torch.float64) * torch.tensor([9.0, 1, 1, 1, 1, 0.1], dtype=torch.float64)
        model(x)
        with torch.no_grad():
            model(100 * x)  # scoring leaves no trace
        norm = 0.9 * norm + 0.1 * np.sqrt((x.numpy() ** 2).sum((0, 1)))
        assert torch.equal(A, start)
        model.base_model.after_step(step, 2, optimizer)
    np.testing.assert_allclose(layer.prilora_norm["default"], norm)
    importance = np.abs(start.numpy()) * norm
    kept = importance > np.sort(importance, axis=1)[:, 2:3]
    np.testing.assert_array_equal(A.detach().numpy(), start.numpy() * kept)
    assert (kept.sum(1) == 3).all() and kept[:, 0].all()


def test_prilora_trains_alone_and_in_the_layers_own_ranks(tiny: TinyFactory, tmp_path: Path) -> None:
    config = run_config(tiny("distilbert"), "prilora", epochs=2, lr=1e-2)
    config.method.peft_config = {**config.method.peft_config, "r": 4, "r_first": 2, "pruning_interval": 3}
    assert "its layers note the norms of their inputs: such runs train alone" in str(why_alone(config.method))
    model = build(config, CPU, "fp32")
    layers = list(tuner(model).tuner_layers())
    assert [layer.r["default"] for layer in layers] == [2, 2, 6, 6]
    data = data_of(LENGTHS)
    result = fit(config, data, model)
    assert all(float((layer.prilora_A["default"] == 0).double().mean()) == 0.5 for layer in layers)  # step 6 of 6
    assert all(float(layer.prilora_norm["default"].min()) > 0 for layer in layers)
    again(config, model, result, data, tmp_path)
    shared = tuner(build(run_config(tiny("albert"), "prilora"), CPU, "fp32")).tuner_layers()
    assert {layer.r["default"] for layer in shared} == {8}, "ALBERT's layers share one set of modules"


def test_sara_counts_singular_values() -> None:
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    weight = rotation @ torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    found = [rank_of_share(weight, share) for share in (0.01, 0.39, 0.41, 0.69, 0.71, 0.89, 0.91, 1.0)]
    assert found == [1, 1, 2, 2, 3, 3, 4, 4]


def test_sara_ranks_are_the_weights_own_and_stay(tiny: TinyFactory, tmp_path: Path) -> None:
    """A saved adapter keeps its ranks on a base whose singular values are others."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(tiny("bert", head=True))
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.value.weight[2:] = 0
    other = copy.deepcopy(model)
    wrapped: Any = peft.get_peft_model(copy.deepcopy(model), SaraConfig(share=0.3, task_type="SEQ_CLS"))
    ranks = {name: layer.r["default"] for name, layer in wrapped.named_modules() if hasattr(layer, "sara_A")}
    for name, rank in ranks.items():
        weight = model.get_submodule(name.removeprefix("base_model.model.")).weight.detach().double().numpy()
        values = np.linalg.svd(weight, compute_uv=False)
        assert values[:rank].sum() >= 0.3 * values.sum() > values[: rank - 1].sum()
    assert len(ranks) == 4 and len(set(ranks.values())) > 1
    wrapped.save_pretrained(tmp_path)
    with torch.no_grad():
        other.bert.encoder.layer[0].attention.self.query.weight.copy_(torch.eye(32))
    loaded = peft.PeftModel.from_pretrained(other, str(tmp_path))
    assert {name: m.r["default"] for name, m in loaded.named_modules() if hasattr(m, "sara_A")} == ranks


def test_xgblora_is_merging_and_starting_again() -> None:
    """A loop that adds each booster to the weight itself, with a new optimizer for the next one."""
    model, layer = adapted(XgbLoraConfig(boosters=3, alpha=2))
    x, target = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    weight, bias = (value.detach().clone() for value in (layer.base_layer.weight, layer.base_layer.bias))
    A, B = (value["default"].detach().clone() for value in (layer.xgblora_A, layer.xgblora_B))
    steps = 7  # boosters of 3, 2 and 2 steps
    own = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    deltas = []
    for step in range(1, steps + 1):
        if step in (1, 4, 6):
            if step > 1:
                weight = weight + 2 * B.detach() @ A.detach()
                A = torch.empty_like(A, dtype=torch.float32)
                A = nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator_of(step)).double()
                B = torch.zeros_like(B)
            A, B = A.detach().requires_grad_(), B.detach().requires_grad_()
            reference = torch.optim.AdamW([A, B], lr=0.1)
        loss = (x @ (weight + 2 * B @ A).T + bias - target).square().mean()
        reference.zero_grad()
        loss.backward()
        reference.step()
        before = layer.get_delta_weight("default").detach()
        model.base_model.before_step(step, steps, generator_of(step))
        torch.testing.assert_close(layer.get_delta_weight("default").detach(), before, rtol=0, atol=1e-14)
        ours = (model(x) - target).square().mean()
        assert ours.item() == pytest.approx(loss.item(), rel=1e-10)
        own.zero_grad()
        ours.backward()
        own.step()
        model.base_model.after_step(step, steps, own)
        deltas.append(layer.get_delta_weight("default").detach())
    torch.testing.assert_close(layer.base_layer.weight + deltas[-1], (weight + 2 * B @ A).detach())
    assert [int(torch.linalg.matrix_rank(delta)) for delta in deltas] == [1, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("steps", [1, 3, 7, 8, 9, 10, 16, 50])
def test_xgblora_has_all_its_boosters(steps: int) -> None:
    """Also where T does not divide the steps; with fewer steps than T, one a step. No two share a place."""
    model, layer = adapted(XgbLoraConfig(boosters=8))
    A, B = layer.xgblora_A["default"], layer.xgblora_B["default"]
    optimizer = torch.optim.AdamW([A, B])
    lengths = [0]
    for step in range(1, steps + 1):
        held = layer.xgblora_merged_B["default"].any(0).sum()
        model.base_model.before_step(step, steps, generator_of(step))
        if layer.xgblora_merged_B["default"].any(0).sum() != held:
            assert not optimizer.state and not B.any()
            lengths.append(0)
        lengths[-1] += 1
        optimizer.state[A] = optimizer.state[B] = {}
        with torch.no_grad():
            B.fill_(step)
        model.base_model.after_step(step, steps, optimizer)
    assert len(lengths) == min(steps, 8) and sum(lengths) == steps and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("ramp", "steps", "T"), [(4, 10, 4), (0.5, 10, 5), (20, 10, 10), (0, 10, 1), (0.01, 10, 1)])
def test_singlora_fades_its_update_in(ramp: float, steps: int, T: int) -> None:
    """u(t) = min(t/T, 1), 0 before the first step where there is a ramp, and 1 at the end of any training."""
    model, layer = adapted(SingLoraConfig(r=2, alpha=3, ramp=ramp))
    A = layer.singlora_A["default"].detach()
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator_of(1))
    base = layer.base_layer(x)
    assert torch.equal(model(x), base) == (ramp > 0)
    for step in range(1, steps + 1):
        model.base_model.before_step(step, steps, generator_of(step))
        wanted = min(step / T, 1) * 3 / 2 * x @ A[:6] @ A[:5].T
        torch.testing.assert_close(model(x) - base, wanted)
    model.base_model.before_step(1, steps, generator_of(1))  # of a run that starts from this adapter
    torch.testing.assert_close(model(x) - base, 3 / 2 * x @ A[:6] @ A[:5].T)
    model.merge_and_unload()
    torch.testing.assert_close(layer.base_layer(x) - base, 3 / 2 * x @ A[:6] @ A[:5].T)


@pytest.mark.parametrize(
    "config",
    [
        DyLoraConfig(r=4),
        SingLoraConfig(r=2, ramp=4),
        XgbLoraConfig(r=1, boosters=2),
        PriLoraConfig(r=2, r_first=2, rank_pattern={"0": 2}, pruning_interval=1),
    ],
    ids=lambda config: config.method,
)
def test_an_adapter_that_is_not_active_is_left_alone(config: Any) -> None:
    config.target_modules = {"0"}
    model, layer = adapted(copy.deepcopy(config))
    model.add_adapter("2", copy.deepcopy(config))
    if config.method == "dylora":
        model.base_model.set_rank(2)  # of the first
    before = {name: value.clone() for name, value in containers(layer).items()}
    model.set_adapter("2")
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])
    for step in range(1, 5):
        model.base_model.before_step(step, 4, generator_of(step))
        model.train()(torch.ones(2, 6, dtype=torch.float64)).sum().backward()
        optimizer.step()
        model.base_model.after_step(step, 4, optimizer)
    held = containers(layer)
    assert before and all(torch.equal(held[name], value) for name, value in before.items())
    moved = containers(layer, "2")
    assert not all(torch.equal(moved[name], value) for name, value in before.items())


def again(config: Config, model: RunModel, result: Any, data: Any, folder: Path) -> None:
    """Each rule's model, saved and loaded by PEFT into the encoder as it was, gives the very same logits."""
    for rule, state in result.state.items():
        model.load_state(state)
        model.save(folder / rule)
        fresh = build(config, CPU, "fp32")
        base = tuner(fresh).unload()
        fresh.encoder.model = peft.PeftModel.from_pretrained(base, str(folder / rule)).base_model.model
        found = predict(fresh.encoder, data["validation"])
        np.testing.assert_allclose(found, result.logits[rule]["validation"], rtol=0, atol=2e-6)


def adalora(folder: Path, seed: int = 0, epochs: int = 4, **arguments: Any) -> Config:
    config = run_config(folder, "adalora", seed=seed, epochs=epochs, lr=1e-2, model_dropout=0.0, weight_decay=0.0)
    wanted = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 0.25, **arguments}
    config.method.peft_config = {**config.method.peft_config, **wanted}
    return config


def test_adalora_is_pefts_own_loop(tiny: TinyFactory) -> None:
    """PEFT's forward with labels (which adds the penalty) and `update_and_allocate`, on padded batches."""
    config, data = adalora(tiny("bert")), data_of(LENGTHS)
    data["validation"] = data["train"]
    result = fit(config, data, build(config, CPU, "fp32"))

    run = build(config, CPU, "fp32")
    tuner(run).peft_config["default"].total_step = steps = 12
    tuner(run).peft_config["default"].tfinal = 3
    reference = [value for _, value in run.trainable()]
    optimizer = torch.optim.AdamW(reference, weight_decay=0.0)
    run.encoder.model.set_attn_implementation("eager")
    run.encoder.model.bert.encoder._forward_hooks.clear()
    run.encoder.model.bert.encoder.layer[-1].attention.output._forward_pre_hooks.clear()
    step = 0
    for epoch in range(4):
        for batch in epoch_batches(data["train"], 4, 0, epoch):
            step += 1
            rows = padded(batch, run.encoder.pad_id)
            peft_model: Any = run.peft
            out = peft_model(**rows, labels=batch.labels)
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(reference, config.train.max_grad_norm)
            warmup = math.ceil(config.train.warmup_ratio * steps)
            rate = min((step - 1) / warmup, (steps - step + 1) / (steps - warmup)) if warmup else 0
            for group in optimizer.param_groups:
                group["lr"] = rate * config.train.lr
            optimizer.step()
            tuner(run).update_and_allocate(step)
            optimizer.zero_grad()
    for name, value in run.state().items():
        torch.testing.assert_close(result.state["last"][name], value, rtol=1e-3, atol=2e-5, msg=name)
    left = sum(int((value != 0).sum()) for name, value in run.trainable() if "lora_E" in name)
    assert left == 4 * 2  # target_r of 4 matrices


def test_adalora_is_kept_as_it_was_at_any_epoch(tiny: TinyFactory, tmp_path: Path) -> None:
    """Also where training has pruned more since; PEFT's own rank pattern is the last step's."""
    config, data = adalora(tiny("bert"), epochs=6), data_of(LENGTHS)
    model = build(config, CPU, "fp32")
    states: dict[int, Any] = {}
    result = fit(config, data, model, on_epoch=lambda epoch: states.update({epoch.number: model.state()}))
    found = {}
    for number, state in states.items():
        model.load_state(state)
        result.state[f"epoch {number}"] = state
        result.logits[f"epoch {number}"] = {"validation": predict(model.encoder, data["validation"])}
        found[number] = sum(int((value != 0).sum()) for name, value in state.items() if "lora_E" in name)
    assert found[1] > found[6] == 8
    again(config, model, result, data, tmp_path)
    saved = peft.AdaLoraConfig.from_pretrained(str(tmp_path / "last"))
    assert (saved.total_step, saved.tinit, saved.tfinal) == (18, 2, 4)  # 0.25 of 18 steps
    assert sum(sum(rows) for rows in saved.rank_pattern.values()) == 8


def test_adalora_schedules_that_cannot_be(tiny: TinyFactory) -> None:
    model = build(adalora(tiny("bert"), tinit=0.6, tfinal=0.3), CPU, "fp32")
    assert isinstance(step_hook(model, 10), AdaLora)
    with pytest.raises(SymloraError, match=r"tinit=6 and tfinal=4 leave none of the 10 steps"):
        step_hook(build(adalora(tiny("bert"), tinit=0.6, tfinal=0.39), CPU, "fp32"), 10)
    with pytest.raises(SymloraError, match=r"target_r=4 is not below init_r=4"):
        step_hook(build(adalora(tiny("bert"), target_r=4), CPU, "fp32"), 10)
    pruned = Lora2Config(target_r=1, tinit=0.6, tfinal=0.3)
    assert [entries_kept(pruned, step, 10, 16, 2) for step in (6, 7, 8)] == [None, 2, 2]
    pruned.tfinal = 0.4
    with pytest.raises(ValueError, match=r"tinit=0.6 and tfinal=0.4 leave none of the 10 steps"):
        entries_kept(pruned, 1, 10, 16, 2)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_qlora_trains_on_four_bits(precision: str, tiny: TinyFactory, tmp_path: Path) -> None:
    config = run_config(tiny("roberta", hidden_size=64, intermediate_size=128), "qlora", epochs=2, lr=1e-2)
    assert "the encoder is held in 4 bits" in str(why_alone(config.method))
    model = build(config, CPU, precision)
    bitsandbytes = import_module("bitsandbytes")
    four = [name for name, m in model.encoder.named_modules() if type(m) is bitsandbytes.nn.Linear4bit]
    assert len(four) == 2 * 6 and not any("classifier" in name for name in four)
    assert model.counts().adapter == 4 * (64 + 64) * 8
    start = model.state()
    result = fit(config, data_of(LENGTHS), model)
    assert any(not torch.equal(value, result.state["last"][name]) for name, value in start.items() if "lora_" in name)
    assert all(math.isfinite(row["w0_frobenius"]) and row["w0_frobenius"] > 0 for row in adapter_norms(model))
    model.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
