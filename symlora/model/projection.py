"""Compute SymLoRA's and LoRA's adapted projections in bfloat16.

For all runs of a pack at once:

    y = λ (W0 x) + b + V diag(m) Uᵀ x

    LoRA      U = Aᵀ, V = B, m = α/r, no λ
    SymLoRA   U = V = Q, m = (α/r) Λ

What the methods compute is defined by their own layers (symlora.adapters.symlora for SymLoRA); this is the same for a
frozen bfloat16 encoder, without their float32 copies of the activations. Products are bfloat16 with sums in float32, of
factors that stay float32 parameters; λ is applied in float32. With z = W0ᵀ dy and p = Uᵀ x:

    dx = λ z + U diag(m) Vᵀ dy,   dλ = Σ x · z,   d(V diag(m)) = Σ dy pᵀ,   dU = Σ x (diag(m) Vᵀ dy)ᵀ
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from symlora.adapters.symlora import SymLoraLinear
from symlora.model.dropout import Masks, drops
from symlora.model.fused import combine, combine_back, fuses
from symlora.model.grouped import RunRows, by_run, finite, outer

_NONE: Mapping[str, Tensor] = {}


def use_projection(model: nn.Module, masks: Masks) -> None:
    """Let a model's layers use `projected` where possible."""
    for layer in model.modules():
        if type(layer) in (LoraLinear, SymLoraLinear):
            layer.forward = partial(_forward, layer, masks)  # not a closure, so that it is copied with its layer


