"""Measure an adapter's change, per layer and projection (Figure 1)."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor

from symlora.adapters.factors import BaseScaleLayer
from symlora.adapters.layer import AdapterLayer
from symlora.model.run_model import RunModel


def adapter_norms(model: RunModel) -> Iterator[dict[str, Any]]:
    """Yield one row per adapted projection, in float64 from stored weights.

    ΔW is the low-rank update with its factor α/r, without (λ - 1) W0; for methods other than LoRA and without λ it is
    all that the layer adds to W0. Keys:
        module, layer (from 0, at the embeddings), projection;
        lambda: λ, 1.0 for methods without one;
        w0_frobenius, lambda_w0_frobenius, delta_frobenius: √Σ w² of W0, λ W0 and ΔW;
        sum_frobenius: of λ W0 + ΔW, the matrix at work;
        w0_l1, delta_l1: Σ |w|, which is what the paper's formula says in place of the Frobenius norm;
        symmetric_share: ‖(ΔW + ΔWᵀ)/2‖² / ‖ΔW‖², 0.5 for a random matrix and 1 for SymLoRA; None for ΔW = 0;
        positive, negative: numbers of eigenvalues of the symmetric part of ΔW above and below rounding.
    """
    with torch.no_grad():
        for name, layer in model.adapted_layers():
            adapter = layer.active_adapters[0]
            w0 = dequantize_module_weight(layer.get_base_layer()).detach().cpu().double()
            scale = layer.base_scale(adapter) if isinstance(layer, BaseScaleLayer) else 1.0
            delta = _update(layer, adapter)
            if delta is None:
                continue
            number = re.search(r"\.(\d+)\.", name)
            yield {
                "module": name,
                "layer": int(number[1]) if number else None,
                "projection": name.rsplit(".", 1)[-1],
                "lambda": scale,
                "w0_frobenius": float(torch.linalg.norm(w0)),
                "lambda_w0_frobenius": abs(scale) * float(torch.linalg.norm(w0)),
                "delta_frobenius": float(torch.linalg.norm(delta)),
                "sum_frobenius": float(torch.linalg.norm(scale * w0 + delta)),
                "w0_l1": float(w0.abs().sum()),
                "delta_l1": float(delta.abs().sum()),
                **symmetry(delta),
            }


def _update(layer: Any, adapter: str) -> Tensor | None:
    if isinstance(layer, BaseScaleLayer):  # get_delta_weight has (λ - 1) W0 in it, next to which ΔW would lose digits
        return copy.deepcopy(layer).cpu().factor_product(adapter, torch.float64)
    is_lora: bool = isinstance(layer, LoraLayer) and not layer.use_dora.get(adapter, False)
    if is_lora or isinstance(layer, AdapterLayer):
        try:
            delta: Tensor = copy.deepcopy(layer).cpu().double().get_delta_weight(adapter)
        except NotImplementedError:  # a bottleneck adapter is no matrix: no row
            return None
        return delta.detach()
    # Other methods' get_delta_weight is a rotation (OFT, HRA), a tuple (BOFT) or a part (DoRA). The layer itself says
    # what it does to W0: its columns are the outputs of unit vectors.
    probe = copy.deepcopy(layer).cpu().double().eval()
    unit = torch.eye(probe.in_features, dtype=torch.float64)
    w0 = probe.get_base_layer().weight
    delta = (probe(unit) - probe(torch.zeros_like(unit))).T - w0
    return delta.detach()


def symmetry(delta: Float[Tensor, "rows columns"]) -> dict[str, Any]:
    """Measure a square matrix's symmetric share and its eigenvalues' signs."""
    energy = float(delta.square().sum())
    if delta.shape[0] != delta.shape[1] or energy == 0.0:
        return {"symmetric_share": None, "positive": 0, "negative": 0}
    symmetric = (delta + delta.T) / 2
    eigenvalues = torch.linalg.eigvalsh(symmetric)
    floor = 1e-6 * float(eigenvalues.abs().max())  # ΔW is made of float32 factors
    return {
        "symmetric_share": float(symmetric.square().sum()) / energy,
        "positive": int((eigenvalues > floor).sum()),
        "negative": int((eigenvalues < -floor).sum()),
    }
