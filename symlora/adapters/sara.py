"""Take LoRA's rank from the singular values of W0: SARA.

Gu et al., arXiv 2408.03290.

    h = W0 x + b + (α/k) B diag(v) A x,    k = the least number with  σ_1 + … + σ_k ≥ share · (σ_1 + … + σ_n)

    σ      singular values of W0, falling
    A      (k, n_in)    `sara_A`, trained; starts as LoRA's: uniform within ±1/√n_in
    v      (k)          `sara_diag`, trained; starts at 1
    B      (n_out, k)   `sara_B`, trained; starts at 0, so that step 0 gives the base model's output
    k      the matrix's own rank, found when the adapter is made and kept in the configuration's `rank_pattern`: a saved
           adapter is loaded with the ranks that it was made with

Trained values per matrix: (n_in + n_out + 1) k, which depends on the weights.

Read in the abstract and the caption of Figure 1: k is the number of values that make up the share m of the sum, and a
"truncated singular value matrix" of that size, trained, is added in parallel to the pre-trained weights. The sections
on how A, B and v start, on α and on m could not be read here. `share` is therefore ours: 0.07 gives MiniLM's 12
queries and values ranks 7 to 11, 8.5 in the mean.

Mo-SARA, which trains only several such diagonals and a router between them, is not here: its output depends on the
input through the router, so it has no ΔW.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from symlora.adapters.config import LowRankConfig, number, setting
from symlora.adapters.factors import FactorLayer, kaiming, zeros
from symlora.adapters.tuner import AdapterModel


def rank_of_share(weight: Tensor, share: float) -> int:
    """Count the singular values that make up this share."""
    sums = torch.linalg.svdvals(weight.to(torch.float64)).cumsum(0)
    return min(int((sums < share * sums[-1]).sum()) + 1, len(sums))


@dataclass
class SaraConfig(LowRankConfig, method="sara"):
    """Configure SARA, whose ranks are in `rank_pattern` once made, never in `r`.

    They are those of the first model that it is used on: make a new configuration for each model.
    """

    share: float = setting(  # top of this file
        0.07,
        "Share of the sum of all singular values that the first k make up. A rank in `rank_pattern` takes precedence.",
        number("above 0 and at most 1", lambda value: 0 < value <= 1),
    )

    def rank_and_scale(self, module: str, layer: Any = None) -> tuple[int, float]:
        """Return rank and scale; add a missing rank to `rank_pattern`."""
        if layer is not None and get_pattern_key(list(self.rank_pattern), module) not in self.rank_pattern:
            self.rank_pattern[module] = rank_of_share(layer.original_weight().detach(), self.share)
        return super().rank_and_scale(module)


class SaraLinear(FactorLayer):
    """Adapt a linear layer by SARA."""

    adapter_layer_names = ("sara_A", "sara_diag", "sara_B")

    def initial_values(self, config: SaraConfig, r: int) -> dict[str, Tensor]:
        A, B = kaiming(r, self.in_features), zeros(config, self.out_features, r)
        return {"sara_A": A, "sara_diag": torch.ones(r), "sara_B": B}

    factor_names = ("sara_B", "sara_diag", "sara_A")


class SaraModel(AdapterModel, config=SaraConfig, layer=SaraLinear):
    """Put SARA on a model's target modules."""
