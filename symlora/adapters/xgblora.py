"""XGBLoRA: LoRAs of rank 1 in turn, each merged before the next one starts (Zhang et al., arXiv 2410.19694).

    h = W0 x + b + α/r (Σ_{t < T} B_t A_t + B A) x

    x, h     (..., n_in), (..., n_out)   input and output of a linear layer
    W0, b    its frozen weight and bias
    A        (r, n_in)    `xgblora_A`, trained; each one starts as LoRA's: uniform within ±1/√n_in
    B        (n_out, r)   `xgblora_B`, trained; each one starts at 0: a restart leaves the output as it was
    A_t, B_t              the boosters before, held: `xgblora_merged_A` ((T - 1) r, n_in), `xgblora_merged_B`
                          (n_out, (T - 1) r), the rows after the last one 0
    T        boosters of the whole training: step s (from 1) trains number ⌊(s - 1) T / steps⌋ (from 0), so that their
             steps differ by one at most; a training of fewer steps than T has one booster a step
    α, r     alpha and the rank of a booster: 1 ("rank-1 adaption")

The merged boosters stay low-rank factors beside W0: saving, loading, merging and unmerging are exact, and the adapter
is as small as a LoRA of rank T r. AdamW forgets what it knew of A and B at each restart.

Read in the abstract and in the reviews of the ICLR submission: rank 1, merge and restart after κ steps (boosting), step
size 1 for each booster, LoRA's hyper-parameters. There a booster may also be confined to L_s layers drawn at random;
here each one has all of them. The paper itself could not be read here: its κ is not known to us. We give T instead,
because the saved adapter's shape follows from it; T = 8 makes the sum a rank-8 update, as large as LoRA's of rank 8.

Trained values per matrix at a time: (n_in + n_out) r. RoBERTa-base, query and value, r = 1: 36,864.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig, check_whole


@dataclass
class XgbLoraConfig(LowRankConfig):
    """Configuration of XGBLoRA: the fields of `LowRankConfig` and one more.

    Args:
        boosters: T, how many LoRAs follow each other in a training.

    Raises:
        ValueError: as `LowRankConfig`; or boosters is not a whole number of at least 1.
    """

    method: ClassVar[str] = "xgblora"

    r: int = field(default=1, metadata={"help": "Rank of a booster."})  # the paper's title
    alpha: float = field(
        default=1, metadata={"help": "The low-rank part is multiplied by alpha / r."}
    )  # α = r, as LoRA
    boosters: int = field(default=8, metadata={"help": "LoRAs that follow each other."})  # top of this file

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self.method, "boosters", self.boosters)

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return (in_features + out_features) * self.r


class XgbLoraLinear(AdapterLayer):
    """A linear layer with XGBLoRA adapters; see the top of this file."""

    adapter_layer_names = ("xgblora_A", "xgblora_B")
    frozen_layer_names = changing_layer_names = ("xgblora_merged_A", "xgblora_merged_B")
    xgblora_A: nn.ParameterDict
    xgblora_B: nn.ParameterDict
    xgblora_merged_A: BufferDict
    xgblora_merged_B: BufferDict

    def start(self, config: XgbLoraConfig, r: int) -> dict[str, Tensor]:
        merged = (config.boosters - 1) * r
        B = torch.zeros(self.out_features, r) if config.init_weights else torch.randn(self.out_features, r)
        return {
            "xgblora_A": nn.init.kaiming_uniform_(torch.empty(r, self.in_features), a=math.sqrt(5)),
            "xgblora_B": B,
            "xgblora_merged_A": torch.zeros(merged, self.in_features),
            "xgblora_merged_B": torch.zeros(self.out_features, merged),
        }

    @torch.no_grad()
    def restart(self, adapter: str, booster: int, generator: torch.Generator) -> None:
        """Puts A and B where booster number `booster` (from 0) is kept, and starts them afresh."""
        A, B, r = self.xgblora_A[adapter], self.xgblora_B[adapter], self.r[adapter]
        place = slice(booster * r, (booster + 1) * r)
        self.xgblora_merged_A[adapter][place].copy_(A)
        self.xgblora_merged_B[adapter][:, place].copy_(B)
        A.copy_(nn.init.kaiming_uniform_(torch.empty(A.shape), a=math.sqrt(5), generator=generator))
        B.zero_()

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        A, B = self.xgblora_A[adapter], self.xgblora_B[adapter]
        merged_A, merged_B = self.xgblora_merged_A[adapter].to(A.dtype), self.xgblora_merged_B[adapter].to(A.dtype)
        held = self._cast_input_dtype(x, A.dtype) @ merged_A.T @ merged_B.T  # part of the base by now: not dropped
        out: Tensor = self.scaling[adapter] * (held + self.adapter_input(adapter, x) @ A.T @ B.T)
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """α/r (Σ B_t A_t + B A), (n_out, n_in), in float32 or wider."""
        dtype = torch.promote_types(self.original_weight().dtype, torch.float32)
        held: Tensor = self.xgblora_merged_B[adapter].to(dtype) @ self.xgblora_merged_A[adapter].to(dtype)
        held = held + self.xgblora_B[adapter].to(dtype) @ self.xgblora_A[adapter].to(dtype)
        return self.scaling[adapter] * held


def _booster(step: int, steps: int, boosters: int) -> int:
    """Number (from 0) of the booster that a step (from 1) of so many trains."""
    return (step - 1) * boosters // steps


class XgbLoraModel(AdapterModel):
    """A model with XGBLoRA on its target modules."""

    prefix = "xgblora_"
    tuner_layer_cls = XgbLoraLinear

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        for adapter, config in self.peft_config.items():
            booster, before = _booster(step, steps, config.boosters), _booster(step - 1, steps, config.boosters)
            for layer in self.tuner_layers() if step > 1 and booster != before else ():
                if adapter in layer.r:
                    layer.restart(adapter, before, generator)

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        for adapter, config in self.peft_config.items():
            # The next step starts them afresh.
            if _booster(step, steps, config.boosters) != _booster(step + 1, steps, config.boosters):
                for layer in self.tuner_layers():
                    for container in (layer.xgblora_A, layer.xgblora_B):
                        if adapter in container:
                            optimizer.state.pop(container[adapter], None)
