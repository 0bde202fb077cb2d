"""The adapted projections in bfloat16 against the methods' own layers in float64, for one run and for packs."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from layers import CONFIGS, layer_of
from peft import LoraConfig
from torch import Tensor, nn

from symlora.model.dropout import Masks
from symlora.model.grouped import RunRows
from symlora.model.projection import fits, projected, use_projection

N, RANK = 48, 8
METHODS: dict[str, Any] = {
    "lora": lambda: LoraConfig(r=RANK, lora_alpha=24, init_lora_weights=False),
    "symlora": lambda: CONFIGS["symlora"](r=RANK, alpha=24, init_weights=False),
    "without λ": lambda: CONFIGS["symlora"](r=RANK, alpha=24, init_weights=False, train_lambda=False),
}


def layers_of(method: str, runs: int) -> list[Any]:
    """Layers of several runs on one bfloat16 weight, with float32 adapters away from their start."""
    layers: list[Any] = [layer_of(METHODS[method](), N, N, torch.bfloat16, seed) for seed in range(runs)]
    for layer in layers:
        layer.base_layer = layers[0].get_base_layer().requires_grad_(False)
    return layers


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert float((found.double() - wanted).norm() / wanted.norm()) < tolerance


@pytest.fixture(params=[True, False], ids=["kernel", "padded"])
def grouped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With grouped_mm, and as on GPUs without its kernel."""
    monkeypatch.setattr("symlora.model.grouped.has_kernel", lambda device: request.param)
    RunRows.of.cache_clear()
    yield
    RunRows.of.cache_clear()


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("counts", [(37,), (20, 3, 64), (1, 8)])
@pytest.mark.parametrize("method", METHODS)
def test_output_and_gradients_are_the_methods_own(method: str, counts: tuple[int, ...]) -> None:
    """Within bfloat16's rounding of what each layer computes in float64 from the same numbers."""
    layers, masks = layers_of(method, len(counts)), Masks()
    masks.begin(counts, counts)
    generator = torch.Generator().manual_seed(1)
    x, weights = (torch.randn(1, sum(counts), N, generator=generator).bfloat16() for _ in range(2))
    x.requires_grad_()
    assert fits(layers[0], len(layers))
    y = projected(layers, x, masks)
    y.backward(weights)  # type: ignore[no-untyped-call]
    assert y.dtype == torch.bfloat16 and x.grad is not None
    parts = [torch.split(t, list(counts), 1) for t in (x, y, x.grad, weights)]
    for layer, rows, out, d_x, own in zip(layers, *parts, strict=True):
        exact = copy.deepcopy(layer).double()
        exact.zero_grad()
        rows = rows.detach().double().requires_grad_()
        wanted = type(exact).forward(exact, rows)
        wanted.backward(own.double())
        close(out, wanted, 5e-3)
        close(d_x, rows.grad, 8e-3)
        names = {name: value for name, value in exact.named_parameters() if value.requires_grad}
        assert len(names) == {"lora": 2, "symlora": 3, "without λ": 2}[method]
        for name, value in names.items():
            close(layer.get_parameter(name).grad, value.grad, 2e-2)


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_a_factor_that_is_not_finite_stays_in_its_run(method: str, value: float) -> None:
    layers, masks, counts = layers_of(method, 3), Masks(), (20, 3, 64)
    masks.begin(counts, counts)
    with torch.no_grad():
        for parameter in layers[1].parameters():
            if parameter.requires_grad:
                parameter.fill_(value)
    x = torch.randn(1, sum(counts), N, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    y = projected(layers, x, masks)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    for found in (y, x.grad):
        assert [bool(part.isfinite().all()) for part in torch.split(found, list(counts), 1)] == [True, False, True]


def test_lambda_moves_the_output_in_steps_below_bfloat16() -> None:
    """λ = 1 and 1 + 2^-12 round to one bfloat16; the output must follow λ all the same, on the average."""
    (layer,) = layers_of("symlora", 1)
    x, found = torch.randn(1, 4096, N, generator=torch.Generator().manual_seed(0)).bfloat16(), []
    with torch.no_grad():
        for lam in (1.0, 1.0 + 2**-12):
            layer.symlora_lambda["default"].fill_(lam)
            found.append(projected([layer], x, Masks()).double())
        base = nn.functional.linear(x, layer.base_layer.weight).double()
    assert float(((found[1] - found[0]) * base).sum() / base.square().sum()) == pytest.approx(2**-12, rel=0.25)


def test_one_run_alone_uses_it_until_it_is_merged_or_dropped() -> None:
    (layer,), x = layers_of("symlora", 1), torch.randn(1, 5, N).bfloat16()
    own = layer(x)
    use_projection(torch.nn.ModuleList([layer]), Masks())
    assert fits(layer) and torch.equal(layer(x), projected([layer], x, Masks()))
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        copied.symlora_Q["default"].zero_()
    assert not torch.equal(copied(x), layer(x)) and torch.equal(layer(x), projected([layer], x, Masks()))
    layer.enable_adapters(False)
    assert not fits(layer) and torch.equal(layer(x), layer.base_layer(x))
    layer.enable_adapters(True)
    layer.merge()
    assert not fits(layer)
    torch.testing.assert_close(layer(x), own, rtol=0.05, atol=0.05)


def test_what_it_does_not_compute_is_left_to_the_layers() -> None:
    assert not fits(layer_of(METHODS["symlora"](), N, N, torch.float32))
    assert not fits(layer_of(LoraConfig(r=RANK, use_dora=True), N, N, torch.bfloat16))
    assert not fits(layer_of(CONFIGS["loraxs"](r=RANK), N, N, torch.bfloat16))
    # Its start is subtracted.
    assert not fits(layer_of(CONFIGS["symlora"](r=RANK, init_weights="eigen_largest"), N, N, torch.bfloat16))
    with_bias = layer_of(METHODS["lora"](), N, N, torch.bfloat16)
    with_bias.get_base_layer().bias.requires_grad_(True)  # bias="lora_only"
    assert not fits(with_bias)
    four = layer_of(LoraConfig(r=4), N, N, torch.bfloat16)
    assert not fits(four, 2) and fits(four)
