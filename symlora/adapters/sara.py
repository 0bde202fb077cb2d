"""SARA: a LoRA whose rank follows from the singular values of the matrix it adapts (Gu et al., arXiv 2408.03290).

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

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig


def rank_of_share(weight: Tensor, share: float) -> int:
    """The least number of singular values of a matrix that make up this share of their sum.

    Args:
        weight: (n_out, n_in).
        share: above 0, at most 1.
    """
    sums = torch.linalg.svdvals(weight.to(torch.float64)).cumsum(0)
    return min(int((sums < share * sums[-1]).sum()) + 1, len(sums))


@dataclass
class SaraConfig(LowRankConfig):
    """Configuration of SARA: the fields of `LowRankConfig`, of which `r` is not used, and one more.

    Args:
        share: what the counted singular values make up of the sum of all. A rank in `rank_pattern` goes before it.

    Raises:
        ValueError: as `LowRankConfig`; or share is not above 0 and at most 1.
    """

    method: ClassVar[str] = "sara"

    share: float = field(default=0.07, metadata={"help": "Share of the singular values' sum."})  # top of this file

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 1:
            raise ValueError(f"sara: share must be above 0 and at most 1, got {self.share!r}")

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """Of a matrix of rank `r`; the ranks themselves are in `rank_pattern` once the adapter is made."""
        return (in_features + out_features + 1) * self.r


class SaraLinear(AdapterLayer):
    """A linear layer with SARA adapters; see the top of this file."""

    adapter_layer_names = ("sara_A", "sara_diag", "sara_B")
    sara_A: nn.ParameterDict
    sara_diag: nn.ParameterDict
    sara_B: nn.ParameterDict

    def start(self, config: SaraConfig, r: int) -> dict[str, Tensor]:
        return {
            "sara_A": nn.init.kaiming_uniform_(torch.empty(r, self.in_features), a=math.sqrt(5)),
            "sara_diag": torch.ones(r),
            "sara_B": torch.zeros(self.out_features, r) if config.init_weights else torch.randn(self.out_features, r),
        }

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        diag = self.scaling[adapter] * self.sara_diag[adapter]
        out: Tensor = (self.adapter_input(adapter, x) @ self.sara_A[adapter].T * diag) @ self.sara_B[adapter].T
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/k) B diag(v) A, (n_out, n_in), in float32 or wider."""
        dtype = torch.promote_types(self.original_weight().dtype, torch.float32)
        A, diag, B = (part[adapter].to(dtype) for part in (self.sara_A, self.sara_diag, self.sara_B))
        delta: Tensor = (B * (self.scaling[adapter] * diag)) @ A
        return delta


class SaraModel(AdapterModel):
    """A model with SARA on its target modules."""

    prefix = "sara_"
    tuner_layer_cls = SaraLinear

    def parameter_count(self, adapter: str = "default") -> int:
        """By the formula, at the ranks found."""
        layers = [layer for layer in self.tuner_layers() if adapter in layer.r]
        return sum((layer.in_features + layer.out_features + 1) * layer.r[adapter] for layer in layers)

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
