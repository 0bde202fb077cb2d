"""Each method of our own (LoRTA: test_methods_structured.py) in closed form; frozen factors against numpy's SVD."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from layers import CONFIGS, N_IN, N_OUT, SQUARE, R, containers, inputs, layer_of, model_of
from peft import LoraConfig, convert_to_lora, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn

from symlora.adapters import AsymLoraConfig, EdoraConfig, EdoraLinear, LoraXsConfig
from symlora.adapters.factors import BaseScaleLayer, FactorLayer, kaiming
from symlora.adapters.symlora import SymLoraConfig

S = 5 / R  # α/r
FACTORS = {"A": (R, N_IN), "B": (N_OUT, R)}
FIELDS: dict[str, Any] = {"r": R, "alpha": 5}
Parts = dict[str, Tensor]


def symmetric(upper: Tensor, n: int) -> Tensor:
    U = torch.zeros(n, n, dtype=upper.dtype)
    rows, columns = torch.triu_indices(n, n)
    U[rows, columns] = upper
    return U + U.T - torch.diag(torch.diag(U))


def dora(W: Tensor, p: Parts) -> Tensor:
    D = W + S * torch.einsum("ob,br,ri->oi", p["edora_B"], p["edora_R"], p["edora_A"])
    return torch.diag(p["edora_m"] / D.square().sum(1).sqrt()) @ D - W


def mini(p: Parts) -> Tensor:
    delta = torch.zeros(8, 16, dtype=torch.float64)
    for i, (A, B) in enumerate(zip(p["melora_A"], p["melora_B"], strict=True)):
        delta[2 * i : 2 * i + 2, 4 * i : 4 * i + 4] = 5 / 2 * torch.einsum("or,ri->oi", B, A)
    return delta


def scaled_symmetric(W: Tensor, p: Parts) -> Tensor:
    Q, diag, lam = p.values()
    return (lam - 1) * W + S * torch.einsum("or,r,ir->oi", Q, diag, Q)


def without_its_start(W: Tensor, p: Parts) -> Tensor:
    Q, diag = p["symlora_start_Q"], p["symlora_start_diag"]
    return scaled_symmetric(W, {k: v for k, v in p.items() if "start" not in k}) - S * torch.einsum(
        "or,r,ir->oi", Q, diag, Q
    )


# Configuration besides r = 3 and α = 5, and ΔW from W0 and the containers' values, all of them random.
FORMULAS: dict[str, tuple[dict[str, Any], Callable[[Tensor, Parts], Tensor]]] = {
    "asymlora": ({}, lambda W, p: S * p["asymlora_B"] @ p["asymlora_frozen_A"]),
    "asymlora freeze B": ({"freeze": "B"}, lambda W, p: S * p["asymlora_frozen_B"] @ p["asymlora_A"]),
    "asymlora svd": ({"frozen_init": "svd"}, lambda W, p: S * p["asymlora_B"] @ p["asymlora_frozen_A"]),
    "dylora": ({}, lambda W, p: S * torch.einsum("or,r,ri->oi", p["dylora_B"], p["dylora_rows"], p["dylora_A"])),
    "edora": ({}, dora),
    "lora2": (
        {"inner_width": 4},
        lambda W, p: (
            S * torch.einsum("ki,rk,r,mr,om->oi", *(p[f"lora2_{name}"] for name in ("A", "B", "E", "aa", "bb")))
        ),
    ),
    "loralambda": ({}, lambda W, p: (p["loralambda_lambda"] - 1) * W + S * p["loralambda_B"] @ p["loralambda_A"]),
    "loramini": (
        {"a_width": 5, "b_width": 6},
        lambda W, p: (
            S * torch.einsum("ob,br,ra,ai->oi", *(p[f"loramini_{n}"] for n in ("B_aux", "B_train", "A_train", "A_aux")))
        ),
    ),
    "loraxs": ({}, lambda W, p: S * torch.einsum("ob,br,ri->oi", p["loraxs_B"], p["loraxs_R"], p["loraxs_A"])),
    "melora": ({"r": 2, "num_mini_loras": 4}, lambda W, p: mini(p)),  # on 8 x 16
    # The layer's own rank, and not the field r.
    "prilora": ({"r": 4, "rank_pattern": {"0": 3}}, lambda W, p: S * p["prilora_B"] @ p["prilora_A"]),
    "sara": (
        {"r": 2, "rank_pattern": {"0": 3}},
        lambda W, p: S * torch.einsum("or,r,ri->oi", p["sara_B"], p["sara_diag"], p["sara_A"]),
    ),
    "singlora": ({}, lambda W, p: S * p["singlora_ramp"] * p["singlora_A"][:N_OUT] @ p["singlora_A"][:N_IN].T),
    "symlora": ({}, scaled_symmetric),
    "symlora from eigenvectors": ({"init_weights": "eigen_smallest"}, without_its_start),
    "symlora without λ": (
        {"train_lambda": False},
        lambda W, p: S * torch.einsum("or,r,ir->oi", p["symlora_Q"], p["symlora_diag"], p["symlora_Q"]),
    ),
    "symloraorthonormal": ({}, scaled_symmetric),
    "symmetric": ({}, lambda W, p: symmetric(p["symmetric_upper"], N_IN)),
    "xgblora": (
        {"boosters": 3},
        lambda W, p: S * (p["xgblora_merged_B"] @ p["xgblora_merged_A"] + p["xgblora_B"] @ p["xgblora_A"]),
    ),
}
NO_MATRIX = {"houlsby", "lorand"}  # not linear in x


def configuration(case: str) -> Any:
    method, fields = case.split()[0], FORMULAS[case][0]
    known = CONFIGS[method].__dataclass_fields__
    return CONFIGS[method](**{key: value for key, value in {"r": R, "alpha": 5, **fields}.items() if key in known})


def fill(layer: Any, adapter: str = "default") -> Parts:
    """Random values in all containers, which are returned."""
    with torch.no_grad():
        for value in containers(layer, adapter).values():
            value.add_(torch.randn(value.shape, dtype=value.dtype))
    return {name: value.detach() for name, value in containers(layer, adapter).items()}


def layer(case: str, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    method = case.split()[0]
    shape = (16, 8) if method == "melora" else (N_IN, N_IN) if method in SQUARE else (N_IN, N_OUT)
    made = layer_of(configuration(case), *shape, dtype=dtype, **options)
    fill(made)
    return made


def test_every_method_of_our_own_is_in_the_table() -> None:
    assert {case.split()[0] for case in FORMULAS} == CONFIGS.keys() - NO_MATRIX - {"lorta"}


@pytest.mark.parametrize("case", FORMULAS)
def test_output_and_merged_weight_are_the_formula(case: str) -> None:
    """Of one adapter, and of two, whose changes add; with a bias and without."""
    made = layer(case)
    made.update_layer("second", configuration(case), "0")
    made.double()
    W, bias = made.base_layer.weight.detach().clone(), made.base_layer.bias.detach()
    x, names = inputs(W.shape[1]), ["default", "second"]
    deltas = [FORMULAS[case][1](W, fill(made, name)) for name in names]
    assert all(delta.shape == W.shape and delta.abs().max() > 0.1 for delta in deltas) and bias.abs().min() > 0
    for name, delta in zip(names, deltas, strict=True):
        made.set_adapter(name)
        torch.testing.assert_close(made.get_delta_weight(name).detach(), delta, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(made(x).detach(), x @ (W + delta).T + bias, rtol=1e-12, atol=1e-12)
    made.set_adapter(names)
    torch.testing.assert_close(made(x).detach(), x @ (W + sum(deltas)).T + bias, rtol=1e-12, atol=1e-12)
    made.base_layer.bias = None
    torch.testing.assert_close(made(x).detach(), x @ (W + sum(deltas)).T, rtol=1e-12, atol=1e-12)
    made.merge()
    torch.testing.assert_close(made.base_layer.weight.detach(), W + sum(deltas), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.get_delta_weight("second").detach(), deltas[1])  # also while it is merged


WITH_W0 = ("edora", "loralambda", "symlora", "symloraorthonormal")  # a change with a share of W0 in it has full rank


@pytest.mark.parametrize("case", FORMULAS)
def test_pefts_own_conversion_to_lora_is_the_same_function_or_refused(case: str) -> None:
    shape = layer(case).base_layer.weight.shape
    model = model_of(configuration(case), shape[1], shape[0], dtype=torch.float32)
    fill(model.base_model.model[0])
    if case.split()[0] in WITH_W0 and case != "symlora without λ":
        with pytest.raises(TypeError, match="do not support LoRA conversion"):
            convert_to_lora(model, 2)
        return
    x = inputs(shape[1], dtype=torch.float32)
    wanted = model(x)
    config, tensors = convert_to_lora(model, min(shape))
    lora = get_peft_model(model.unload(), config)
    set_peft_model_state_dict(lora, tensors)
    torch.testing.assert_close(lora(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", FORMULAS)
def test_the_merged_weight_is_computed_in_float32_at_least(case: str) -> None:
    """Also from bfloat16 factors: against the formula in float64 of the same values."""
    made = layer(case, torch.bfloat16, autocast_adapter_dtype=False)
    parts = fill(made)
    assert {value.dtype for value in parts.values()} == {torch.bfloat16}
    wanted = FORMULAS[case][1](made.base_layer.weight.double(), {name: value.double() for name, value in parts.items()})
    found = made.get_delta_weight("default").detach()
    assert found.dtype == torch.float32
    if case != "edora":  # whose norm is a bfloat16
        assert float((found.double() - wanted).norm() / wanted.norm()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["symlora", "symlora without λ", "symlora from eigenvectors"])
def test_the_forward_written_out_in_symlora_is_that_of_its_factors(case: str, dtype: torch.dtype) -> None:
    """Bit for bit, of one adapter and of two."""
    made, x = layer(case, dtype), inputs(dtype=dtype)
    made.update_layer("second", SymLoraConfig(r=2, init_weights=False), "0")
    base_out = made.base_layer(x)
    for names in (["default"], ["second"], ["default", "second"]):
        assert torch.equal(made.combine(names, x, base_out), BaseScaleLayer.combine(made, names, x, base_out))


def test_factors_of_any_kind_and_place() -> None:
    """Vectors first, last and in between, one factor alone, and α/r once."""

    class Gates(FactorLayer):
        adapter_layer_names = ("left", "matrix", "right")

        def initial_values(self, config: Any, r: int) -> dict[str, Tensor]:
            return {"left": torch.randn(N_OUT), "matrix": kaiming(N_OUT, N_IN), "right": torch.randn(N_IN)}

        def factors(self, adapter: str) -> list[Tensor]:
            left, matrix, right = (getattr(self, name)[adapter] for name in self.adapter_layer_names)
            return {"a": [left, matrix, right], "b": [matrix, right], "c": [matrix]}[adapter]

    for adapter in "abc":
        made = Gates(torch.nn.Linear(N_IN, N_OUT).double(), adapter, SymLoraConfig(r=R, alpha=5), "0").double()
        left, matrix, right = containers(made, adapter).values()
        if adapter != "a":
            left = torch.ones_like(left)
        if adapter == "c":
            right = torch.ones_like(right)
        wanted = S * torch.einsum("o,oi,i->oi", left, matrix, right)
        torch.testing.assert_close(made.get_delta_weight(adapter), wanted)
        torch.testing.assert_close(made.adapter_output(adapter, inputs(), inputs()), inputs() @ wanted.T)


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
