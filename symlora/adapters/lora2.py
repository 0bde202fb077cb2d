"""LoRA²: a LoRA whose two factors are of low rank themselves, with a diagonal between (Zhang et al., arXiv 2408.06854).

    h = W0 x + b + (α/r) (W_bb W_aa) diag(E) (W_B W_A) x

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W_A    (k, n_in)    `lora2_A`
    W_B    (r, k)       `lora2_B`
    E      (r)          `lora2_E`
    W_aa   (k, r)       `lora2_aa`
    W_bb   (n_out, k)   `lora2_bb`
    k      inner width, `inner_width`
    α, r   scale and rank

All five train. Start: the four matrices N(0, 0.02²), E = 0, so that step 0 is the base model's.

The rank of ΔW is at most min(k, r). The authors' code (Godz-z/LoRA-2, loralib/loralib/LoRA2.py) has k = 8 whatever r
is, so that r = 16 gives rank 8; here k is r unless it is given, and the rank can reach r.

Beside the loss, the penalty `orth_reg_weight` · mean over the four matrices of ‖M - I‖, M the k x k product of each
matrix with itself (W_A W_Aᵀ, W_Bᵀ W_B, W_aa W_aaᵀ, W_bbᵀ W_bb), as in the authors' code. A fifth term of theirs repeats
whichever of the four came last, and is left out.

Pruning, as in AdaLoRA, where `target_r` is given: after every step the sensitivity s = |p · ∂loss/∂p| of each value of
E, W_B and W_aa is followed by a moving average s̄ (`beta1`), and |s - s̄| by another (`beta2`); an entry of E counts as
much as its own product of the two averages, plus the mean product over its row of W_B, plus that over its column of
W_aa. Over all layers together the least important entries of E are set to 0, of all `r` a layer at first, and of all
but `target_r` a layer (on the average) at the end; the number kept falls with the cube of the steps that are left
between `tinit` and the last `tfinal`, and the entries are chosen anew every `deltaT` steps. No default prunes: the
authors' scripts set the steps task by task (RTE: r from 4 to 3, 600 of 3,900 steps, 1,800 and 1), and a pruned adapter
is no longer of the size that it is compared at.

Trained values per matrix: k (n_in + n_out) + 2 k r + r. RoBERTa-base, query and value, r = k = 8: 298,176.

Read: the authors' code, all of the above being from there. The paper itself could not be read here; whether it sets
k is not confirmed. The code divides by r + 1e-5, which is r here.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.config import LowRankConfig, check_whole

_SCORED = ("E", "B", "aa")  # what the importance of an entry of E is read from


@dataclass
class Lora2Config(LowRankConfig):
    """Configuration of LoRA²: the fields of `LowRankConfig` and those below, named as in PEFT's `AdaLoraConfig`.

    Raises:
        ValueError: as `LowRankConfig`; or one of these is out of range.

    Args:
        inner_width: k; None takes r.
        init_std: standard deviation of the four matrices at the start.
        orth_reg_weight: weight of the orthogonality penalty; 0 has none.
        target_r: average rank of a layer at the end of the pruning; None does not prune.
        tinit, tfinal: steps at the beginning without pruning, and at the end with the number kept no longer falling;
            below 1 they are shares of the training's steps.
        deltaT: steps from one choice of entries to the next.
        beta1, beta2: of the moving averages of sensitivity and of its uncertainty.
    """

    method: ClassVar[str] = "lora2"

    inner_width: int | None = field(default=None, metadata={"help": "Inner width; None takes r."})
    init_std: float = field(default=0.02, metadata={"help": "Standard deviation at the start."})  # the authors' code
    orth_reg_weight: float = field(default=0.1, metadata={"help": "Weight of the penalty."})  # the authors' code
    target_r: int | None = field(default=None, metadata={"help": "Average rank after pruning; None does not prune."})
    tinit: float = field(default=0, metadata={"help": "Steps before the pruning."})  # PEFT's defaults, to deltaT
    tfinal: float = field(default=0, metadata={"help": "Steps after the pruning."})
    deltaT: int = field(default=1, metadata={"help": "Steps from one choice of entries to the next."})
    beta1: float = field(default=0.85, metadata={"help": "Average of the sensitivity."})  # the authors' scripts
    beta2: float = field(default=0.85, metadata={"help": "Average of its uncertainty."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_width is not None:
            check_whole(self.method, "inner_width", self.inner_width)
        if self.target_r is not None:
            check_whole(self.method, "target_r", self.target_r)
            if self.target_r > self.r:
                raise ValueError(f"lora2: target_r must be at most r = {self.r}, got {self.target_r!r}")
        check_whole(self.method, "deltaT", self.deltaT)
        for name in ("tinit", "tfinal"):
            if not 0 < getattr(self, name) < 1:
                check_whole(self.method, name, getattr(self, name), 0)
        if not isinstance(self.init_std, (int, float)) or not 0 < self.init_std < float("inf"):
            raise ValueError(f"lora2: init_std must be a finite number above 0, got {self.init_std!r}")
        if not isinstance(self.orth_reg_weight, (int, float)) or not 0 <= self.orth_reg_weight < float("inf"):
            raise ValueError(
                f"lora2: orth_reg_weight must be a finite number, at least 0, got {self.orth_reg_weight!r}"
            )
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value < 1:
                raise ValueError(f"lora2: {name} must be above 0 and below 1, got {value!r}")

    def parameter_count(self, in_features: int, out_features: int) -> int:
        k = self.r if self.inner_width is None else self.inner_width
        return k * (in_features + out_features) + 2 * k * self.r + self.r


class Lora2Linear(AdapterLayer):
    """A linear layer with LoRA² adapters; see the top of this file.

    Raises:
        ValueError: r or the inner width is more than a width of the layer.
    """

    adapter_layer_names = ("lora2_A", "lora2_B", "lora2_E", "lora2_aa", "lora2_bb")
    # Moving averages of sensitivity and of its uncertainty, kept so that a stopped run goes on exactly.
    frozen_layer_names = changing_layer_names = tuple(
        f"lora2_{kind}_{name}" for kind in ("sensitivity", "uncertainty") for name in _SCORED
    )
    lora2_A: nn.ParameterDict
    lora2_B: nn.ParameterDict
    lora2_E: nn.ParameterDict
    lora2_aa: nn.ParameterDict
    lora2_bb: nn.ParameterDict

    def start(self, config: Lora2Config, r: int) -> dict[str, Tensor]:
        k = r if config.inner_width is None else config.inner_width
        if k > min(self.in_features, self.out_features):
            raise ValueError(
                f"lora2: inner_width = {k} is more than module {self.module_name!r} allows: its weight is "
                f"{self.shape_text}"
            )
        shapes = {"A": (k, self.in_features), "B": (r, k), "aa": (k, r), "bb": (self.out_features, k)}
        values = {f"lora2_{name}": torch.randn(shape) * config.init_std for name, shape in shapes.items()}
        values["lora2_E"] = torch.zeros(r) if config.init_weights else 1 / config.init_std * torch.randn(r)
        if config.target_r is not None:
            for container in self.frozen_layer_names:
                values[container] = torch.zeros_like(values[f"lora2_{container.rsplit('_', 1)[-1]}"])
        return values

    def change(self, adapter: str, x: Tensor, base_out: Tensor) -> Tensor:
        inner = self.adapter_input(adapter, x) @ self.lora2_A[adapter].mT @ self.lora2_B[adapter].mT
        inner = inner * (self.scaling[adapter] * self.lora2_E[adapter])
        out: Tensor = inner @ self.lora2_aa[adapter].mT @ self.lora2_bb[adapter].mT
        return out

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/r) (W_bb W_aa) diag(E) (W_B W_A), (n_out, n_in), in float32 or wider."""
        dtype = torch.promote_types(self.original_weight().dtype, torch.float32)
        A, B, E, aa, bb = (getattr(self, name)[adapter].to(dtype) for name in self.adapter_layer_names)
        delta: Tensor = (bb @ aa * (self.scaling[adapter] * E)) @ (B @ A)
        return delta

    def orthogonality(self, adapter: str) -> Tensor:
        """Mean over the four matrices of the Frobenius norm of their k x k product with themselves minus I."""
        A, B, _, aa, bb = (getattr(self, name)[adapter] for name in self.adapter_layer_names)
        unit = torch.eye(A.shape[0], dtype=A.dtype, device=A.device)
        return torch.stack([torch.linalg.norm(M - unit) for M in (A @ A.mT, B.mT @ B, aa @ aa.mT, bb.mT @ bb)]).mean()

    @torch.no_grad()
    def follow(self, adapter: str, beta1: float, beta2: float) -> None:
        """Takes this step's sensitivities into the moving averages."""
        for name in _SCORED:
            value = getattr(self, f"lora2_{name}")[adapter]
            if value.grad is None:
                continue
            mean: BufferDict = getattr(self, f"lora2_sensitivity_{name}")
            spread: BufferDict = getattr(self, f"lora2_uncertainty_{name}")
            now = (value * value.grad).abs()
            mean[adapter].lerp_(now, 1 - beta1)
            spread[adapter].lerp_((now - mean[adapter]).abs(), 1 - beta2)

    def importance(self, adapter: str) -> Tensor:
        """Of each entry of E: (r)."""
        E, B, aa = (
            getattr(self, f"lora2_sensitivity_{name}")[adapter] * getattr(self, f"lora2_uncertainty_{name}")[adapter]
            for name in _SCORED
        )
        scores: Tensor = E + B.mean(1) + aa.mean(0)
        return scores