def _forward(layer: nn.Module, masks: Masks, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if masks.given is None and fits(layer) and not args and not kwargs:  # otherwise it is one of a pack, under vmap
        return projected([layer], x, masks)
    out: Tensor = type(layer).forward(layer, x, *args, **kwargs)
    return out


def fits(layer: Any, runs: int = 1) -> bool:
    """Tell whether `projected` can replace the forward pass of runs' layers."""
    if type(layer) not in (LoraLinear, SymLoraLinear) or layer.disable_adapters or layer.merged:
        return False
    base, names = layer.get_base_layer(), layer.active_adapters
    if type(base) is not nn.Linear or base.weight.dtype != torch.bfloat16:
        return False
    if any(value.requires_grad for value in base.parameters()):  # they get no gradient here
        return False
    if base.weight.is_mps:  # it has no grouped_mm
        return False
    if len(names) != 1 or names[0] not in layer.r or (runs > 1 and layer.r[names[0]] % 8):  # grouped_mm: 16 bytes a row
        return False
    if type(layer) is SymLoraLinear:
        factor, dropout, special = layer.symlora_Q[names[0]], layer.dropout, names[0] in layer.symlora_start_Q
    else:
        factor, dropout = layer.lora_A[names[0]].weight, layer.lora_dropout
        special = names[0] in layer.lora_variant or layer.lora_bias[names[0]]
    return factor.dtype == torch.float32 and not special and not drops(dropout[names[0]])


def projected(layers: Sequence[Any], x: Tensor, masks: Masks, stacked: Mapping[str, Tensor] = _NONE) -> Tensor:
    """Apply each run's layer to its own rows, x [1, T, n].

    `stacked` has parameters of all runs by name, [K, …].
    """
    name, base, scale = layers[0].active_adapters[0], layers[0].get_base_layer(), layers[0].scaling

    def of_runs(part: str) -> Tensor:
        if part in stacked:
            return stacked[part]
        own = [layer.get_parameter(part) for layer in layers]
        return own[0][None] if len(own) == 1 else torch.stack(own)

    V = diag = lam = None
    if type(layers[0]) is SymLoraLinear:
        U, diag = of_runs(f"symlora_Q.{name}"), of_runs(f"symlora_diag.{name}")
        if name in layers[0].symlora_lambda:
            lam = of_runs(f"symlora_lambda.{name}").flatten()
    else:
        U, V = of_runs(f"lora_A.{name}.weight").mT, of_runs(f"lora_B.{name}.weight").mT
    rows = RunRows.of(masks.counts(x)[1], x.device) if len(layers) > 1 else None
    args = (x.flatten(0, -2), base.weight, base.bias, U, V, diag, lam, scale[name], rows)
    out: Tensor = _Projection.apply(*args)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


class _Projection(torch.autograd.Function):
    """The projection, with a backward pass written out.

    x [T, n], W0 [m, n], b [m], U [K, n, r], Vᵀ [K, r, m] or None where V is U, Λ [K, r] or None where it is 1, λ [K] or
    None, α/r, and the rows' runs unless K is 1.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Any, U: Tensor, V: Any, diag: Any, lam: Any, scale: float, rows: Any
    ) -> Tensor:
        m = scale if diag is None else scale * diag[..., None]
        down, up = U.to(x.dtype), ((U.mT if V is None else V) * m).to(x.dtype)
        low = by_run(x, down, rows)
        out = _combined(nn.functional.linear(x, weight, bias), low, up, rows, lam, bias)
        ctx.save_for_backward(x, weight, down, up, low, U if V is None else None, diag, lam)
        ctx.scale, ctx.rows = scale, rows
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, low, U, diag, lam = ctx.saved_tensors
        rows, m = ctx.rows, ctx.scale if diag is None else ctx.scale * diag[..., None]
        dy = grads[0].contiguous()
        d_low = by_run(dy, up.mT, rows)
        d_x = d_lam = None
        if ctx.needs_input_grad[0] or lam is not None:
            z = dy @ weight
            if lam is not None and ctx.needs_input_grad[0] and fuses(z.dtype, z.numel()):
                d_x, dots = combine_back(z, by_run(d_low, down.mT, rows), _of_rows(lam, z, rows), x)
            else:
                dots = None if lam is None else (x * z).sum(1, dtype=torch.float32)
                d_x = _combined(z, d_low, down.mT, rows, lam) if ctx.needs_input_grad[0] else None
            if dots is not None and lam is not None:
                d_lam = dots.sum()[None] if rows is None else rows.sums(dots)
        # A row of x or dy that is not finite has a low-rank product that is not.
        all_finite = rows is not None and x.is_cpu and finite(low, d_low)
        d_U, d_V = (outer(a, b, rows, all_finite).float() for a, b in ((x, d_low), (low, dy)))
        d_V_m, d_diag = d_V * m, None
        if U is not None:  # V is U
            d_diag = ctx.scale * (d_V * U.mT).sum(-1)
            d_U += d_V_m.mT
        return d_x, None, None, d_U, d_V_m if U is None else None, d_diag, d_lam, None, None


def _combined(
    out: Tensor, low: Tensor, factors: Tensor, rows: RunRows | None, lam: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """Return b + λ (out - b) + each run's `low` times its factor.

    `out` may change. With λ the sum is taken in float32 and rounded once: λ times a bfloat16 number alone would round
    back to it until λ is 2^-9 away from 1.
    """
    if lam is None:
        return out.addmm_(low, factors[0]) if rows is None else out.add_(by_run(low, factors, rows))
    if not out.is_cpu or fuses(out.dtype, out.numel()):
        shift = out.new_zeros(out.shape[1]) if bias is None else bias
        result: Tensor = combine(out, by_run(low, factors, rows), _of_rows(lam, out, rows), shift)
        return result
    parts = [(out, low)]
    if rows is not None:
        parts = list(zip(*(t.tensor_split(rows.ends[:-1].long()) for t in (out, low)), strict=True))
    if bias is None:  # the gradient, whose low-rank part may be rounded by itself
        for (own, part), factor, scale in zip(parts, factors, lam.tolist(), strict=True):
            # The alpha of torch.add would be rounded.
            torch.addcmul(part @ factor, own, torch.ones_like(own), value=scale, out=own)
        return out
    shifts = (1 - lam[:, None]) * bias  # a sum of two bfloat16 numbers would lie half-way between two too often
    for (own, part), factor, shift, scale in zip(parts, factors.float(), shifts, lam.tolist(), strict=True):
        own.copy_(torch.addmm(shift, part.float(), factor).add_(own, alpha=scale))
    return out


def _of_rows(lam: Tensor, out: Tensor, rows: RunRows | None) -> Tensor:
    """Return each row's λ: [T, 1]."""
    return lam.repeat(len(out))[:, None] if rows is None else lam[rows.runs][:, None]
