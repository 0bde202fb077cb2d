"""MELoRA: a group of mini-LoRAs on the diagonal (Ren et al., arXiv 2402.17263, section 3; ACL 2024).

    h = W0 x + b + (α/r) diag(B_1 A_1, …, B_N A_N) x

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    A_i    (r, n_in/N)    `melora_A`, all in one (N, r, n_in/N); mini-LoRA i reads the i-th part of x
    B_i    (n_out/N, r)   `melora_B`, all in one (N, n_out/N, r); and writes the i-th part of h
    N      number of mini-LoRAs, `num_mini_loras`; it must divide both widths
    α, r   scale and rank of one mini-LoRA

Trained: all A_i and B_i. Start, after the authors' code (ChasonShi/MELoRA, peft-0.5.0/src/peft/tuners/melora.py): A_i
as `torch.nn.Linear` (Kaiming uniform with a = √5, of n_in/N inputs), B_i = 0. So step 0 is the base model's.

Rank of ΔW: up to N r, at the price of a LoRA of rank r.
Trained values per matrix: r (n_in + n_out), whatever N is. RoBERTa-base, query and value: 36,864 r.

In the authors' code `get_delta_weight` indexes a list by the adapter's name, so that it cannot merge; and every
mini-LoRA may have a rank of its own, which is left out here (the paper has one r).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig, check_whole


@dataclass
class MeloraConfig(LowRankConfig):
    """Configuration of MELoRA: the fields of `LowRankConfig` (r and alpha of one mini-LoRA) and one more.

    Raises:
        ValueError: as `LowRankConfig`; or num_mini_loras is not a whole number of at least 1.

    Args:
        num_mini_loras: number N of mini-LoRAs.
    """

    method: ClassVar[str] = "melora"

    # With r = 1 the rank of a LoRA of r = 8 at an eighth of its values, which is the paper's claim for GLUE (abstract).
    r: int = field(default=1, metadata={"help": "Rank of one mini-LoRA."})
    alpha: float = field(default=1, metadata={"help": "Each mini-LoRA is multiplied by alpha / r."})
    num_mini_loras: int = field(default=8, metadata={"help": "Number of mini-LoRAs on the diagonal."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.method, "num_mini_loras", self.num_mini_loras)

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return self.r * (in_features + out_features)


class MeloraLinear(AdapterLayer):
    """A linear layer with MELoRA adapters; see the top of this file.

    Raises:
        ValueError: the number of mini-LoRAs does not divide a width, or r is more than a part's width.
    """

    adapter_layer_names = ("melora_A", "melora_B")
    melora_A: nn.ParameterDict
    melora_B: nn.ParameterDict

    def start(self, config: MeloraConfig, r: int) -> dict[str, Tensor]:
        number = config.num_mini_loras
        if self.in_features % number or self.out_features % number:
            raise ValueError(
                f"melora: num_mini_loras = {number} does not divide the weight of module {self.module_name!r}, which "
                f"is {self.shape_text}"
            )
        inputs, outputs = self.in_features // number, self.out_features // number
        if r > min(inputs, outputs):
            raise ValueError(
                f"melora: r = {r} is more than a mini-LoRA of {outputs} x {inputs} allows (module "
                f"{self.module_name!r}, {number} mini-LoRAs)"
            )
        A = torch.empty(number, r, inputs).uniform_(-1, 1) / math.sqrt(inputs)  # kaiming_uniform_(a=√5) of each A_i
        B = torch.zeros(number, outputs, r) if config.init_weights else torch.randn(number, outputs, r)
        return {"melora_A": A, "melora_B": B}

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        A, B = self.melora_A[adapter], self.melora_B[adapter]
        inputs = self.adapter_input(adapter, x)
        parts = inputs.reshape(*inputs.shape[:-1], A.shape[0], A.shape[2])
        inner = torch.einsum("...ni,nri->...nr", parts, A)
        return torch.einsum("...nr,nor->...no", inner, B).flatten(-2) * self.scaling[adapter]

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/r) diag(B_1 A_1, …, B_N A_N), (n_out, n_in), in float32 or wider."""
        dtype = torch.promote_types(self.original_weight().dtype, torch.float32)
        A, B = self.melora_A[adapter].to(dtype), self.melora_B[adapter].to(dtype)
        delta: Tensor = self.scaling[adapter] * torch.block_diag(*(B @ A))  # type: ignore[no-untyped-call]
        return delta


class MeloraModel(AdapterModel):
    """A model with MELoRA on its target modules. Made by `peft.get_peft_model(model, MeloraConfig())`."""

    prefix = "melora_"
    tuner_layer_cls = MeloraLinear
