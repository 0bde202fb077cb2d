"""A symmetric ΔW of full rank: the weight symmetry of Hu, Zagoruyko and Komodakis (arXiv 1812.11027) as an adapter.

    h = W0 x + b + (U + Uᵀ - diag U) x

    x, h   (..., n)         input and output of a square linear layer
    W0, b  (n, n), (n)      its frozen weight and bias
    U      (n (n + 1) / 2)  `symmetric_upper`: an upper triangular matrix with its diagonal, row by row

U is trained; it starts at 0, so that step 0 is the base model's output to the last bit. There is no rank and no scale.
It is what SymLoRA comes to at r = n without λ: every symmetric matrix, at half the size of W0.

Trained values per matrix: n (n + 1) / 2. RoBERTa-base, query and value: 7,087,104.

Source: the paper ties the weights of layers that are trained from scratch; an adapter is ours. Its text could not be
read here; its code (hushell/deep-symmetry, symmWideResNet/models/utils.py, `triu_diag_triut`, "triangular symmetry")
says W = triu(V) + triu(V, 1)ᵀ, of which the lower half of V is never used: here only the upper half exists.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import AdapterConfig


@lru_cache(maxsize=8)
def triangle_places(n: int, device: torch.device) -> Tensor:
    """For each entry of a symmetric n × n matrix, its place in the row by row list of the upper triangle: int64."""
    with torch.inference_mode(False):  # kept for backward passes too, whoever asked first
        rows, columns = torch.triu_indices(n, n, device=device)
        places = torch.empty(n, n, dtype=torch.int64, device=device)
        places[rows, columns] = places[columns, rows] = torch.arange(len(rows), device=device)
        return places


def symmetric_matrix(upper: Tensor, n: int) -> Tensor:
    """U + Uᵀ - diag U: (n (n + 1) / 2) -> (n, n)."""
    return upper[triangle_places(n, upper.device)]


@dataclass
class SymmetricConfig(AdapterConfig):
    """Configuration of a symmetric full-rank ΔW: the fields of `AdapterConfig`; there is no rank."""

    method: ClassVar[str] = "symmetric"

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return in_features * (in_features + 1) // 2


class SymmetricLinear(AdapterLayer):
    """A square linear layer with symmetric full-rank adapters; see the top of this file.

    Raises:
        ValueError: the module is not square.
    """

    adapter_layer_names = ("symmetric_upper",)
    symmetric_upper: nn.ParameterDict

    def check_shape(self, module: str, r: int) -> None:
        if self.in_features != self.out_features:
            raise ValueError(
                f"a symmetric ΔW needs a square matrix, but the weight of module {module!r} is {self.shape_text}; "
                "choose `target_modules` that map a width to itself"
            )

    def start(self, config: SymmetricConfig, r: int) -> dict[str, Tensor]:
        count = config.parameter_count(self.in_features, self.out_features)
        return {"symmetric_upper": torch.zeros(count) if config.init_weights else 0.1 * torch.randn(count)}

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        out: Tensor = self.adapter_input(adapter, x) @ symmetric_matrix(self.symmetric_upper[adapter], self.in_features)
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """U + Uᵀ - diag U, (n, n)."""
        return symmetric_matrix(self.symmetric_upper[adapter], self.in_features)


class SymmetricModel(AdapterModel):
    """A model with symmetric full-rank adapters on its target modules."""

    prefix = "symmetric_"
    tuner_layer_cls = SymmetricLinear