class Lora2Model(AdapterModel):
    """A model with LoRA² on its target modules. Made by `peft.get_peft_model(model, Lora2Config())`."""

    prefix = "lora2_"
    tuner_layer_cls = Lora2Linear

    def penalty(self) -> Tensor | None:
        """The weighted mean of the layers' orthogonality penalties, over the active adapters."""
        found = [
            self.peft_config[adapter].orth_reg_weight * layer.orthogonality(adapter)
            for layer in self.tuner_layers()
            for adapter in layer.active_adapters
            if adapter in layer.r and self.peft_config[adapter].orth_reg_weight
        ]
        return torch.stack(found).mean() if found else None

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        for adapter in self.active_adapters:
            config = self.peft_config[adapter]
            if config.target_r is None:
                continue
            layers = [layer for layer in self.tuner_layers() if adapter in layer.r]
            sizes = [layer.r[adapter] for layer in layers]
            last = steps - _in_steps(config.tfinal, steps)
            if step <= last:  # after that, the same entries are set to 0 again and again
                for layer in layers:
                    layer.follow(adapter, config.beta1, config.beta2)
            kept = entries_kept(config, step, steps, sum(sizes), len(layers))
            if kept is None or (step % config.deltaT and step < last):
                continue
            scores = torch.cat([layer.importance(adapter) for layer in layers])
            pruned = torch.ones_like(scores, dtype=torch.bool)
            pruned[scores.topk(kept).indices] = False
            for layer, mask in zip(layers, torch.split(pruned, sizes), strict=True):
                layer.lora2_E[adapter].masked_fill_(mask, 0.0)


def entries_kept(config: Lora2Config, step: int, steps: int, entries: int, layers: int) -> int | None:
    """How many entries of E all layers keep together after this step; None while nothing is pruned.

        kept = target + (entries - target) (1 - (step - tinit) / (steps - tfinal - tinit))³
        target = target_r · layers

    Args:
        config: its `target_r` is set.
        step: number of the step just done, from 1.
        steps: number of steps of the whole training.
        entries: of E, in all layers.
        layers: their number.
    """
    assert config.target_r is not None
    target = min(config.target_r * layers, entries)
    first, last = _in_steps(config.tinit, steps), steps - _in_steps(config.tfinal, steps)
    if step <= first and step < last:
        return None
    left = max(0.0, 1 - (step - first) / max(1, last - first))
    return target + int((entries - target) * left**3)


def _in_steps(value: float, steps: int) -> int:
    return round(value * steps) if value < 1 else int(value)
