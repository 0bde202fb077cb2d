"""Put mini-LoRAs on the diagonal: MELoRA.

Ren et al., arXiv 2402.17263, section 3; ACL 2024.

    h = W0 x + b + (α/r) diag(B_1 A_1, …, B_N A_N) x

    A_i    (r, n_in/N)    `melora_A`, all in one (N, r, n_in/N); mini-LoRA i reads the i-th part of x
    B_i    (n_out/N, r)   `melora_B`, all in one (N, n_out/N, r); and writes the i-th part of h
    N      number of mini-LoRAs, `num_mini_loras`; it must divide both widths
    α, r   scale and rank of one mini-LoRA

Trained: all A_i and B_i. Start, after the authors' code (ChasonShi/MELoRA, peft-0.5.0/src/peft/tuners/melora.py): A_i
as `torch.nn.Linear` (Kaiming uniform with a = √5, of n_in/N inputs), B_i = 0. So step 0 is the base model's.

Rank of ΔW: up to N r, at the price of a LoRA of rank r.
Trained values per matrix: r (n_in + n_out), whatever N is. RoBERTa-base, query and value: 36,864 r.

The authors' code cannot merge (`get_delta_weight` indexes a list by the adapter's name), and every mini-LoRA may have a
rank of its own, which is left out here (the paper has one r).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from symlora.adapters.config import POSITIVE, WHOLE, LowRankConfig, setting
from symlora.adapters.factors import FactorLayer, zeros
from symlora.adapters.tuner import AdapterModel


@dataclass
class MeloraConfig(LowRankConfig, method="melora"):
    """Configure MELoRA; r and alpha are those of one mini-LoRA."""

    # Eight have the rank of a LoRA of r = 8 with an eighth of its values: the paper's claim for GLUE (abstract).
    r: int = setting(1, "Rank of one mini-LoRA.", WHOLE)
    alpha: float = setting(1, "Each mini-LoRA is multiplied by alpha / r.", POSITIVE)
    num_mini_loras: int = setting(8, "Number N of mini-LoRAs on the diagonal.", WHOLE)


class MeloraLinear(FactorLayer):
    """Adapt a linear layer by MELoRA."""

    adapter_layer_names = ("melora_A", "melora_B")

    def initial_values(self, config: MeloraConfig, r: int) -> dict[str, Tensor]:
        number = config.num_mini_loras
        inputs, outputs = self.in_features // number, self.out_features // number
        divides, fits = self.in_features % number == self.out_features % number == 0, r <= min(inputs, outputs)
        self.require(divides, f"melora: num_mini_loras = {number} does not divide both widths")
        self.require(fits, f"melora: r = {r} is more than a mini-LoRA of {outputs} x {inputs} allows")
        A = torch.empty(number, r, inputs).uniform_(-1, 1) / math.sqrt(inputs)  # kaiming_uniform_(a=√5) of each A_i
        return {"melora_A": A, "melora_B": zeros(config, number, outputs, r)}

    def factors(self, adapter: str) -> list[Tensor]:
        """Return diag(B_1, …, B_N) and diag(A_1, …, A_N)."""
        return [torch.block_diag(*values[adapter]) for values in (self.melora_B, self.melora_A)]  # type: ignore[no-untyped-call]


class MeloraModel(AdapterModel, config=MeloraConfig, layer=MeloraLinear):
    """Put MELoRA on a model's target modules."""
