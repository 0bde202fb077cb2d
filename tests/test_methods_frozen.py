"""Methods with frozen factors (Asymmetric LoRA, LoRA-XS, EDoRA) against formulas, numpy's SVD and PEFT's DoRA."""

from typing import Any

import numpy as np
import pytest
import torch
from layers import N_IN, N_OUT, R, inputs, layer_of, model_of
from peft import LoraConfig
from torch import Tensor, nn

from symlora.adapters import AsymLoraConfig, EdoraConfig, EdoraLinear, LoraXsConfig

FACTORS = {"A": (R, N_IN), "B": (N_OUT, R)}
FIELDS: dict[str, Any] = {"r": R, "alpha": 5}


def value(layer: Any, name: str) -> Tensor:
    found: Tensor = getattr(layer, name)["default"]
    return found


@pytest.mark.parametrize("frozen_init", ["orthonormal", "svd"])
@pytest.mark.parametrize("freeze", ["A", "B"])
def test_the_named_factor_is_frozen_and_orthonormal_and_the_other_trains(freeze: str, frozen_init: str) -> None:
    """AsymmetryLoRA transposes columns of Vᵀ, which are no singular vectors; ours are numpy's, up to their signs."""
    wrapped = model_of(AsymLoraConfig(freeze=freeze, frozen_init=frozen_init, **FIELDS))
    layer, other = wrapped.base_model.model[0], "AB".replace(freeze, "")
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == [f"asymlora_{other}.default"]
    frozen, trained = value(layer, f"asymlora_frozen_{freeze}"), value(layer, f"asymlora_{other}")
    assert frozen.shape == FACTORS[freeze] and trained.shape == FACTORS[other] and not trained.any()
    gram = frozen @ frozen.T if freeze == "A" else frozen.T @ frozen
    torch.testing.assert_close(gram, torch.eye(R, dtype=gram.dtype), rtol=0, atol=1e-6)
    if frozen_init == "svd":
        U, _, Vh = np.linalg.svd(layer.base_layer.weight.detach().numpy())
        np.testing.assert_allclose(np.abs(frozen), np.abs(Vh[:R] if freeze == "A" else U[:, :R]), atol=1e-10)
    before = frozen.clone()
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    wrapped(inputs()).square().sum().backward()
    optimizer.step()
    assert torch.equal(value(layer, f"asymlora_frozen_{freeze}"), before) and trained.abs().min() > 0


@pytest.mark.parametrize("config", [LoraXsConfig, EdoraConfig])
def test_frozen_factors_are_the_best_approximation_of_the_weight(config: Any) -> None:
    layer, method = layer_of(config(**FIELDS)), config.method
    A, B = value(layer, f"{method}_A").numpy(), value(layer, f"{method}_B").numpy()
    U, sigma, Vh = np.linalg.svd(layer.base_layer.weight.detach().numpy(), full_matrices=False)
    np.testing.assert_allclose(B @ A, U[:, :R] * sigma[:R] @ Vh[:R], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(A, axis=1), sigma[:R])  # Σ is in A, as in the authors' code
    np.testing.assert_allclose(B.T @ B, np.eye(R), atol=1e-12)


def test_step_0_of_loraxs_is_as_near_as_the_docstring_says() -> None:
    layer = layer_of(LoraXsConfig(**FIELDS))
    sigma = torch.linalg.matrix_norm(layer.base_layer.weight, 2).item()
    off = torch.linalg.matrix_norm(layer.get_delta_weight("default"), 2).item()
    assert 0 < off <= 5 / R * 1e-5 * 2 * R**0.5 * sigma
    exact = layer_of(LoraXsConfig(init_std=0.0, **FIELDS))
    assert torch.equal(exact(inputs()), exact.base_layer(inputs()))
    exact(inputs()).square().sum().backward()
    assert value(exact, "loraxs_R").grad.abs().min() > 0  # type: ignore[union-attr]  # and R moves from 0


def test_edora_equals_pefts_dora_of_the_same_factors() -> None:
    """Forward and gradients: DoRA with lora_A = R A, lora_B = B and the same magnitude; dR = d(lora_A) Aᵀ."""
    layer = layer_of(EdoraConfig(init_weights=False, **FIELDS))
    with torch.no_grad():
        value(layer, "edora_m").mul_(torch.linspace(0.5, 1.5, N_OUT))
    A, R_, B, m = (value(layer, f"edora_{name}") for name in "ARBm")
    dora = layer_of(LoraConfig(r=R, lora_alpha=5, use_dora=True))
    with torch.no_grad():
        dora.lora_A["default"].weight.copy_(R_ @ A)
        dora.lora_B["default"].weight.copy_(B)
        dora.lora_magnitude_vector["default"].weight.copy_(m)
    torch.testing.assert_close(dora.base_layer.weight, layer.base_layer.weight)
    ours, theirs = layer(inputs()), dora(inputs())
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(m.grad, dora.lora_magnitude_vector["default"].weight.grad)
    torch.testing.assert_close(R_.grad, dora.lora_A["default"].weight.grad @ A.T)


def test_a_row_of_zeros_makes_no_nan() -> None:
    """A pruned weight has such rows, and 0 / 0 would be one."""
    linear = nn.Linear(N_IN, N_OUT).double()
    with torch.no_grad():
        linear.weight[2] = 0
    layer = EdoraLinear(linear, "default", EdoraConfig(init_std=0.0, **FIELDS), "0")
    out = layer(inputs())
    out.square().sum().backward()
    assert out.isfinite().all() and all(
        p.grad is not None and p.grad.isfinite().all() for p in layer.parameters() if p.requires_grad
    )
    assert layer.get_delta_weight("default")[2].abs().max() == 0


def test_a_start_from_a_bfloat16_weight_is_not_rounded_to_bfloat16() -> None:
    layer = layer_of(EdoraConfig(**FIELDS), dtype=torch.bfloat16)
    weight = layer.base_layer.weight.float()
    assert value(layer, "edora_m").dtype == value(layer, "edora_A").dtype == torch.float32
    torch.testing.assert_close(value(layer, "edora_m").detach(), torch.linalg.norm(weight, dim=1), rtol=1e-6, atol=0)
    frozen = value(layer_of(AsymLoraConfig(**FIELDS), dtype=torch.bfloat16), "asymlora_frozen_A")
    torch.testing.assert_close(frozen @ frozen.T, torch.eye(R), rtol=0, atol=1e-6)
    narrow = layer_of(EdoraConfig(**FIELDS), dtype=torch.bfloat16, autocast_adapter_dtype=False)
    assert {value(narrow, f"edora_{name}").dtype for name in "ARBm"} == {torch.bfloat16}
    assert narrow(inputs(dtype=torch.bfloat16)).isfinite().all()
