"""Train DoRA's magnitudes and LoRA-XS's direction: EDoRA.

Nasiri and Garraghan, arXiv 2501.12067.

    h = diag(m / ‖D‖) D x + b,   D = W0 + (α/r) B R A,   A = Σ_r V_rᵀ,   B = U_r,   where W0 = U Σ Vᵀ

    A      (r, n_in)    `edora_A`, frozen: the leading right singular vectors of W0 times their singular values
    B      (n_out, r)   `edora_B`, frozen: the leading left singular vectors
    R      (r, r)       `edora_R`, trained
    m      (n_out)      `edora_m`, the magnitude, trained
    ‖D‖    (n_out)      the norm of each row of D, one per output (DoRA writes Wᵀ, and so "column-wise")

‖D‖ is treated as a constant in the gradient, as in DoRA (arXiv 2402.09353, section 4.3) and in PEFT, so R's gradient
differs from a finite difference of the whole formula.

Start: m = ‖W0‖ by rows, R ~ N(0, init_std²) with init_std = 1e-5. Step 0 is nearly the base model's output and not to
the last bit: D is not quite W0, and dividing by a norm and multiplying by it rounds.

Trained values per matrix: r² + n_out. RoBERTa-base, query and value, r = 8: 19,968.

Source: the authors' code, Hamid-Nasiri/EDoRA: `utils/latent_utils.py` (`forward_edora`), `scripts/run_glue.py` (α = 16;
a standard deviation of 1e-5 or 5e-6), `utils/initialization_utils.py`. Of the paper only the abstract could be read
here. Where the code differs, this is the paper's method: `main_glue.py` as committed takes random A and B, the paper
has the SVD. The code's dropout also touches (m/‖D‖ - 1) W0 x; here it drops inputs of the low-rank part alone. Both
default to 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from symlora.adapters.factors import FactorLayer
from symlora.adapters.loraxs import LoraXsConfig, start_between
from symlora.adapters.tuner import AdapterModel


@dataclass
class EdoraConfig(LoraXsConfig, method="edora"):
    """Configure EDoRA; run_glue.py's defaults are LoRA-XS's."""


class EdoraLinear(FactorLayer):
    """Adapt a linear layer by EDoRA; the changes of several add."""

    adapter_layer_names = ("edora_R", "edora_m")
    converts_to_lora = False  # (m / ‖D‖ - 1) W0 has full rank
    factor_names = ("edora_B", "edora_R", "edora_A")  # of (α/r) B R A = D - W0
    frozen_layer_names = ("edora_A", "edora_B")

    def initial_values(self, config: EdoraConfig, r: int) -> dict[str, Tensor]:
        weight = self.original_weight().detach()
        A, R, B = start_between(weight, r, config.init_std if config.init_weights else 1.0)
        return {"edora_A": A, "edora_R": R, "edora_B": B, "edora_m": torch.linalg.norm(weight.to(A.dtype), dim=1)}

    def direction_norm(self, adapter: str) -> Tensor:
        """Compute ‖D‖, (n_out), without a gradient."""
        m = self.edora_m[adapter].detach()
        with torch.no_grad():
            D = self.original_weight().to(m.dtype) + self.factor_product(adapter, m.dtype)
            norm: Tensor = torch.linalg.norm(D, dim=1)
        # A row of zeros, as pruning leaves it, has m = 0: its quotient is 0 and not NaN.
        return norm.clamp_min(torch.finfo(norm.dtype).tiny)

    def adapter_output(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        """Compute diag(m / ‖D‖) D x - W0 x."""
        m = self.edora_m[adapter]
        bias: Tensor | None = getattr(self.get_base_layer(), "bias", None)
        product = base_out.to(m.dtype) if bias is None else base_out.to(m.dtype) - bias.to(m.dtype)
        ratio = m / self.direction_norm(adapter)
        out: Tensor = (ratio - 1) * product + ratio * super().adapter_output(adapter, x, base_out)
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Compute diag(m / ‖D‖) D - W0, (n_out, n_in), in `merge_dtype`."""
        weight = self.original_weight().to(self.merge_dtype)
        ratio = (self.edora_m[adapter] / self.direction_norm(adapter)).to(weight.dtype)[:, None]
        out: Tensor = (ratio - 1) * weight + ratio * self.factor_product(adapter, weight.dtype)
        return out


class EdoraModel(AdapterModel, config=EdoraConfig, layer=EdoraLinear):
    """Put EDoRA on a model's target modules."""
