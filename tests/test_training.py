"""Optimizer and schedule against closed forms; the loop: what a seed fixes, what stays frozen, what is chosen."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, TinyFactory, epoch_batches, fit, made_up, run_config
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

from symlora.config.schema import Config, MethodConfig, TrainConfig
from symlora.data.tokens import TokenizedSplit
from symlora.errors import SymloraError
from symlora.model.build import build
from symlora.model.encoder import Encoder
from symlora.model.run_model import RunModel
from symlora.runner.norms import adapter_norms
from symlora.training.loop import StepProgress, losses_of, predict
from symlora.training.optimizer import AdamW, linear_schedule
from symlora.training.result import Epoch, Fit, metrics_of, out_of_patience, rules_met
from symlora.training.run_state import RunState

LENGTHS = [5, 1, 12, 2, 8, 8, 3, 20, 7, 1, 4]  # 11 rows: the third batch of 4 is short


def train_config(**values: Any) -> TrainConfig:
    return TrainConfig(
        **{"lr": 0.1, "batch_size": 4, "epochs": 1, "warmup_ratio": 0.0, "weight_decay": 0.1, "max_grad_norm": 1.0}
        | values
    )


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_torchs_where_there_is_no_lambda(decay: float) -> None:
    """torch's unfused AdamW, one parameter at a time, decay only where the Trainer has it."""
    decayed = ("dense.weight", "layer.symlora_Q.default", "q.lora_A.default.weight", "layer.symlora_diag.default")
    undecayed = (
        *("dense.bias", "LayerNorm.weight", "sa_layer_norm.weight", "mlp_norm.weight", "norm.bias"),
        *("q.lora_magnitude_vector.default.weight", "q.edora_m.default", "v.ia3_l.default"),  # factors of W0, as λ
    )
    generator = torch.Generator().manual_seed(0)
    own = [(name, nn.Parameter(torch.randn(3, generator=generator))) for name in decayed + undecayed]
    references = [(name, nn.Parameter(value.detach().clone())) for name, value in own]
    train = train_config(weight_decay=decay)
    optimizer = AdamW(own, train, MethodConfig(lambda_decay="one"))
    with pytest.raises(SymloraError, match="lr_ratio: lora_b matches none"):
        AdamW(own, train, MethodConfig(lr_ratio={"lora_A": 16.0, "lora_b": 16.0}))
    stock = [
        torch.optim.AdamW([value], lr=train.lr, weight_decay=0.0 if name in undecayed else decay, fused=False)
        for name, value in references
    ]
    for _ in range(5):
        for (_, value), (_, reference) in zip(own, references, strict=True):
            value.grad = torch.randn(3, generator=generator)
            reference.grad = value.grad.clone()
        optimizer.step()
        for one in stock:
            one.step()
    for (name, value), (_, reference) in zip(own, references, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-6, atol=1e-7, msg=name)


@given(
    decay=st.floats(0.0, 0.5),
    lr=st.floats(1e-4, 0.5),
    steps=st.integers(2, 30),
    start=st.floats(-3.0, 3.0),
    warmup=st.floats(0.0, 1.0),
)
def test_decay_of_lambda_without_gradient(decay: float, lr: float, steps: int, start: float, warmup: float) -> None:
    """none: still. zero: λ_0 Π(1 - lr_t·wd). one: 1 + (λ_0 - 1) Π(1 - lr_t·wd). To first order exp(-wd Σ lr_t)."""
    train = train_config(lr=lr, weight_decay=decay, warmup_ratio=warmup)
    for rule in ("none", "zero", "one"):
        scale, second, other = values = [nn.Parameter(torch.full((1,), start)) for _ in range(3)]
        names = [f"layer.{name}.default" for name in ("symlora_lambda", "loralambda_lambda", "randlora_lambda")]
        optimizer = AdamW(zip(names, values, strict=True), train, MethodConfig(lambda_decay=rule))
        schedule = linear_schedule(optimizer, train, steps)
        product, total = 1.0, 0.0
        for _ in range(steps):
            lr_now = float(schedule.get_last_lr()[0])
            scale.grad, second.grad, other.grad = (torch.zeros(1) for _ in values)
            optimizer.step()
            schedule.step()
            product *= 1.0 - lr_now * decay
            total += lr_now
        wanted = {"none": start, "zero": start * product, "one": 1.0 + (start - 1.0) * product}[rule]
        assert float(scale.detach()) == float(second.detach()) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
        assert float(other.detach()) == pytest.approx(start * product, rel=1e-5, abs=1e-5)  # RandLoRA's is no λ of ours
        assert product == pytest.approx(math.exp(-decay * total), abs=steps * (lr * decay) ** 2 + 1e-9)


