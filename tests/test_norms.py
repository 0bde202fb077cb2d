"""Norms of adapters against numpy in float64, from the factors themselves."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import CPU, TinyFactory, moved, run_config
from torch import Tensor

from symlora.model.build import build
from symlora.runner.norms import adapter_norms, symmetry

Array = npt.NDArray[np.float64]
N, R = 32, 8
SIGNS = [3.0, -1.0, 2.0, -0.5, 1.5, 4.0, -2.5, 0.25]  # five above zero, three below


def wide(value: Tensor) -> Array:
    out: Array = value.detach().double().numpy()
    return out


def expect(row: dict[str, Any], w0: Array, delta: Array, scale: float, rel: float = 1e-6) -> None:
    wanted = {
        "lambda": scale,
        "w0_frobenius": np.sqrt((w0**2).sum()),
        "lambda_w0_frobenius": np.sqrt(((scale * w0) ** 2).sum()),
        "delta_frobenius": np.sqrt((delta**2).sum()),
        "sum_frobenius": np.sqrt(((scale * w0 + delta) ** 2).sum()),
        "w0_l1": np.abs(w0).sum(),
        "delta_l1": np.abs(delta).sum(),
    }
    assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=rel)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_symlora(precision: str, tiny: TinyFactory) -> None:
    """λ is no part of ΔW, α/r is; with orthonormal Q the eigenvalues of ΔW are Λ·α/r."""
    run_model = build(run_config(tiny("roberta"), "symlora", peft={"alpha": 20}), CPU, precision)
    layers, generator = dict(run_model.adapted_layers()), np.random.default_rng(0)
    scales, factors = dict(zip(layers, [1.0, 0.5, -2.0, 1.0001], strict=True)), {}
    for name, layer in layers.items():
        q = np.linalg.qr(generator.normal(size=(N, R)))[0]
        with torch.no_grad():
            layer.symlora_Q["default"].copy_(torch.from_numpy(q))
            layer.symlora_diag["default"].copy_(torch.tensor(SIGNS))
            layer.symlora_lambda["default"].fill_(scales[name])
        factors[name] = wide(layer.symlora_Q["default"])
    rows = list(adapter_norms(run_model))
    assert [row["module"] for row in rows] == list(layers)
    assert [(row["layer"], row["projection"]) for row in rows] == [(n, p) for n in (0, 1) for p in ("query", "value")]
    for row in rows:
        name, q = row["module"], factors[row["module"]]
        delta = q @ np.diag(SIGNS) @ q.T * 20 / R
        expect(row, wide(layers[name].get_base_layer().weight), delta, scales[name])
        assert row["delta_frobenius"] == pytest.approx(20 / R * np.linalg.norm(SIGNS), rel=1e-5)
        assert row["symmetric_share"] == pytest.approx(1.0, abs=1e-12)
        assert (row["positive"], row["negative"]) == (5, 3)


WITH_LAMBDA = ("loralambda", "symlora", "symlora_orthonormal")
OTHERS = ("hra", "loha", "oft", "vera")  # PEFT's, whose own ΔW is a rotation, a part or a tuple
MERGED = ("asymlora", "dora", "edora", "lora", "loraxs", "symlora_no_lambda", "symmetric", *WITH_LAMBDA, *OTHERS)


@pytest.mark.parametrize("method", MERGED)
def test_delta_is_what_merging_adds(method: str, tiny: TinyFactory) -> None:
    run_model = moved(build(run_config(tiny("bert"), method, peft={"r": 4} if method == "vera" else {}), CPU, "fp32"))
    rows = {row["module"]: row for row in adapter_norms(run_model)}
    layers = dict(run_model.adapted_layers())
    assert len(rows) == len(layers) == 4
    for name, layer in layers.items():
        row, w0 = rows[name], wide(layer.get_base_layer().weight).copy()
        layer.merge()
        delta = wide(layer.get_base_layer().weight) - row["lambda"] * w0
        assert np.linalg.norm(delta) > 0.01
        assert (row["lambda"] != 1.0) == (method in WITH_LAMBDA)
        expect(row, w0, delta, row["lambda"], 1e-4)
        symmetric = (delta + delta.T) / 2
        assert row["symmetric_share"] == pytest.approx((symmetric**2).sum() / (delta**2).sum(), rel=1e-4)
        if method == "lora":  # the symmetric part is of rank 2r, of which half are positive
            assert (row["positive"], row["negative"]) == (R, R)


@pytest.mark.parametrize("method", ["symlora", "symlora_no_lambda", "lora"])
def test_a_fresh_adapter_has_changed_nothing(method: str, tiny: TinyFactory) -> None:
    for row in adapter_norms(build(run_config(tiny("bert"), method), CPU, "fp32")):
        assert row["lambda"] == 1.0
        assert row["delta_frobenius"] == row["delta_l1"] == 0.0
        assert row["sum_frobenius"] == row["lambda_w0_frobenius"] == row["w0_frobenius"] > 0.0
        assert row["symmetric_share"] is None
        assert row["positive"] == row["negative"] == 0


def test_symmetry_of_known_matrices() -> None:
    skew = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert symmetry(skew) == {"symmetric_share": 0.0, "positive": 0, "negative": 0}
    assert symmetry(skew.abs()) == {"symmetric_share": 1.0, "positive": 1, "negative": 1}
    assert symmetry(-torch.eye(3, dtype=torch.float64)) == {"symmetric_share": 1.0, "positive": 0, "negative": 3}
    assert symmetry(torch.ones(2, 3, dtype=torch.float64))["symmetric_share"] is None  # not square
