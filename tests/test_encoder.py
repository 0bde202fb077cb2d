"""The flat-batch encoder against transformers' own class on padded batches: logits, loss and every gradient."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, TinyFactory, made_up, moved, run_config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layers import CLASSIFIER
from torch import Tensor

from symlora.data.batches import Batch, gather, padded
from symlora.data.demo import demo_split
from symlora.errors import SymloraError
from symlora.model.attention import STEP, FlatLayout, flat_attention, grouped
from symlora.model.build import build
from symlora.model.dropout import Dropout, Masks
from symlora.model.encoder import FLAT_MODEL_TYPES
from symlora.model.head import head_modules
from symlora.model.run_model import RunModel
from symlora.training.loop import losses_of

FLAT = sorted(FLAT_MODEL_TYPES)
PADDED = ("deberta-v2",)
WITH_TYPES = ("albert", "bert", "electra", "deberta-v2")  # kinds whose second token type is a row of its own
relaxed = settings(max_examples=25)

LENGTHS = {
    "unequal": [5, 1, 17, 2, 9, 9, 1, 20, 3],  # 67 tokens in all: more than max_position_embeddings (24)
    "equal": [7, 7, 7, 7],
    "single row": [11],
    "single token": [1],
    "two": [2, 1],
}


def batch_of(lengths: list[int], kind: str, seed: int = 0) -> Batch:
    return gather(made_up(lengths, seed=seed, types=kind in WITH_TYPES), np.arange(len(lengths)))


def stock(run_model: RunModel, folder: Path) -> Any:
    """transformers' own class with the same weights."""
    reference = CLASSIFIER.from_pretrained(folder, num_labels=2, attn_implementation="eager").eval()
    reference.load_state_dict(run_model.encoder.model.state_dict())
    return reference