@given(steps=st.integers(1, 300), ratio=st.floats(0.0, 1.0))
def test_schedule_is_linear_up_and_linear_down(steps: int, ratio: float) -> None:
    train = train_config(lr=2.0, warmup_ratio=ratio)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=train.lr)
    schedule = linear_schedule(optimizer, train, steps)
    warm = math.ceil(ratio * steps)
    for step in range(steps + 1):
        wanted = 2.0 * step / warm if step < warm else 2.0 * (steps - step) / max(1, steps - warm)
        assert schedule.get_last_lr()[0] == pytest.approx(wanted, abs=1e-12)
        optimizer.step()
        schedule.step()


def data_of(scores: bool = False, held_out: bool = False, validation: str = "validation") -> dict[str, TokenizedSplit]:
    data = {"train": made_up(LENGTHS, scores=scores), validation: made_up(LENGTHS[::-1], seed=1, scores=scores)}
    return data | ({"held_out": made_up(LENGTHS[:6], seed=2, scores=scores)} if held_out else {})


Run = tuple[Fit, RunModel, list[list[int]], list[float]]


def trained(config: Config, data: dict[str, TokenizedSplit] | None = None, precision: str = "fp32") -> Run:
    """A run with the rows of each training batch and the loss of each step."""
    run_model = build(config, CPU, precision)
    rows: list[list[int]] = []
    losses: list[float] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.training:
            rows.append(args[0].rows.tolist())

    run_model.encoder.register_forward_pre_hook(note)
    result = fit(config, data or data_of(), run_model, on_step=lambda progress: losses.append(progress.loss))
    return result, run_model, rows, losses


def identical(a: Run, b: Run) -> bool:
    (first, _, _, losses), (second, _, _, others) = a, b
    assert first.state["last"].keys() == second.state["last"].keys()
    same_state = all(torch.equal(first.state["last"][name], value) for name, value in second.state["last"].items())
    same_logits = all(
        np.array_equal(first.logits["last"][name], value) for name, value in second.logits["last"].items()
    )
    assert same_state == same_logits == (losses == others)
    return same_state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["symlora", "lora"])
def test_a_seed_fixes_every_bit(method: str, precision: str, tiny: TinyFactory) -> None:
    """With dropout at its default 0.1, and whatever else drew from torch's global generator."""
    config = run_config(tiny("bert"), method, seed=3, epochs=2)
    torch.manual_seed(1)
    first = trained(config, precision=precision)
    torch.manual_seed(2)
    assert identical(first, trained(config, precision=precision))
    assert not identical(first, trained(run_config(tiny("bert"), method, seed=4, epochs=2), precision=precision))


def test_a_seed_gives_every_method_the_same_batches(tiny: TinyFactory) -> None:
    batches = {
        method: trained(run_config(tiny("roberta"), method, seed=5, epochs=2))[2]
        for method in ("symlora", "lora", "head", "full")
    }
    first = batches["symlora"]
    assert all(rows == first for rows in batches.values())
    assert [len(rows) for rows in first] == [4, 4, 3] * 2
    assert sorted(sum(first[:3], [])) == sorted(sum(first[3:], [])) == list(range(11)) != sum(first[:3], [])
    assert first[:3] != first[3:]
    assert trained(run_config(tiny("roberta"), seed=6, epochs=2))[2] != first


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["symlora", "lora", "head"])
def test_frozen_weights_keep_every_bit(method: str, precision: str, tiny: TinyFactory) -> None:
    config = run_config(tiny("bert"), method, lr=0.01, epochs=2)
    start = dict(build(config, CPU, precision).encoder.named_parameters())
    _, run_model, _, _ = trained(config, precision=precision)
    moved = {name for name, value in run_model.encoder.named_parameters() if not torch.equal(value, start[name])}
    assert moved == {name for name, _ in run_model.trainable()}  # and all that trains did move
    assert len(moved) < len(start)


