"""Take LoRA's rank from the singular values of W0: SARA.

Gu et al., arXiv 2408.03290.

    h = W0 x + b + (α/k) B diag(v) A x,    k = the least number with  σ_1 + … + σ_k ≥ share · (σ_1 + … + σ_n)

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W0, b  its frozen weight and bias; σ its singular values, falling
    A      (k, n_in)    `sara_A`, trained; starts as LoRA's: uniform within ±1/√n_in
    v      (k)          `sara_diag`, trained; starts at 1
    B      (n_out, k)   `sara_B`, trained; starts at 0, so that step 0 gives the base model's output
    k      the matrix's own rank, found when the adapter is made and kept in the configuration's `rank_pattern`: a saved
           adapter is loaded with the ranks that it was made with
    α      alpha

Read in the abstract and the caption of Figure 1: k is the number of values that make up the share m of the sum, and a
"truncated singular value matrix" of that size, trained, is added in parallel to the pre-trained weights. The sections
on how A, B and v start, on α and on m could not be read here. `share` is therefore ours: 0.07 gives MiniLM's 12
queries and values ranks 7 to 11, 8.5 in the mean.

Mo-SARA, which trains only several such diagonals and a router between them, is not here: its output depends on the
input through the router, so it has no ΔW.

Trained values per matrix: (n_in + n_out + 1) k, which depends on the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from symlora.adapters.config import LowRankConfig, number, setting
from symlora.adapters.factors import FactorLayer, kaiming, zeros
from symlora.adapters.tuner import AdapterModel


def rank_of_share(weight: Tensor, share: float) -> int:
    """Count the singular values that make up this share of their sum.

    Args:
        weight: (n_out, n_in).
        share: Above 0, at most 1.
    """
    sums = torch.linalg.svdvals(weight.to(torch.float64)).cumsum(0)
    return min(int((sums < share * sums[-1]).sum()) + 1, len(sums))


@dataclass
class SaraConfig(LowRankConfig):
    """Configure SARA, whose ranks are in `rank_pattern` once made, never in `r`."""

    method: ClassVar[str] = "sara"

    share: float = setting(  # top of this file
        0.07,
        "What the counted singular values make up of the sum of all. A rank in `rank_pattern` goes before it.",
        number("above 0 and at most 1", lambda value: 0 < value <= 1),
    )


class SaraLinear(FactorLayer):
    """Adapt a linear layer by SARA; see the top of this file."""

    adapter_layer_names = ("sara_A", "sara_diag", "sara_B")

    def initial_values(self, config: SaraConfig, r: int) -> dict[str, Tensor]:
        A, B = kaiming(r, self.in_features), zeros(config, self.out_features, r)
        return {"sara_A": A, "sara_diag": torch.ones(r), "sara_B": B}

    def factors(self, adapter: str) -> Sequence[Tensor]:
        return self.sara_B[adapter], self.sara_diag[adapter], self.sara_A[adapter]


class SaraModel(AdapterModel):
    """Put SARA on a model's target modules."""

    config_class = SaraConfig
    tuner_layer_cls = SaraLinear

    def _create_and_replace(
        self,
        peft_config: SaraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        ranks = peft_config.rank_pattern
        base: Any = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if isinstance(base, nn.Linear) and get_pattern_key(list(ranks), current_key) not in ranks:
            weight = target.original_weight() if isinstance(target, SaraLinear) else dequantize_module_weight(base)
            ranks[current_key] = rank_of_share(weight.detach(), peft_config.share)
        super()._create_and_replace(peft_config, adapter_name, target, target_name, parent, current_key, parameter_name)