def stock_logits(model: Any, batch: Batch) -> Tensor:
    inputs = padded(batch, model.config.pad_token_id)
    logits: Tensor = model(**inputs).logits
    return logits


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest value. (Some gradients are 0 but for rounding: a key's bias moves nothing.)"""
    scale = max(0.02, float(expected.detach().abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("kind", "lengths", "changes"),
    [
        *((kind, lengths, {}) for kind in (*FLAT, *PADDED) for lengths in LENGTHS.values()),
        *(("modernbert", lengths, {"classifier_pooling": "mean"}) for lengths in LENGTHS.values()),
        # Beyond the first buckets of the relative positions, in several groups.
        ("mpnet", [200, 7, 31, 64, 150, 16, 8], {"max_position_embeddings": 210}),
        ("xmod", LENGTHS["unequal"], {}),  # its blocks have the names of BERT's, and compute something else
    ],
)
def test_all_weights_equal_stock_padded_forward(
    kind: str, lengths: list[int], changes: dict[str, Any], tiny: TinyFactory
) -> None:
    """Logits, loss and, as every weight trains, the gradient of every weight."""
    folder = tiny(kind, **changes)
    run_model = build(run_config(folder, "full"), CPU, "fp32")
    run_model.encoder.eval()
    assert run_model.encoder.flat == (kind in FLAT_MODEL_TYPES)
    reference, batch = stock(run_model, folder), batch_of(lengths, kind)
    expected = stock_logits(reference, batch)
    expected_loss = torch.nn.functional.cross_entropy(expected, batch.labels)
    actual = run_model.encoder(batch)
    assert actual.dtype == torch.float32 and actual.shape == (len(lengths), 2)
    close(actual, expected)
    loss = losses_of(actual, batch.labels).mean()
    close(loss, expected_loss)
    wanted, found = gradients(reference, expected_loss), gradients(run_model.encoder.model, loss)
    assert wanted.keys() <= found.keys() and len(wanted) > 10
    for name, gradient in found.items():
        close(gradient, wanted.get(name, torch.zeros_like(gradient)))


NORMS = {"bert": "LayerNorm", "distilbert": "output_layer_norm", "roberta": "LayerNorm"}
SAVED: list[tuple[str, str, dict[str, Any]]] = [
    *((kind, "lora", {}) for kind in (*FLAT, *PADDED)),
    *((kind, "symlora", {}) for kind in (*FLAT, *PADDED) if kind != "modernbert"),
    # Flat, the last layer runs on first tokens alone: its adapters, which lie behind its output, must not notice.
    *((kind, "houlsby", {"bottleneck_size": 3}) for kind in NORMS),
    *((kind, "houlsby", {"bottleneck_size": 3, "modules_to_save": [norm]}) for kind, norm in NORMS.items()),
]


@pytest.mark.parametrize(("kind", "method", "fields"), SAVED)
def test_a_saved_adapter_is_plain_peft_with_the_same_gradients(
    kind: str, method: str, fields: dict[str, Any], tiny: TinyFactory, tmp_path: Path
) -> None:
    from peft import PeftModel

    config = run_config(tiny(kind), method)
    config.method.peft_config |= fields
    run_model = moved(build(config, CPU, "fp32"))
    run_model.save(tmp_path)
    base = CLASSIFIER.from_pretrained(tiny(kind), num_labels=2, attn_implementation="eager")
    reference: Any = PeftModel.from_pretrained(base, tmp_path, is_trainable=True).eval()
    batch = batch_of(LENGTHS["unequal"], kind)
    expected = stock_logits(reference, batch)
    wanted = gradients(reference, torch.nn.functional.cross_entropy(expected, batch.labels))
    actual = run_model.encoder(batch)
    close(actual, expected)
    found = gradients(run_model.peft, losses_of(actual, batch.labels).mean())
    assert found.keys() == wanted.keys() == {n for n, p in run_model.peft.named_parameters() if p.requires_grad}
    assert {name.split(".")[-2] for name in found} >= ({"symlora_Q", "symlora_diag"} if method == "symlora" else set())
    for name, gradient in found.items():
        assert float(wanted[name].norm()) > 1e-7, name
        close(gradient, wanted[name])
    if kind in PADDED:
        alone = f"{kind} runs on padded batches, so each of its runs trains alone"
        assert run_model.encoder.model.loaded["notes"] == [alone]
        assert {name.rsplit(".", 1)[-1] for name, _ in run_model.adapted_layers()} == {"query_proj", "value_proj"}


@pytest.mark.parametrize(
    ("kind", "heads"),
    {
        "albert": ["classifier", "pooler"], "bert": ["classifier", "pooler"], "camembert": ["classifier"],
        "deberta-v2": ["pooler", "classifier"], "distilbert": ["pre_classifier", "classifier"],
        "electra": ["classifier"], "modernbert": ["head", "classifier"], "mpnet": ["classifier"],
        "roberta": ["classifier"], "xlm-roberta": ["classifier"],
    }.items(),
)  # fmt: skip
def test_head_modules(kind: str, heads: list[str], tiny: TinyFactory) -> None:
    """And the head is of one size everywhere: dense layer, its bias (in ModernBERT a norm instead), output layer."""
    run_model = build(run_config(tiny(kind), "head"), CPU, "fp32")
    assert head_modules(run_model.encoder.model) == heads
    trained = run_model.counts()
    assert (trained.adapter, trained.encoder) == (0, 0)
    assert trained.head == 32 * 32 + 32 + 2 * 32 + 2


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_max_length_beyond_the_positions_is_refused(kind: str, tiny: TinyFactory) -> None:
    config = run_config(tiny(kind))
    most = 22 if kind == "roberta" else 24
    config.data.max_length = most
    assert build(config, CPU, "fp32").encoder.max_length == most
    config.data.max_length = most + 1
    with pytest.raises(SymloraError, match=f"max_length={most + 1}.*positions for {most}"):
        build(config, CPU, "fp32")


@relaxed
@given(lengths=st.lists(st.integers(1, 128), min_size=1, max_size=300), cost=st.floats(0, 1e6))
def test_groups_are_as_few_as_their_padding_is_cheap(lengths: list[int], cost: float) -> None:
    """No more groups than multiples of STEP, whatever the number of sentences; padding within each costs no more."""
    groups = grouped(np.array(lengths), cost)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert len(groups) <= -(-max(lengths) // STEP)
    for members in groups:
        rounded = -(-np.array(lengths)[members] // STEP) * STEP
        assert float((rounded.max() ** 2 - rounded**2).sum()) <= cost
    assert len(grouped(np.array(lengths), 1e12)) == 1


@relaxed
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    heads=st.integers(1, 3),
    extra=st.integers(0, 2),
    p=st.sampled_from([0.0, 0.3]),
    biased=st.booleans(),
)
@example(lengths=[60, 3, 53, 1, 60, 18], heads=2, extra=1, p=0.3, biased=True)  # in several groups
def test_attention_and_its_gradients_equal_a_sentence_at_a_time(
    lengths: list[int], heads: int, extra: int, p: float, biased: bool
) -> None:
    """With dropout, whose masks are drawn sentence by sentence here, a bias, and tokens of no sentence at the end."""
    generator, tokens = torch.Generator().manual_seed(0), sum(lengths)
    shape = (1, heads, tokens + extra, 4)
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]
    inputs += [torch.randn(heads, 64, 64, generator=generator, requires_grad=True)] if biased else []
    weights = torch.randn(1, shape[2], heads, 4, generator=generator)
    keys = torch.randint(1 << 60, (shape[2],), generator=generator)
    module = torch.nn.Module()
    module.dropout = Dropout(p, Masks(), site=5)
    layout = FlatLayout.of(torch.tensor(lengths), heads, shape[2], CPU, Masks().of_heads(keys, heads))
    (q, k, v), bias = inputs[:3], inputs[3] if biased else None
    out, _ = flat_attention(module, q, k, v, None, scaling=0.7, dropout=p, flat_layout=layout, bias=bias)
    grads = torch.autograd.grad((out * weights).sum(), inputs)
    parts = []
    own = [torch.split(t[:, :, :tokens], lengths, 2) for t in (q, k, v)]
    for q, k, v, part in zip(*own, torch.split(keys[:tokens], lengths), strict=True):
        masks = Masks()
        masks.draw_for(part[None], part[:1])
        added = 0.0 if bias is None else bias[:, : len(part), : len(part)]
        parts.append((Dropout(p, masks, site=5)(torch.softmax(0.7 * q @ k.mT + added, -1)) @ v).transpose(1, 2))
    expected = torch.cat([*parts, torch.zeros(1, extra, heads, 4)], dim=1)
    close(out, expected)
    for found, wanted in zip(grads, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        close(found, wanted)


def test_flat_attention_without_layout_or_with_a_mask_raises() -> None:
    x = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="flat_layout"):
        flat_attention(torch.nn.Module(), x, x, x, None)
    layout = FlatLayout.of(torch.tensor([3]), 2, 3, CPU)
    with pytest.raises(ValueError, match="attention_mask"):
        flat_attention(torch.nn.Module(), x, x, x, torch.zeros(3), flat_layout=layout)
    with pytest.raises(ValueError, match="use_own_dropout"):
        flat_attention(torch.nn.Module(), x, x, x, None, dropout=0.1, flat_layout=layout)


@pytest.mark.parametrize("method", ["symlora", "lora"])
def test_bf16_follows_fp32_on_a_real_encoder(method: str, minilm_dir: Path) -> None:
    from transformers import AutoTokenizer

    sentences = demo_split("cola", "train", 6)["sentence"]
    rows: list[list[int]] = AutoTokenizer.from_pretrained(minilm_dir)(sentences)["input_ids"]
    ids = np.concatenate([np.array(row, np.uint16) for row in rows])
    batch = gather(replace(made_up([len(row) for row in rows]), input_ids=ids), np.arange(len(rows)))
    logits: dict[str, Tensor] = {}
    grads: dict[str, dict[str, Tensor]] = {}
    for precision in ("fp32", "bf16"):
        config = run_config(minilm_dir, method)
        run_model = build(config, CPU, precision)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for name, value in run_model.trainable():
                if "lora_" in name and "lambda" not in name:
                    value.add_(0.02 * torch.randn(value.shape, generator=generator))
        run_model.encoder.eval()
        assert run_model.encoder.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
        out = run_model.encoder(batch)
        assert out.dtype == torch.float32
        logits[precision] = out.detach()
        grads[precision] = gradients(run_model.encoder, losses_of(out, batch.labels).mean())
    assert float((logits["bf16"] - logits["fp32"]).abs().max()) < 0.02 < float(logits["fp32"].abs().max())
    kinds = {"symlora": ("symlora_Q", "symlora_diag", "symlora_lambda"), "lora": ("lora_A", "lora_B")}[method]
    for kind in (*kinds, "classifier", "pooler"):
        found, wanted = (
            torch.cat([g.flatten() for name, g in grads[p].items() if kind in name]) for p in ("bf16", "fp32")
        )
        assert float(torch.cosine_similarity(found, wanted, dim=0)) > 0.999, kind


def training_logits(run: RunModel, step: int, seed: int = 0) -> Tensor:
    """Logits of a training pass, whatever torch's generator has drawn before."""
    torch.manual_seed(seed)
    run.encoder.train()
    run.encoder.masks.steps = (step,)
    logits: Tensor = run.encoder(batch_of(LENGTHS["unequal"], ""))
    return logits


@torch.no_grad()
def test_dropout_that_a_model_draws_itself_follows_seed_and_step(tiny: TinyFactory) -> None:
    run = build(run_config(tiny("roberta-prelayernorm"), "head", model_dropout=0.1), CPU, "fp32")
    first, again, other = training_logits(run, 5), training_logits(run, 5, seed=1), training_logits(run, 6)
    assert torch.equal(first, again) and not torch.allclose(first, other)
    before = torch.get_rng_state()
    run.encoder(batch_of(LENGTHS["unequal"], ""))
    assert torch.equal(before, torch.get_rng_state())


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("longformer", {"attention_window": [4, 4], "attention_probs_dropout_prob": 1}), ("xlm", {"emb_dim": 32})],
)
def test_no_dropout_is_none_in_numbers_too(kind: str, shape: dict[str, Any], tiny: TinyFactory) -> None:
    run = build(run_config(tiny(kind, **shape), "head", model_dropout=0.0), CPU, "fp32")
    trained = training_logits(run, 5)
    torch.testing.assert_close(trained, run.encoder.eval()(batch_of(LENGTHS["unequal"], "")))
