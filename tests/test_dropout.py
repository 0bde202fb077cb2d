"""Dropout of our own: how often, how much, from which generator, and that a model has no other."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from conftest import TinyFactory, made_up, run_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from symlora.data.batches import gather
from symlora.model.build import build
from symlora.model.dropout import Dropout, DropoutStreams, scaled_mask, use_own_dropout
from symlora.model.encoder import FLAT_MODEL_TYPES

CPU = torch.device("cpu")
SIZE = 1_000_003  # not a multiple of 4: four draws share a word
relaxed = settings(deadline=None, max_examples=50)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [2**-16, 0.01, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_rate(p: float) -> None:
    """Zeros are binomial with the rounded p: within five standard deviations."""
    rounded, size = round(p * 2**16) / 2**16, SIZE * (8 if p < 0.001 else 1)  # 8 million tell 2^-16 from twice that
    zeros = int((scaled_mask(torch.empty(size), p, generator()) == 0).sum())
    assert abs(zeros - size * rounded) < 5 * (size * rounded * (1 - rounded)) ** 0.5


def test_each_of_the_four_draws_in_a_word_is_fair() -> None:
    """random_() by itself would leave each fourth draw's sign bit 0."""
    zeros = (scaled_mask(torch.empty(4, SIZE // 4), 0.25, generator()).view(-1)[: SIZE // 4 * 4] == 0).view(-1, 4)
    assert torch.allclose(zeros.float().mean(0), torch.tensor(0.25), atol=5 * (0.1875 / zeros.shape[0]) ** 0.5)
    pairs = zeros.float().T.corrcoef()
    assert float((pairs - torch.eye(4)).abs().max()) < 5 / zeros.shape[0] ** 0.5


@relaxed
@given(p=st.floats(0.0, 1.0), size=st.integers(0, 70))
def test_kept_values_make_the_expectation_exact(p: float, size: int) -> None:
    """E[mask] = (1 - q)·scale = 1, q the rounded probability."""
    rounded = round(p * 2**16) / 2**16
    mask = scaled_mask(torch.empty(size, dtype=torch.float64), p, generator())
    assert mask.shape == (size,)
    if rounded == 1.0:
        assert not mask.any()
    else:
        kept = mask[mask != 0]
        assert torch.allclose(kept * (1 - rounded), torch.ones_like(kept), rtol=1e-15)


def test_default_probability_is_rounded_as_documented() -> None:
    kept = scaled_mask(torch.empty(1000, dtype=torch.float64), 0.1, generator()).max()
    assert 1 - 1 / float(kept) == pytest.approx(0.1000061, abs=5e-8)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (5, 1, 7), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype)
    mask = scaled_mask(x, 0.5, generator())
    assert mask.shape == x.shape and mask.dtype == dtype
    assert set(mask.flatten().tolist()) <= {0.0, 2.0}
    assert torch.equal(mask, scaled_mask(x.float(), 0.5, generator()).to(dtype))  # the dtype does not change the draws


def test_transposed_input_is_masked_all_the_same() -> None:
    x = torch.ones(6, 5).T
    drop = Dropout(0.5, DropoutStreams([generator()]))
    assert torch.equal(drop(x), drop_of(torch.ones(5, 6)))


def drop_of(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    out: torch.Tensor = Dropout(0.5, DropoutStreams([generator(seed)]))(x)
    return out


def test_draws_come_from_the_given_generator_alone() -> None:
    x = torch.ones(1000)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state()
    first = drop_of(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    random.seed(2)
    assert torch.equal(drop_of(x), first)
    assert not torch.equal(drop_of(x, 1), first)
    drop = Dropout(0.5, DropoutStreams([generator()]))
    assert torch.equal(drop(x), first)
    assert not torch.equal(drop(x), first)  # the second call draws on


def test_identity_outside_of_training_and_at_zero() -> None:
    x = torch.randn(50)
    stream = generator()
    before = stream.get_state()
    assert Dropout(0.5, DropoutStreams([stream])).eval()(x) is x
    assert Dropout(0.0, DropoutStreams([stream]))(x) is x
    assert torch.equal(stream.get_state(), before)


def test_probability_one_drops_everything() -> None:
    x = torch.randn(50, requires_grad=True)
    out = Dropout(1.0, DropoutStreams([generator()]))(x)
    out.sum().backward()
    assert not out.any() and x.grad is not None and not x.grad.any()


def test_gradient_is_the_mask() -> None:
    x = torch.randn(1001, requires_grad=True)
    Dropout(0.3, DropoutStreams([generator()]))(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, scaled_mask(x.detach(), 0.3, generator()))


def test_use_own_dropout_replaces_every_one_and_keeps_its_mode() -> None:
    inner = nn.Sequential(nn.Dropout(0.3), nn.Linear(2, 2))
    model = nn.ModuleDict({"a": nn.Dropout(0.2), "b": inner, "c": nn.ModuleList([nn.Dropout(0.0)])})
    inner.eval()
    streams = DropoutStreams([generator()])
    use_own_dropout(model, streams)
    found = [module for module in model.modules() if isinstance(module, Dropout)]
    assert [(drop.p, drop.training) for drop in found] == [(0.2, True), (0.3, False), (0.0, True)]
    assert all(drop.streams is streams for drop in found)


@pytest.mark.parametrize("method", ["lora", "symlora", "full", "head"])
@pytest.mark.parametrize("kind", ["roberta", "bert", "mpnet", "distilbert"])
def test_a_built_model_has_no_other_dropout(kind: str, method: str, tiny: TinyFactory) -> None:
    config = run_config(tiny(kind), method)
    if config.method.peft_type:
        config.method.peft_config["lora_dropout" if method == "lora" else "dropout"] = 0.25
    run_model = build(config, CPU, "fp32")
    modules = dict(run_model.encoder.named_modules())
    assert not [name for name, module in modules.items() if isinstance(module, nn.Dropout)]
    own = {name: module for name, module in modules.items() if isinstance(module, Dropout)}
    assert len({id(drop.streams) for drop in own.values()}) == 1
    assert sum(drop.p == 0.25 for drop in own.values()) == (4 if config.method.peft_type else 0)  # q and v, two layers


@pytest.mark.parametrize("kind", [*sorted(FLAT_MODEL_TYPES), "mpnet", "deberta-v2"])
@pytest.mark.parametrize("where", ["attention", "hidden"])
def test_each_dropout_of_the_model_is_at_work(kind: str, where: str, tiny: TinyFactory) -> None:
    """In training, attention probabilities and hidden states are each dropped, by the run's own generator."""
    names = ("attention_dropout", "dropout") if kind == "distilbert" else (
        "attention_probs_dropout_prob", "hidden_dropout_prob"
    )  # fmt: skip
    rates = dict(zip(names, (0.5, 0.0) if where == "attention" else (0.0, 0.5), strict=True))
    config = run_config(tiny(kind, classifier_dropout=0.0, seq_classif_dropout=0.0, pooler_dropout=0.0, **rates))
    run_model = build(config, CPU, "fp32")
    batch = gather(made_up([9, 4, 9]), np.arange(3))
    state = run_model.streams.generators[0].get_state()
    with torch.no_grad():
        torch.manual_seed(0)
        run_model.encoder.train()
        first, second = run_model.encoder(batch), run_model.encoder(batch)
        assert float((first - second).abs().max()) > 1e-4
        run_model.streams.generators[0].set_state(state)
        torch.manual_seed(1)
        assert torch.equal(run_model.encoder(batch), first)
        run_model.encoder.eval()
        assert torch.equal(run_model.encoder(batch), run_model.encoder(batch))
        assert float((run_model.encoder(batch) - first).abs().max()) > 1e-4


@pytest.mark.parametrize("kind", ["roberta", "mpnet", "distilbert"])
def test_model_dropout_sets_all_but_the_adapters(kind: str, tiny: TinyFactory) -> None:
    config = run_config(tiny(kind), model_dropout=0.4)
    config.method.peft_config["dropout"] = 0.25
    modules = build(config, CPU, "fp32").encoder.named_modules()
    rates = {name: module.p for name, module in modules if isinstance(module, Dropout)}
    assert set(rates.values()) == {0.25, 0.4}
    assert {name for name, p in rates.items() if p == 0.25} == {name for name in rates if name.endswith(".default")}
