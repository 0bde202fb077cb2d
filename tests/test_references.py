"""PEFT's LoRA, DoRA and RandLoRA, as this harness configures them, against the papers' formulas written out in torch.

Nothing here calls PEFT's arithmetic: only its parameters are read. Forward and every gradient, in float64.
"""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from peft.utils.peft_types import PeftType
from torch import Tensor, nn

from symlora.model.catalog import load

N_IN, N_OUT, R, ROWS = 12, 20, 4, 5


def adapted(method: str, n_in: int, n_out: int, **changed: Any) -> tuple[Any, dict[str, Tensor]]:
    """A layer with the adapter of configs/method/<method>.yaml on it, away from its start, and what it trains."""
    (settings,) = load([method])
    arguments = {**settings.peft_config, "r": R, "target_modules": ["linear"], **changed}
    torch.manual_seed(0)
    model: Any = nn.Sequential()
    model.add_module("linear", nn.Linear(n_in, n_out))
    config: Any = peft.PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(settings.peft_type)]
    peft.get_peft_model(model, config(**arguments)).double()
    layer = model.linear
    with torch.no_grad():
        for value in layer.parameters():
            if value.requires_grad:
                value.add_(0.5 * torch.randn_like(value))
    trained = {name: value for name, value in layer.named_parameters() if value.requires_grad}
    return layer, trained


def agree(layer: nn.Module, trained: dict[str, Tensor], reference: Callable[..., Tensor], n_in: int) -> None:
    """The layer's output and gradients are the reference's, which takes x and the trained tensors by their names."""
    x = torch.randn(ROWS, n_in, dtype=torch.float64, requires_grad=True)
    copies = {name: value.detach().clone().requires_grad_() for name, value in trained.items()}
    again = x.detach().clone().requires_grad_()
    out, wanted = layer(x), reference(again, copies)
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(out)
    torch.autograd.backward([out, wanted], [weights, weights])
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-9, atol=1e-11)
    for name, value in trained.items():
        assert value.grad is not None and float(value.grad.norm()) > 0, name
        torch.testing.assert_close(value.grad, copies[name].grad, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize(("method", "scale"), [("lora", 8 / R), ("rslora", 8 / R**0.5)])
def test_lora(method: str, scale: float) -> None:
    """h = W0 x + b + (α/r) B A x (arXiv 2106.09685, equation 3); rsLoRA divides by √r (arXiv 2312.03732, section 3)."""
    layer, trained = adapted(method, N_IN, N_OUT, lora_alpha=8)
    W0, b = layer.base_layer.weight, layer.base_layer.bias

    def reference(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        A, B = p["lora_A.default.weight"], p["lora_B.default.weight"]
        assert A.shape == (R, N_IN) and B.shape == (N_OUT, R)
        return torch.stack([W0 @ row + b + scale * (B @ (A @ row)) for row in x])

    agree(layer, trained, reference, N_IN)


def test_dora() -> None:
    """W' = m (W0 + B A) / ‖W0 + B A‖, the norm held constant in the gradient (arXiv 2402.09353, equations 5 and 11).

    The paper's columns are the rows of torch's weight (one norm for each output), as in its authors' code.
    """
    layer, trained = adapted("dora", N_IN, N_OUT, lora_alpha=2 * R)
    W0, b = layer.base_layer.weight, layer.base_layer.bias

    def reference(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        A, B = p["lora_A.default.weight"], p["lora_B.default.weight"]
        m = p["lora_magnitude_vector.default.weight"]
        assert m.shape == (N_OUT,)
        V = W0 + 2.0 * B @ A
        norm = V.detach().square().sum(1).sqrt()
        out: Tensor = x @ ((m / norm)[:, None] * V).T + b
        return out

    agree(layer, trained, reference, N_IN)


@pytest.mark.parametrize(("n_in", "n_out"), [(N_IN, N_OUT), (N_OUT, N_IN), (N_IN, N_IN), (N_IN + 1, N_OUT)])
def test_randlora(n_in: int, n_out: int) -> None:
    """ΔW = Σ_j B_j Λ_j A_j Γ_j over ⌈min(n_in, n_out) / r⌉ bases (arXiv 2502.00987, equation 4), times α/r.

    Λ_j (r) and Γ_j (the shorter side) are the diagonals that train; A_j (r × shorter side) is one A for all j, and B_j
    (longer side × r) differs. Where the output is the shorter side, the sum is the transpose's.

    PEFT keeps the B_j as (long, bases, r) and then reads the same numbers as (long, r, bases). That decides which
    random column belongs to which basis, and no more: all are drawn alike.
    """
    layer, trained = adapted("randlora", n_in, n_out, randlora_alpha=3 * R)
    W0, b = layer.base_layer.weight, layer.base_layer.bias
    short, long = min(n_in, n_out), max(n_in, n_out)
    A, B = layer.randlora_A["default"], layer.randlora_B["default"]  # (r, 1, short), (long, bases, r)
    B = B.flatten(1).unflatten(1, (R, -1))

    def reference(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        diagonal, gamma = p["randlora_lambda.default"], p["randlora_gamma.default"]
        bases = -(-short // R)
        assert diagonal.shape == (R, bases) and gamma.shape == (bases, short)
        delta = torch.zeros(long, short, dtype=torch.float64)
        for j in range(bases):
            delta = delta + B[:, :, j] @ torch.diag(diagonal[:, j]) @ A[:, 0, :short] @ torch.diag(gamma[j])
        out: Tensor = x @ (W0 + 3.0 * (delta if short == n_in else delta.T)).T + b
        return out

    agree(layer, trained, reference, n_in)
    rank = int(torch.linalg.matrix_rank(layer.get_delta_weight("default")))
    assert rank == short, "RandLoRA is full rank (section 4)"