def test_lambda_decay_in_a_run(tiny: TinyFactory) -> None:
    """`zero` drags λ down; `one` keeps it nearer to 1 than no decay does."""
    found = {}
    for rule in ("none", "zero", "one"):
        config = run_config(tiny("bert"), lr=0.02, weight_decay=5.0, epochs=3)
        config.method.lambda_decay = rule
        found[rule] = [row["lambda"] for row in adapter_norms(trained(config)[1])]
    assert max(found["zero"]) < min(found["one"]) and max(found["zero"]) < 0.9
    assert sum(abs(x - 1) for x in found["one"]) < sum(abs(x - 1) for x in found["none"])


def test_two_steps_by_hand(tiny: TinyFactory) -> None:
    """Loss, clipping, AdamW and schedule of two steps, written out with stock torch."""
    folder = tiny("roberta", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config = run_config(folder, "lora", batch_size=6, max_grad_norm=0.05, warmup_ratio=0.5, weight_decay=0.0)
    result, run_model, rows, losses = trained(config)
    reference = build(config, CPU, "fp32")
    reference.encoder.train()
    weights = [value for _, value in reference.trainable()]
    optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.0)
    for step, batch in enumerate(epoch_batches(data_of()["train"], 6, config.seed, 0)):
        loss = nn.functional.cross_entropy(reference.encoder(batch), batch.labels)
        assert float(loss.detach()) == pytest.approx(losses[step], rel=1e-6)
        grads = torch.autograd.grad(loss, weights)
        norm = float(torch.stack([grad.square().sum() for grad in grads]).sum().sqrt())
        assert norm > 0.05  # so that clipping is at work
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad * (0.05 / norm)
        optimizer.param_groups[0]["lr"] = [0.0, config.train.lr][step]  # one warm-up step, then the peak
        optimizer.step()
    for name, value in reference.state().items():
        torch.testing.assert_close(result.state["last"][name], value, rtol=1e-4, atol=1e-6)
    assert result.epochs[0].train_loss == pytest.approx((6 * losses[0] + 5 * losses[1]) / 11)
    assert result.tokens == sum(LENGTHS)


