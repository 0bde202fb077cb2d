"""Train the two inner ones of four factors: LoRA-Mini.

Singh, Aher and Garg, arXiv 2411.15804.

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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from symlora.adapters.config import WHOLE, LowRankConfig, setting
from symlora.adapters.factors import FactorLayer, kaiming, zeros
from symlora.adapters.tuner import AdapterModel


@dataclass
class LoraMiniConfig(LowRankConfig):
    """Configure LoRA-Mini."""

    method: ClassVar[str] = "loramini"

    a_width: int = setting(64, "Inner width of A.", WHOLE)  # ours; a twelfth of RoBERTa-base's
    b_width: int = setting(64, "Inner width of B.", WHOLE)


class LoraMiniLinear(FactorLayer):
    """Adapt a linear layer by LoRA-Mini; see the top of this file.

    Raises:
        ValueError: r is more than a width, or an inner width more than the outer one.
    """

    adapter_layer_names = ("loramini_A_train", "loramini_B_train")
    frozen_layer_names = ("loramini_A_aux", "loramini_B_aux")

    def initial_values(self, config: LoraMiniConfig, r: int) -> dict[str, Tensor]:
        a, b = config.a_width, config.b_width
        for name, width, outer in (("a_width", a, self.in_features), ("b_width", b, self.out_features)):
            if not r <= width <= outer:
                raise ValueError(
                    f"loramini: {name} = {width} must be from r = {r} up to {outer} (module {self.module_name!r}, "
                    f"whose weight is {self.shape_text})"
                )
        return {
            "loramini_A_aux": kaiming(a, self.in_features),
            "loramini_A_train": kaiming(r, a),
            "loramini_B_aux": kaiming(self.out_features, b),
            "loramini_B_train": zeros(config, b, r),
        }

    def factors(self, adapter: str) -> Sequence[Tensor]:
        B_aux, B_train = self.loramini_B_aux[adapter], self.loramini_B_train[adapter]
        return B_aux, B_train, self.loramini_A_train[adapter], self.loramini_A_aux[adapter]


class LoraMiniModel(AdapterModel):
    """Put LoRA-Mini on a model's target modules. Made by `peft.get_peft_model(model, LoraMiniConfig())`."""

    config_class = LoraMiniConfig
    tuner_layer_cls = LoraMiniLinear
