"""Add a symmetric matrix of full rank to a square linear layer.

The weight symmetry of Hu, Zagoruyko and Komodakis (arXiv 1812.11027) as an adapter.

    h = W0 x + b + (U + Uᵀ - diag U) x

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

import torch
from torch import Tensor

from symlora.adapters.config import AdapterConfig
from symlora.adapters.factors import FactorLayer, zeros
from symlora.adapters.tuner import AdapterModel


@lru_cache(maxsize=8)
def triangle_places(n: int, device: torch.device) -> Tensor:
    """Give each entry of a symmetric matrix its place in the triangle.

    The triangle is listed row by row; (n, n), int64.
    """
    with torch.inference_mode(False):  # the cached tensor must also serve backward passes
        rows, columns = torch.triu_indices(n, n, device=device)
        places = torch.empty(n, n, dtype=torch.int64, device=device)
        places[rows, columns] = places[columns, rows] = torch.arange(len(rows), device=device)
        return places


@dataclass
class SymmetricConfig(AdapterConfig, method="symmetric"):
    """Configure a symmetric full-rank ΔW; there is no rank."""


class SymmetricLinear(FactorLayer):
    """Adapt a square linear layer by a symmetric full-rank matrix."""

    adapter_layer_names = ("symmetric_upper",)
    needs_square = True

    def initial_values(self, config: SymmetricConfig, r: int) -> dict[str, Tensor]:
        return {"symmetric_upper": 0.1 * zeros(config, self.in_features * (self.in_features + 1) // 2)}

    def factors(self, adapter: str) -> tuple[Tensor, ...]:
        upper = self.symmetric_upper[adapter]
        return (upper[triangle_places(self.in_features, upper.device)],)  # U + Uᵀ - diag U


class SymmetricModel(AdapterModel, config=SymmetricConfig, layer=SymmetricLinear):
    """Put symmetric full-rank adapters on a model's target modules."""
