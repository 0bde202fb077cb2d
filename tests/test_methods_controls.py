"""What sets SymLoRA's controls and the symmetric full-rank ΔW apart."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from layers import inputs, layer_of, model_of
from peft import LoraConfig
from torch import Tensor

from symlora.adapters.symlora import SymLoraConfig
from symlora.adapters.symlora_orthonormal import SymLoraOrthonormalConfig, orthonormal_columns
from symlora.adapters.symmetric import SymmetricConfig, triangle_places

N, R = 6, 3
F32 = torch.float32


def is_orthogonal(Q: Tensor, init_std: float, tolerance: float = 1e-5) -> None:
    gram = Q.detach().double().T @ Q.detach().double() / (init_std**2 * len(Q))
    torch.testing.assert_close(gram, torch.eye(Q.shape[1], dtype=gram.dtype), rtol=0, atol=tolerance)


def test_q_starts_orthogonal_and_stays_so_in_place() -> None:
    wrapped = model_of(SymLoraOrthonormalConfig(r=R, alpha=5, init_std=0.3), N, N, dtype=F32)
    Q = wrapped.base_model.model[0].symlora_Q["default"]
    is_orthogonal(Q, 0.3)
    before, place = Q.detach().clone(), Q.data_ptr()
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.05)
    for step in range(1, 4):
        optimizer.zero_grad()
        wrapped(inputs(N, dtype=F32)).square().sum().backward()
        optimizer.step()
        free = Q.detach().clone()
        wrapped.base_model.after_step(step, 3, optimizer)
        if step == 3:
            with pytest.raises(AssertionError):
                is_orthogonal(free, 0.3)
        is_orthogonal(Q, 0.3)
    assert Q.data_ptr() == place and not torch.allclose(Q, before, atol=1e-2)


def test_retraction_is_qr_with_a_positive_diagonal() -> None:
    """Against Q = M L⁻ᵀ, L from Cholesky's MᵀM = L Lᵀ, which is that factor without any QR."""
    M = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lower = scipy.linalg.cholesky((M.T @ M).numpy(), lower=True)
    wanted = scipy.linalg.solve_triangular(lower, M.T.numpy(), lower=True).T
    np.testing.assert_allclose(orthonormal_columns(M).numpy(), wanted, atol=1e-12)
    fixed = torch.from_numpy(wanted)
    torch.testing.assert_close(orthonormal_columns(fixed), fixed)  # what is orthonormal stays where it is
    M[0, 0] = float("nan")
    assert orthonormal_columns(M).isnan().any()  # and does not stop the other runs


@pytest.mark.parametrize(("kind", "tolerance"), [("orthonormal", 1e-3), ("symlora", 0.1), ("lora", 0.1)])
def test_first_adamw_step_changes_the_weight_as_the_docstrings_say(kind: str, tolerance: float) -> None:
    """‖ΔW‖ after it: lr · n · init_std² · √r for SymLoRA, with orthonormal Q exactly; lr · √(n r / 3) for LoRA."""
    n, r, lr = 384, 8, 1e-3
    config: Any = {"orthonormal": SymLoraOrthonormalConfig, "symlora": SymLoraConfig, "lora": LoraConfig}[kind](r=r)
    wrapped = model_of(config, n, n, dtype=F32)
    layer = wrapped.base_model.model[0]
    trained = [p for name, p in wrapped.named_parameters() if p.requires_grad and "lambda" not in name]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    (wrapped(inputs(n, 64, F32)) * torch.randn(64, n)).sum().backward()
    optimizer.step()
    if kind == "orthonormal":
        wrapped.base_model.after_step(1, 1, optimizer)
    wanted = lr * math.sqrt(n * r / 3) if kind == "lora" else lr * n * 0.25 * math.sqrt(r)
    assert float(layer.get_delta_weight("default").detach().norm()) == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize("config", [SymLoraConfig, SymLoraOrthonormalConfig])
@pytest.mark.parametrize("kind", ["eigen_largest", "eigen_smallest"])
def test_an_eigen_start_takes_its_part_off_again_and_leaves_w0(kind: str, config: Any) -> None:
    """What it takes are eigenvalues of the symmetric part, in columns as long as any start's; then it trains."""
    model = model_of(config(r=R, alpha=5, init_std=0.3, init_weights=kind), N, N)
    layer = model.base_model.model[0]
    W0 = layer.base_layer.weight.detach().clone()
    torch.testing.assert_close(model(inputs(N)), layer.base_layer(inputs(N)), rtol=0, atol=1e-14)
    Q, diag = layer.symlora_Q["default"].detach(), layer.symlora_diag["default"].detach()
    is_orthogonal(Q, 0.3)
    values = np.linalg.eigvalsh((W0 + W0.T).numpy() / 2)
    falling = values[np.argsort(-np.abs(values))]
    wanted = falling[:R] if kind == "eigen_largest" else falling[-R:]
    part = (5 / R * Q @ torch.diag(diag) @ Q.T).numpy()
    found = np.linalg.eigvalsh(part)
    np.testing.assert_allclose(np.sort(found[np.argsort(-np.abs(found))][:R]), np.sort(wanted), atol=1e-12)
    rest = np.linalg.eigvalsh((W0 + W0.T).numpy() / 2 - part)
    np.testing.assert_allclose(np.sort(rest), np.sort([*(set(falling) - set(wanted)), *[0] * R]), atol=1e-12)
    model(inputs(N)).square().sum().backward()
    assert all(layer.get_parameter(f"symlora_{name}.default").grad.abs().min() > 0 for name in ("Q", "diag"))
    assert torch.equal(layer.base_layer.weight, W0)


def test_symmetric_trains_after_it_was_first_used_without_gradients() -> None:
    triangle_places.cache_clear()
    layer = layer_of(SymmetricConfig(init_weights=False), N, N)
    with torch.inference_mode():
        layer(inputs(N))
    layer(inputs(N)).sum().backward()
    assert layer.symmetric_upper["default"].grad.abs().max() > 0
