"""LoRA-Mini: a LoRA in four factors, of which the two inner ones train (Singh, Aher and Garg, arXiv 2411.15804).

    h = W0 x + b + (α/r) B_aux B_tr A_tr A_aux x

    x, h    (..., n_in), (..., n_out)   input and output of a linear layer
    A_aux   (a, n_in)    `loramini_A_aux`, frozen
    A_tr    (r, a)       `loramini_A_train`
    B_tr    (b, r)       `loramini_B_train`
    B_aux   (n_out, b)   `loramini_B_aux`, frozen
    a, b    inner widths, `a_width` and `b_width`
    α, r    scale and rank

The paper writes ΔW = A B with A_aux (d, a), A_tr (a, r), B_tr (r, b) and B_aux (b, k); this is its transpose, as PEFT
and torch have it.

Trained: A_tr and B_tr. The frozen factors are drawn once, from the run's seed, and saved with the adapter, so that no
file depends on how a version of torch draws.

Trained values per matrix: r (a + b). RoBERTa-base, query and value, r = 8, a = b = 64: 24,576.

What was read: the abstract and a published summary of the method; no code was found. Not confirmed, and ours: the start
(LoRA's: A_aux and A_tr Kaiming uniform with a = √5, B_aux the same, B_tr = 0, so that step 0 is the base model's), the
scale α/r, and the default widths.
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
class LoraMiniConfig(LowRankConfig):
    """Configuration of LoRA-Mini: the fields of `LowRankConfig` and two more.

    Raises:
        ValueError: as `LowRankConfig`; or a width is not a whole number of at least 1.

    Args:
        a_width, b_width: inner widths of the two factors.
    """

    method: ClassVar[str] = "loramini"

    a_width: int = field(default=64, metadata={"help": "Inner width of A."})  # ours; a twelfth of RoBERTa-base's
    b_width: int = field(default=64, metadata={"help": "Inner width of B."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("a_width", "b_width"):
            check_whole(self.method, name, getattr(self, name))

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return self.r * (self.a_width + self.b_width)


class LoraMiniLinear(AdapterLayer):
    """A linear layer with LoRA-Mini adapters; see the top of this file.

    Raises:
        ValueError: r is more than a width, or an inner width more than the outer one.
    """

    adapter_layer_names = ("loramini_A_train", "loramini_B_train")
    frozen_layer_names = ("loramini_A_aux", "loramini_B_aux")
    loramini_A_train: nn.ParameterDict
    loramini_B_train: nn.ParameterDict
    loramini_A_aux: BufferDict
    loramini_B_aux: BufferDict

    def start(self, config: LoraMiniConfig, r: int) -> dict[str, Tensor]:
        a, b = config.a_width, config.b_width
        for name, width, outer in (("a_width", a, self.in_features), ("b_width", b, self.out_features)):
            if not r <= width <= outer:
                raise ValueError(
                    f"loramini: {name} = {width} must be from r = {r} up to {outer} (module {self.module_name!r}, "
                    f"whose weight is {self.shape_text})"
                )
        values = {
            "loramini_A_aux": torch.empty(a, self.in_features),
            "loramini_A_train": torch.empty(r, a),
            "loramini_B_aux": torch.empty(self.out_features, b),
        }
        for value in values.values():
            nn.init.kaiming_uniform_(value, a=math.sqrt(5))
        return values | {"loramini_B_train": torch.zeros(b, r) if config.init_weights else torch.randn(b, r)}

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        out = self.adapter_input(adapter, x)
        for container in (self.loramini_A_aux, self.loramini_A_train, self.loramini_B_train, self.loramini_B_aux):
            out = out @ container[adapter].mT
        return out * self.scaling[adapter]

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/r) B_aux B_tr A_tr A_aux, (n_out, n_in), in float32 or wider."""
        dtype = torch.promote_types(self.original_weight().dtype, torch.float32)
        factors = (self.loramini_B_aux, self.loramini_B_train, self.loramini_A_train, self.loramini_A_aux)
        B_aux, B_train, A_train, A_aux = (container[adapter].to(dtype) for container in factors)
        delta: Tensor = self.scaling[adapter] * (B_aux @ B_train) @ (A_train @ A_aux)
        return delta


class LoraMiniModel(AdapterModel):
    """A model with LoRA-Mini on its target modules. Made by `peft.get_peft_model(model, LoraMiniConfig())`."""

    prefix = "loramini_"
    tuner_layer_cls = LoraMiniLinear
