"""Factor both factors of a LoRA again: LoRA².

Zhang et al., arXiv 2408.06854.

    h = W0 x + b + (α/r) (W_bb W_aa) diag(E) (W_B W_A) x

    W_A    (k, n_in)    `lora2_A`
    W_B    (r, k)       `lora2_B`
    E      (r)          `lora2_E`
    W_aa   (k, r)       `lora2_aa`
    W_bb   (n_out, k)   `lora2_bb`
    k      inner width, `inner_width`

All five train. Start: the four matrices N(0, 0.02²), E = 0, so that step 0 is the base model's.

The rank of ΔW is at most min(k, r). The authors' code (Godz-z/LoRA-2, loralib/loralib/LoRA2.py) has k = 8 whatever r
is, so that r = 16 gives rank 8; here k is r unless it is given, and the rank can reach r.

Beside the loss, the penalty `orth_reg_weight` · mean over the four matrices of ‖M - I‖, M the k x k product of each
matrix with itself (W_A W_Aᵀ, W_Bᵀ W_B, W_aa W_aaᵀ, W_bbᵀ W_bb). A fifth term in the authors' code repeats whichever of
the four came last, and is left out.

Pruning, as in AdaLoRA, where `target_r` is given: after every step the sensitivity s = |p · ∂loss/∂p| of each value of
E, W_B and W_aa is followed by a moving average s̄ (`beta1`), and |s - s̄| by another (`beta2`); an entry's importance
is its own product of the two averages, plus the mean product over its row of W_B, plus that over its column of
W_aa. Over all layers together the least important entries of E are set to 0, chosen anew every `deltaT` steps; how many
are kept: `entries_kept`. No default prunes: the authors' scripts set the steps task by task (RTE: r from 4 to 3, 600 of
3,900 steps, 1,800 and 1), and a pruned adapter is no longer of the size that it is compared at.

Trained values per matrix: k (n_in + n_out) + 2 k r + r. RoBERTa-base, query and value, r = k = 8: 298,176.

Read: the authors' code, all of the above being from there. The paper itself could not be read here; whether it sets
k is not confirmed. The code divides by r + 1e-5, which is r here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symlora.adapters.config import NOT_NEGATIVE, POSITIVE, STEPS, WHOLE, LowRankConfig, in_steps, number, setting
from symlora.adapters.factors import FactorLayer, zeros
from symlora.adapters.tuner import AdapterModel

_SCORED = ("E", "B", "aa")  # what the importance of an entry of E is read from
_BETWEEN = number("above 0 and below 1", lambda value: 0 < value < 1)


@dataclass
class Lora2Config(LowRankConfig, method="lora2"):
    """Configure LoRA²; names of the pruning are PEFT's (`AdaLoraConfig`)."""

    inner_width: int | None = setting(None, "Inner width k; None takes r.", WHOLE)
    init_std: float = setting(0.02, "Standard deviation of the four matrices at the start.", POSITIVE)  # authors' code
    orth_reg_weight: float = setting(0.1, "Weight of the orthogonality penalty; 0 has none.", NOT_NEGATIVE)  # the same
    target_r: int | None = setting(None, "Average rank of a layer after pruning; None does not prune.", WHOLE)
    # PEFT's defaults, from tinit to deltaT; step counts below 1 are shares of all training steps.
    tinit: float = setting(0, "Steps at the beginning without pruning.", STEPS)
    tfinal: float = setting(0, "Steps at the end during which the number of kept entries stays constant.", STEPS)
    deltaT: int = setting(1, "Steps from one choice of entries to the next.", WHOLE)
    beta1: float = setting(0.85, "Moving average of the sensitivity.", _BETWEEN)  # the authors' scripts
    beta2: float = setting(0.85, "Moving average of its uncertainty.", _BETWEEN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_r is not None and self.target_r > self.r:
            raise ValueError(f"lora2: target_r must be at most r = {self.r}, got {self.target_r!r}")


class Lora2Linear(FactorLayer):
    """Adapt a linear layer by LoRA²."""

    adapter_layer_names = ("lora2_A", "lora2_B", "lora2_E", "lora2_aa", "lora2_bb")
    factor_names = ("lora2_bb", "lora2_aa", "lora2_E", "lora2_B", "lora2_A")
    # Moving averages of sensitivity and of its uncertainty, kept so that a stopped run goes on exactly.
    frozen_layer_names = changing_layer_names = tuple(
        f"lora2_{kind}_{name}" for kind in ("sensitivity", "uncertainty") for name in _SCORED
    )

    def initial_values(self, config: Lora2Config, r: int) -> dict[str, Tensor]:
        k = r if config.inner_width is None else config.inner_width
        least = min(self.in_features, self.out_features)
        self.require(k <= least, f"lora2: inner_width = {k} is more than {least}")
        std = config.init_std if config.init_weights else 0.5
        shapes = {"A": (k, self.in_features), "B": (r, k), "aa": (k, r), "bb": (self.out_features, k)}
        values = {f"lora2_{name}": torch.randn(shape) * std for name, shape in shapes.items()}
        values["lora2_E"] = zeros(config, r)
        if config.target_r is not None:
            for container in self.frozen_layer_names:
                values[container] = torch.zeros_like(values[f"lora2_{container.rsplit('_', 1)[-1]}"])
        return values

    def orthogonality(self, adapter: str) -> Tensor:
        """Average ‖M - I‖ over the four matrices."""
        bb, aa, _, B, A = self.factors(adapter)
        unit = torch.eye(A.shape[0], dtype=A.dtype, device=A.device)
        return torch.stack([torch.linalg.norm(M - unit) for M in (A @ A.mT, B.mT @ B, aa @ aa.mT, bb.mT @ bb)]).mean()

    @torch.no_grad()
    def follow(self, adapter: str, beta1: float, beta2: float) -> None:
        """Update the moving averages with this step's sensitivities."""
        for value, mean, spread in self._scored(adapter):
            if value.grad is not None:
                now = (value * value.grad).abs()
                mean.lerp_(now, 1 - beta1)
                spread.lerp_((now - mean).abs(), 1 - beta2)

    def importance(self, adapter: str) -> Tensor:
        """Compute the importance of each entry of E: (r)."""
        E, B, aa = (mean * spread for _, mean, spread in self._scored(adapter))
        return E + B.mean(1) + aa.mean(0)

    def _scored(self, adapter: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Iterate over values, sensitivities and uncertainties."""
        for name in _SCORED:
            names = (f"lora2_{name}", f"lora2_sensitivity_{name}", f"lora2_uncertainty_{name}")
            value, mean, spread = (getattr(self, each)[adapter] for each in names)
            yield value, mean, spread


class Lora2Model(AdapterModel, config=Lora2Config, layer=Lora2Linear):
    """Put LoRA² on a model's target modules."""

    def penalty(self) -> Tensor | None:
        """Average the active adapters' orthogonality penalties over the layers."""
        found = [
            config.orth_reg_weight * layer.orthogonality(adapter)
            for layer, adapter, config in self.adapted()
            if config.orth_reg_weight
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
            last = steps - in_steps(config.tfinal, steps)
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
    """Count the entries of E kept after a step; None: all.

    kept = target + (entries - target) (1 - (step - tinit) / (steps - tfinal - tinit))³
    target = target_r · layers
    """
    assert config.target_r is not None
    target = min(config.target_r * layers, entries)
    first, last = in_steps(config.tinit, steps), steps - in_steps(config.tfinal, steps)
    if first >= last:
        raise ValueError(
            f"lora2: tinit={config.tinit} and tfinal={config.tfinal} leave none of the {steps} steps for "
            "pruning. Make them smaller (below 1 they are shares of the steps)."
        )
    if step <= first:
        return None
    left = max(0.0, 1 - (step - first) / (last - first))
    return target + int((entries - target) * left**3)
