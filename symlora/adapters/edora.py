"""EDoRA: DoRA whose direction moves as in LoRA-XS (Nasiri and Garraghan, arXiv 2501.12067).

    h = diag(m / ‖D‖) D x + b,   D = W0 + (α/r) B R A,   A = Σ_r V_rᵀ,   B = U_r,   where W0 = U Σ Vᵀ

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W0, b  (n_out, n_in), (n_out)      its frozen weight and bias
    A      (r, n_in)    `edora_A`, frozen: the leading right singular vectors of W0 times their singular values
    B      (n_out, r)   `edora_B`, frozen: the leading left singular vectors
    R      (r, r)       `edora_R`
    m      (n_out)      `edora_m`, the magnitude
    ‖D‖    (n_out)      the norm of each row of D, one per output (DoRA writes Wᵀ, and so "column-wise")
    α, r                scale and rank

R and m are trained. ‖D‖ is no part of the gradient, as in DoRA (arXiv 2402.09353, section 4.3) and in PEFT: R's
gradient is that of the formula with ‖D‖ held constant, and a finite difference of the whole does not agree with it.

Start: m = ‖W0‖ by rows, R ~ N(0, init_std²) with init_std = 1e-5. Step 0 is nearly the base model's output and not to
the last bit: D is not W0 quite, and dividing by a norm and multiplying by it rounds.

Trained values per matrix: r² + n_out. RoBERTa-base, query and value, r = 8: 19,968; the code's own 48 matrices (query,
value and both output layers) at r = 16: 49,152.

Source: the authors' code, Hamid-Nasiri/EDoRA: `utils/latent_utils.py` (`forward_edora`), `scripts/run_glue.py` (α = 16;
a standard deviation of 1e-5 or 5e-6), `utils/initialization_utils.py`. Of the paper only the abstract could be read
here. Where the code says other things, this is the paper's method: `main_glue.py` as committed takes random A and B
(`reconstruct_config_no_svd.yaml`), the paper's title and abstract have the SVD. The code's dropout also touches
(m/‖D‖ - 1) W0 x; ours, as everywhere in this package, drops inputs of the low-rank part alone. Both default to 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig
from symlora.adapters.loraxs import check_init_std, start_between


@dataclass
class EdoraConfig(LowRankConfig):
    """Configuration of EDoRA: the fields of `LowRankConfig` and one more.

    Args:
        init_std: standard deviation of R at the start.

    Raises:
        ValueError: as `LowRankConfig`; or init_std is not a finite number of at least 0.
    """

    method: ClassVar[str] = "edora"

    alpha: float = field(default=16, metadata={"help": "The low-rank part is multiplied by alpha / r."})  # run_glue.py
    init_std: float = field(default=1e-5, metadata={"help": "Standard deviation of R at the start."})  # run_glue.py

    def __post_init__(self) -> None:
        super().__post_init__()
        check_init_std(self.method, self.init_std)

    def parameter_count(self, in_features: int, out_features: int) -> int:
        return self.r**2 + out_features


class EdoraLinear(AdapterLayer):
    """A linear layer with EDoRA adapters; see the top of this file. The changes of several adapters add."""

    adapter_layer_names = ("edora_R", "edora_m")
    frozen_layer_names = ("edora_A", "edora_B")
    edora_R: nn.ParameterDict
    edora_m: nn.ParameterDict
    edora_A: BufferDict
    edora_B: BufferDict

    def start(self, config: EdoraConfig, r: int) -> dict[str, Tensor]:
        weight = self.original_weight().detach()
        A, R, B = start_between(weight, r, config.init_std if config.init_weights else 1.0)
        return {"edora_A": A, "edora_R": R, "edora_B": B, "edora_m": torch.linalg.norm(weight.to(A.dtype), dim=1)}

    def low_rank(self, adapter: str, dtype: torch.dtype) -> Tensor:
        """(α/r) B R A, (n_out, n_in)."""
        A, R, B = (getattr(self, name)[adapter].to(dtype) for name in ("edora_A", "edora_R", "edora_B"))
        out: Tensor = B @ R @ A * self.scaling[adapter]
        return out

    def direction_norm(self, adapter: str) -> Tensor:
        """‖D‖, (n_out), without a gradient."""
        m = self.edora_m[adapter].detach()
        with torch.no_grad():
            norm: Tensor = torch.linalg.norm(
                self.original_weight().to(m.dtype) + self.low_rank(adapter, m.dtype), dim=1
            )
        # A row of zeros, as pruning leaves it, has m = 0: its quotient is 0 and not NaN.
        return norm.clamp_min(torch.finfo(norm.dtype).tiny)

    def adapted(self, adapters: Sequence[str], x: Tensor, base_out: Tensor) -> Tensor:
        out = base_out
        for adapter in adapters:  # each on W0 x itself, not on what the one before left
            out = out + self.change(adapter, x, base_out)
        return out

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        A, R, B, m = (getattr(self, name)[adapter] for name in ("edora_A", "edora_R", "edora_B", "edora_m"))
        bias: Tensor | None = getattr(self.get_base_layer(), "bias", None)
        product = base_out.to(m.dtype) if bias is None else base_out.to(m.dtype) - bias.to(m.dtype)
        low_rank = self.adapter_input(adapter, x) @ A.mT @ R.mT @ B.mT * self.scaling[adapter]
        ratio = m / self.direction_norm(adapter)
        out: Tensor = (ratio - 1) * product + ratio * low_rank
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """diag(m / ‖D‖) D - W0, (n_out, n_in), in float32 or wider."""
        weight = self.original_weight()
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        ratio = (self.edora_m[adapter] / self.direction_norm(adapter)).to(weight.dtype)
        out: Tensor = (ratio - 1)[:, None] * weight + ratio[:, None] * self.low_rank(adapter, weight.dtype)
        return out


class EdoraModel(AdapterModel):
    """A model with EDoRA on its target modules."""

    prefix = "edora_"
    tuner_layer_cls = EdoraLinear