@pytest.mark.parametrize(("kind", "method"), [("bert", "symlora"), ("bert", "lora2"), ("deberta-v2", "lora")])
def test_parts_of_a_batch_give_its_gradients(
    kind: str, method: str, tiny: TinyFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In less memory, with the same dropout and one penalty; the last batch has fewer rows than there are parts."""
    update, forward, data = RunState.update, Encoder.forward, {"train": made_up([9] * 19), "validation": made_up([5])}
    found: list[tuple[list[float], list[dict[str, Tensor]], int]] = []
    for parts in (1, 4):
        config = run_config(tiny(kind), method, batch_size=16, model_dropout=0.1, gradient_accumulation_steps=parts)
        gradients: list[dict[str, Tensor]] = []
        held = [0]  # bytes that each forward pass keeps for its backward pass

        def note(run: RunState, gradients: list[dict[str, Tensor]] = gradients) -> None:
            named = run.model.trainable()
            gradients.append({name: value.grad.clone() for name, value in named if value.grad is not None})
            update(run)

        def keep(tensor: Tensor, held: list[int] = held) -> Tensor:
            held[-1] += 0 if isinstance(tensor, nn.Parameter) else tensor.nbytes
            return tensor

        monkeypatch.setattr(RunState, "update", note)
        monkeypatch.setattr(Encoder, "forward", lambda *args, held=held: held.append(0) or forward(*args))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _, _, _, losses = trained(config, data)
        found.append((losses, gradients, max(held)))
    (losses, wanted, whole), (others, gradients, part) = found
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    for name, value in wanted[0].items():
        torch.testing.assert_close(gradients[0][name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()) + 1e-9)
    assert part < 0.4 * whole  # a quarter, and the transposed weights


@pytest.mark.parametrize("method", ["symlora", "lora"])
def test_fp16_keeps_gradients_that_it_could_not_hold(
    method: str, tiny: TinyFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head this small hands back gradients of activations that are near 1e-8, where fp16 has nothing left."""
    found: dict[str, tuple[float, Tensor]] = {}
    for precision in ("fp32", "fp16"):
        config = run_config(tiny("bert"), method, model_dropout=0.1)
        run_model = build(config, CPU, precision)
        with torch.no_grad():
            run_model.encoder.model.classifier.weight.mul_(1e-6)
        gradients: list[Tensor] = []

        def note(run: RunState, gradients: list[Tensor] = gradients) -> None:
            named = run.model.trainable()
            own = [value.grad.flatten() for name, value in named if value.grad is not None and "attention" in name]
            gradients.append(torch.cat(own))
            run.scaler.update()

        monkeypatch.setattr(RunState, "update", note)
        result = fit(config, data_of(), run_model)
        assert {value.dtype for _, value in run_model.trainable()} == {torch.float32}
        found[precision] = result.epochs[0].train_loss, gradients[0]
    assert found["fp16"][0] == pytest.approx(found["fp32"][0], rel=1e-2)
    wanted = found["fp32"][1]
    assert float(wanted.abs().max()) < 1e-6
    assert float((found["fp16"][1] - wanted).norm() / wanted.norm()) < 0.02


def epoch(number: int, **scores: float) -> Epoch:
    return Epoch(number, 0.0, {split: {"accuracy": score} for split, score in scores.items()}, 0.0)


values = st.one_of(st.sampled_from([0.0, 0.5, 1.0, math.nan]), st.floats(-1.0, 1.0))


@pytest.fixture(scope="module")
def rte(tiny: TinyFactory) -> Config:
    return run_config(tiny("bert"))


@given(scores=st.lists(st.tuples(values, values), min_size=1, max_size=12))
def test_rules_take_the_first_best_epoch(rte: Config, scores: list[tuple[float, float]]) -> None:
    """NaN never wins, unless there is nothing else: then the first epoch stands."""
    epochs: list[Epoch] = []
    chosen: dict[str, int] = {}
    for number, (validation, held_out) in enumerate(scores, 1):
        epochs.append(epoch(number, validation=validation, held_out=held_out))
        chosen |= dict.fromkeys(rules_met(epochs, rte), number)
    wanted = {"last": len(scores)}
    for place, rule in enumerate(("best", "held_out")):
        column = np.array([score[place] for score in scores])
        wanted[rule] = 1 if np.isnan(column).all() else int(np.nanargmax(column)) + 1
    assert chosen == wanted


@given(scores=st.lists(st.sampled_from([0.2, 0.5, 0.7, 0.9]), min_size=1, max_size=12), patience=st.integers(1, 4))
def test_patience_ends_where_transformers_would(rte: Config, scores: list[float], patience: int) -> None:
    config = replace(rte, train=replace(rte.train, epochs=len(scores), patience=patience))
    callback, control = EarlyStoppingCallback(patience), TrainerControl()
    state, arguments = TrainerState(), SimpleNamespace(metric_for_best_model="accuracy", greater_is_better=True)
    found = Fit()
    for number, score in enumerate(scores, 1):
        found.epochs.append(epoch(number, validation=score))
        found.chosen |= dict.fromkeys(rules_met(found.epochs, config), number)
        callback.on_evaluate(arguments, state, control, {"eval_accuracy": score})
        state.best_metric = max(scores[:number])
        assert out_of_patience(found, config) == (control.should_training_stop and number < len(scores))
        if control.should_training_stop:
            break


def test_each_rule_keeps_its_epochs_model(tiny: TinyFactory) -> None:
    config = run_config(tiny("bert"), lr=0.01, epochs=5)
    states: list[dict[str, Tensor]] = []
    data, run_model = data_of(held_out=True), build(config, CPU, "fp32")
    seen: list[StepProgress] = []
    result = fit(config, data, run_model, seen.append, lambda epoch: states.append(run_model.state()))
    assert set(result.chosen) == {"best", "last", "held_out"}
    for rule, number in result.chosen.items():
        assert all(torch.equal(value, states[number - 1][name]) for name, value in result.state[rule].items())
        run_model.load_state(result.state[rule])
        for split in ("validation", "held_out"):
            assert np.array_equal(predict(run_model.encoder, data[split]), result.logits[rule][split])
            again = metrics_of(config, result.logits[rule][split], data[split].labels)
            assert again == result.epochs[number - 1].metrics[split]
    assert [(p.epoch, p.step, p.steps) for p in seen] == [(s // 3 + 1, s + 1, 15) for s in range(15)]
    assert [p.score for p in seen[::3]] == [None, *(e.metrics["validation"]["accuracy"] for e in result.epochs[:-1])]


@pytest.fixture(scope="module")
def encoder(tiny: TinyFactory) -> Any:
    return build(run_config(tiny("bert"), "head"), CPU, "fp32").encoder


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=20), max_tokens=st.integers(1, 90))
def test_predictions_stand_in_the_splits_order(encoder: Any, lengths: list[int], max_tokens: int) -> None:
    split = made_up(lengths)
    logits = predict(encoder, split, max_tokens)
    assert logits.dtype == np.float32 and logits.shape == (len(lengths), 2)
    np.testing.assert_allclose(logits, predict(encoder, split), atol=1e-5)
    row = len(lengths) // 2
    start, stop = split.offsets[row : row + 2]
    alone = replace(
        split, input_ids=split.input_ids[start:stop], offsets=np.array([0, stop - start]), labels=split.labels[:1],
        idx=split.idx[:1],
    )  # fmt: skip
    np.testing.assert_allclose(logits[row : row + 1], predict(encoder, alone), atol=1e-5)
    assert not encoder.training


def test_losses_in_closed_form() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0], [0.5, 0.0, -2.0]])
    wanted = -math.log(math.exp(3) / (math.e + math.exp(3) + 1)) - math.log(
        math.exp(-2) / (math.exp(0.5) + 1 + math.exp(-2))
    )
    assert float(losses_of(logits, torch.tensor([1, 2])).mean()) == pytest.approx(wanted / 2)
    assert losses_of(torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, 3.5])).tolist() == [4.0, 0.25]


@pytest.mark.parametrize(("method", "lr"), [("symlora", 0.02), ("lora", 0.02), ("head", 0.02), ("full", 3e-3)])
@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_loss_falls_on_what_can_be_learnt(task: str, method: str, lr: float, tiny: TinyFactory) -> None:
    """Rows of four different tokens; the first one says the class, or the score."""
    generator = np.random.default_rng(0)
    split = made_up(generator.integers(1, 6, 64).tolist(), scores=task == "stsb")
    split = replace(split, input_ids=generator.choice([10, 40, 70, 100], len(split.input_ids)).astype(np.uint16))
    first = split.input_ids[split.offsets[:-1]]
    labels: Any = (first / 20).astype(np.float32) if task == "stsb" else (first > 60).astype(np.int64)
    split = replace(split, labels=labels)
    folder = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config = run_config(folder, method, task, lr=lr, epochs=15, batch_size=8)
    epochs = trained(config, {"train": split, "validation": split})[0].epochs
    assert epochs[-1].train_loss < 0.5 * epochs[0].train_loss
    least = 0.7 if method == "head" else 0.9  # a random encoder, frozen, gives the head little to go by
    assert epochs[-1].metrics["validation"][config.task.score] > least
