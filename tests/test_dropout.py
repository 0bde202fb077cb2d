"""Dropout of our own: its masks are a function of seed, step, site and place, and look like chance."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import CPU, TinyFactory, made_up, run_config
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from symlora.data.batches import gather
from symlora.model.build import build
from symlora.model.dropout import Dropout, Masks, sequence, step_key, token_keys
from symlora.model.encoder import FLAT_MODEL_TYPES

ROWS, COLUMNS = 2001, 502  # columns are no multiple of 4: four draws share a word


def keys_of(seed: int = 0, step: int = 0, lengths: tuple[int, ...] = (ROWS,)) -> Tensor:
    return token_keys([step_key(seed, step)], gather(made_up(list(lengths)), np.arange(len(lengths))))


def drop_of(x: Tensor, p: float = 0.5, site: int = 0, keys: Tensor | None = None) -> Tensor:
    masks = Masks()
    masks.given = keys_of(lengths=(x.shape[:-1].numel(),)) if keys is None else keys
    out: Tensor = Dropout(p, masks, site)(x)
    return out


def zeros(p: float, site: int = 0, keys: Tensor | None = None, columns: int = COLUMNS) -> Tensor:
    """Where a mask is 0: float32 [rows, columns]."""
    keys = keys_of() if keys is None else keys
    return (drop_of(torch.ones(len(keys), columns), p, site, keys) == 0).float()


@pytest.mark.parametrize("p", [2**-16, 0.01, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_rate(p: float) -> None:
    """Zeros are binomial with the rounded p: in all, in each row, in each column and in each of a word's four draws."""
    rounded = round(p * 2**16) / 2**16
    found = torch.stack([zeros(p, site) for site in range(8)])  # 8 million tell 2^-16 from twice that
    for dims, most in ((0, 1, 2), 5.0), ((0, 2), 5.5), ((0, 1), 5.5):
        count = found.numel() // found.sum(dims).numel()
        scores = (found.sum(dims) - count * rounded) / (count * rounded * (1 - rounded)) ** 0.5
        if count * rounded > 20:
            assert float(scores.abs().max()) < most, dims
            assert scores.numel() == 1 or 0.9 < float(scores.var()) < 1.1 + 200 / scores.numel(), dims
    draws = found[..., : COLUMNS // 4 * 4].reshape(-1, 4)
    assert torch.allclose(draws.mean(0), torch.tensor(rounded), atol=5 * (rounded * (1 - rounded) / len(draws)) ** 0.5)


def product(*masks: Tensor) -> float:
    """The mean of a product of centred masks in standard deviations: about normal where they are independent."""
    centred = [mask - 0.1000061 for mask in masks]
    product = torch.stack(centred).prod(0)
    return float(product.sum() / (0.09 ** (len(masks) / 2) * product.numel() ** 0.5))


def test_draws_are_independent() -> None:
    """Of neighbours along both axes, of other sites, steps, seeds and sentences, and of corners of rectangles.

    Corners: a hash that only combines a row's key with a column's would fail there.
    """
    mask = zeros(0.1)
    found = {f"{lag} columns on": product(mask[:, lag:], mask[:, :-lag]) for lag in (1, 2, 3, 4, 8, 64)}
    found |= {f"{lag} rows on": product(mask[lag:], mask[:-lag]) for lag in (1, 2, 3, 16, 128)}
    found |= {f"site {site}": product(mask, zeros(0.1, site)) for site in (1, 2, 1 << 31)}
    found |= {f"step {step}": product(mask, zeros(0.1, keys=keys_of(0, step))) for step in (1, 2, 1000)}
    found |= {f"seed {seed}": product(mask, zeros(0.1, keys=keys_of(seed, 0))) for seed in (1, 2, 1000)}
    two = keys_of(lengths=(ROWS, ROWS))
    found["sentence"] = product(zeros(0.1, keys=two[:ROWS]), zeros(0.1, keys=two[ROWS:]))
    for down, along in ((1, 1), (1, 4), (2, 8), (16, 4), (1, 2), (64, 64)):
        corners = mask[down:, along:], mask[:-down, along:], mask[down:, :-along], mask[:-down, :-along]
        found[f"rectangle {down} x {along}"] = product(*corners)
    other = zeros(0.1, 1)
    found["rows and sites"] = product(mask[1:], mask[:-1], other[1:], other[:-1])
    heads = Masks().of_heads(keys_of(), 12)
    found["heads"] = product(*(zeros(0.1, keys=heads[:, head].contiguous()) for head in (0, 1)))
    assert {name: score for name, score in found.items() if abs(score) > 4.5} == {}
    assert abs(sum(score**2 for score in found.values()) / len(found) - 1) < 5 * (2 / len(found)) ** 0.5


def test_keys_of_tokens_do_not_repeat() -> None:
    """Among a million: chance would repeat one in 37 million times of this."""
    keys = torch.cat([keys_of(seed, step, (128,) * 16) for seed in range(8) for step in range(64)])
    assert len(set(keys.tolist())) == len(keys) == 8 * 64 * 2048


@given(p=st.floats(0.0, 1.0), size=st.integers(1, 70))
def test_kept_values_make_the_expectation_exact(p: float, size: int) -> None:
    """E[mask] = (1 - q)·scale = 1, q the rounded probability."""
    rounded = round(p * 2**16) / 2**16
    mask = drop_of(torch.ones(3, size, dtype=torch.float64), p)
    if rounded == 1.0:
        assert not mask.any()
    else:
        kept = mask[mask != 0]
        assert torch.allclose(kept * (1 - rounded), torch.ones_like(kept), rtol=1e-15)


def test_masks_are_those_of_the_record() -> None:
    """What a seed means must not change, on no device and no version."""
    mask = zeros(0.1, site=7, keys=keys_of(3, 5, (4, 2)), columns=40)
    dropped = ["16 19 21 28 36", "7 20 23 29 32 35", "3 10 32 33 34 36", "4 9", "8 9 12 16", "5 6 17 26"]
    assert [" ".join(map(str, row.nonzero().flatten().tolist())) for row in mask] == dropped
    large = zeros(0.25, site=1 << 31, keys=keys_of(12345, 100_000)).to(torch.uint8)
    assert hashlib.sha256(large.numpy().tobytes()).hexdigest()[:16] == "00e88354eaff6599"
    if torch.cuda.is_available():
        on_gpu = drop_of(torch.ones(ROWS, COLUMNS, device="cuda"), 0.25, 1 << 31, keys_of(12345, 100_000).cuda())
        assert torch.equal((on_gpu == 0).to("cpu", torch.uint8), large)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_shape_and_strides_do_not_change_the_draws(dtype: torch.dtype) -> None:
    wanted = zeros(0.5, keys=keys_of(lengths=(6,)), columns=5)
    assert torch.equal((drop_of(torch.ones(5, 6, dtype=dtype).T) == 0).float(), wanted)
    assert torch.equal((drop_of(torch.ones(2, 3, 5, dtype=dtype)) == 0).float(), wanted.view(2, 3, 5))
    assert torch.equal(zeros(0.5, keys=keys_of(lengths=(6,)), columns=9)[:, :5], wanted)


def test_a_module_that_layers_share_draws_anew_in_each() -> None:
    masks, x = Masks(), torch.ones(10, 40)
    masks.given, drop = keys_of(lengths=(10,)), Dropout(0.5, masks, 0)
    first, second = drop(x), drop(x)
    masks.begin((1,), (10,))
    assert torch.equal(drop(x), first) and not torch.equal(first, second)


def test_identity_outside_of_training_and_at_zero() -> None:
    x = torch.randn(50, 2)
    assert Dropout(0.5, Masks(), 0).eval()(x) is x
    assert Dropout(0.0, Masks(), 0)(x) is x


def test_sequence_is_splitmix64() -> None:
    """The published first outputs for seed 1234567 (Vigna, prng.di.unimi.it)."""
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert sequence(1234567, 5).tolist() == wanted


KINDS = ("roberta", "bert", "mpnet", "distilbert")


@pytest.mark.parametrize(
    ("kind", "method"),
    [*((kind, method) for kind in KINDS for method in ("lora", "symlora", "full", "head")), ("modernbert", "lora")],
)
def test_a_built_model_drops_at_the_rates_that_were_set(kind: str, method: str, tiny: TinyFactory) -> None:
    config = run_config(tiny(kind), method, model_dropout=0.4)
    if config.method.peft_type:
        config.method.peft_config["lora_dropout" if method == "lora" else "dropout"] = 0.25
    run_model = build(config, CPU, "fp32")
    modules = dict(run_model.encoder.named_modules())
    assert not [name for name, module in modules.items() if isinstance(module, nn.Dropout)]
    own = {name: module for name, module in modules.items() if isinstance(module, Dropout)}
    assert len({id(drop.masks) for drop in own.values()}) == 1
    sites = [drop.site for name, drop in own.items() if "original_module" not in name]
    assert len(set(sites)) == len(sites)
    adapters = {name for name, drop in own.items() if drop.p == 0.25}
    assert adapters == {name for name in own if name.endswith(".default") and "modules_to_save" not in name}
    assert bool(adapters) == bool(config.method.peft_type)
    assert {drop.p for name, drop in own.items() if name not in adapters} == {0.4}


@pytest.mark.parametrize("kind", [*sorted(FLAT_MODEL_TYPES), "deberta-v2"])
@pytest.mark.parametrize("where", ["attention", "hidden"])
def test_each_dropout_of_the_model_is_at_work(kind: str, where: str, tiny: TinyFactory) -> None:
    """In training, attention probabilities and hidden states are each dropped; step by step anew."""
    names = {"distilbert": ("attention_dropout", "dropout"), "modernbert": ("attention_dropout", "mlp_dropout")}.get(
        kind, ("attention_probs_dropout_prob", "hidden_dropout_prob")
    )
    rates = dict(zip(names, (0.5, 0.0) if where == "attention" else (0.0, 0.5), strict=True))
    folder = tiny(kind, classifier_dropout=0.0, seq_classif_dropout=0.0, pooler_dropout=0.0, **rates)
    config = run_config(folder, "lora" if kind == "modernbert" else "symlora")
    run_model = build(config, CPU, "fp32")
    batch = gather(made_up([9, 4, 9]), np.arange(3))
    with torch.no_grad():
        run_model.encoder.train()
        first = run_model.encoder(batch)
        run_model.encoder.masks.steps = (step_key(0, 1),)
        assert float((first - run_model.encoder(batch)).abs().max()) > 1e-4
        run_model.encoder.masks.steps = (0,)
        assert torch.equal(run_model.encoder(batch), first)
        run_model.encoder.eval()
        assert torch.equal(run_model.encoder(batch), run_model.encoder(batch))
        assert float((run_model.encoder(batch) - first).abs().max()) > 1e-4


@pytest.mark.parametrize(("kind", "in_attention"), [("bert", 0.0), ("mpnet", 0.3), ("modernbert", 0.0)])
def test_padding_does_not_change_the_masks(
    kind: str, in_attention: float, tiny: TinyFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flat batch and Hugging Face's own padded pass give the same logits and gradients in training.

    Padded attention of BERT's has torch's dropout; for ours see test_encoder.
    """
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": in_attention}
    if kind == "modernbert":
        rates = {"embedding_dropout": 0.3, "mlp_dropout": 0.3}
    config = run_config(tiny(kind, **rates), "full")
    batch = gather(made_up([9, 4, 19, 1]), np.arange(4))
    found = []
    for flat_types in (FLAT_MODEL_TYPES, frozenset[str]()):
        monkeypatch.setattr("symlora.model.build.FLAT_MODEL_TYPES", flat_types)
        encoder = build(config, CPU, "fp32").encoder.train()
        assert encoder.flat == bool(flat_types)
        logits = encoder(batch)
        logits.logsumexp(-1).sum().backward()
        found.append([logits, *(value.grad for value in encoder.parameters())])
    for flat, padded in zip(*found, strict=True):
        torch.testing.assert_close(flat, padded, rtol=1e-4, atol=1e-5)
