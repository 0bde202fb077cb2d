"""Train the two inner factors of four: LoRA-Mini.

Singh, Aher and Garg, arXiv 2411.15804.

    h = W0 x + b + (α/r) B_aux B_tr A_tr A_aux x

    A_aux   (a, n_in)    `loramini_A_aux`, frozen
    A_tr    (r, a)       `loramini_A_train`
    B_tr    (b, r)       `loramini_B_train`
    B_aux   (n_out, b)   `loramini_B_aux`, frozen
    a, b    inner widths, `a_width` and `b_width`

This is the transpose of the paper's ΔW = A B, as PEFT and torch have it. Trained: A_tr and B_tr. The frozen factors are
drawn once, from the run's seed, and saved with the adapter, so that no file depends on how a version of torch draws.

Trained values per matrix: r (a + b). RoBERTa-base, query and value, r = 8, a = b = 64: 24,576.

What was read: the abstract and a published summary of the method; no code was found. Not confirmed, and ours: the start
(LoRA's: A_aux and A_tr Kaiming uniform with a = √5, B_aux the same, B_tr = 0, so that step 0 is the base model's), the
scale α/r, and the default widths.
"""

from dataclasses import dataclass

from torch import Tensor

from symlora.adapters.config import WHOLE, LowRankConfig, setting
from symlora.adapters.factors import FactorLayer, kaiming, zeros
from symlora.adapters.tuner import AdapterModel


@dataclass
class LoraMiniConfig(LowRankConfig, method="loramini"):
    """Configure LoRA-Mini."""

    a_width: int = setting(64, "Inner width of A.", WHOLE)  # ours; a twelfth of RoBERTa-base's
    b_width: int = setting(64, "Inner width of B.", WHOLE)


class LoraMiniLinear(FactorLayer):
    """Adapt a linear layer by LoRA-Mini."""

    adapter_layer_names = ("loramini_A_train", "loramini_B_train")
    frozen_layer_names = ("loramini_A_aux", "loramini_B_aux")
    factor_names = ("loramini_B_aux", "loramini_B_train", "loramini_A_train", "loramini_A_aux")

    def initial_values(self, config: LoraMiniConfig, r: int) -> dict[str, Tensor]:
        a, b = config.a_width, config.b_width
        for name, width, outer in (("a_width", a, self.in_features), ("b_width", b, self.out_features)):
            self.require(r <= width <= outer, f"loramini: {name} = {width} must be from r = {r} up to {outer}")
        return {
            "loramini_A_aux": kaiming(a, self.in_features),
            "loramini_A_train": kaiming(r, a),
            "loramini_B_aux": kaiming(self.out_features, b),
            "loramini_B_train": zeros(config, b, r),
        }


class LoraMiniModel(AdapterModel, config=LoraMiniConfig, layer=LoraMiniLinear):
    """Put LoRA-Mini on a model's target modules."""
