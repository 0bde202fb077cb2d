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

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import grouped_mm

from symlora.adapters.symlora import SymLoraLinear
from symlora.model.device import to_device
from symlora.model.dropout import Masks, drops


def use_projection(model: nn.Module, masks: Masks) -> None:
    """Let a model's layers compute by `projected` where they can."""
    for layer in model.modules():
        if type(layer) in (LoraLinear, SymLoraLinear):
            layer.forward = partial(_forward, layer, masks)  # and no closure: it is copied with its layer


def _forward(layer: nn.Module, masks: Masks, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if fits([layer]) and not args and not kwargs:
        return projected([layer], x, masks)
    out: Tensor = type(layer).forward(layer, x, *args, **kwargs)
    return out


def fits(layers: Sequence[Any]) -> bool:
    """Tell whether `projected` computes what these layers compute now."""
    return all(_fits(layer, len(layers)) for layer in layers) and all(
        layer.scaling == layers[0].scaling for layer in layers[1:]
    )


def _fits(layer: Any, runs: int) -> bool:
    if type(layer) not in (LoraLinear, SymLoraLinear) or layer.disable_adapters or layer.merged:
        return False
    base, names = layer.get_base_layer(), layer.active_adapters
    if type(base) is not nn.Linear or base.weight.dtype != torch.bfloat16 or base.weight.requires_grad:
        return False
    if base.weight.is_mps:  # it has no grouped_mm
        return False
    if len(names) != 1 or names[0] not in layer.r or (runs > 1 and layer.r[names[0]] % 8):  # grouped_mm: 16 bytes a row
        return False
    if type(layer) is SymLoraLinear:
        factor, dropout, special = layer.symlora_Q[names[0]], layer.dropout, False
    else:
        factor, dropout = layer.lora_A[names[0]].weight, layer.lora_dropout
        special = names[0] in layer.lora_variant or layer.lora_bias[names[0]]
    return factor.dtype == torch.float32 and not special and not drops(dropout[names[0]])


def projected(layers: Sequence[Any], x: Tensor, masks: Masks) -> Tensor:
    """Apply each run's layer to its own rows, x [1, T, n]."""
    name, base = layers[0].active_adapters[0], layers[0].get_base_layer()
    symmetric = type(layers[0]) is SymLoraLinear
    lam = None
    if symmetric:
        U = torch.stack([layer.symlora_Q[name] for layer in layers])
        V = U.mT * torch.stack([layer.symlora_diag[name] for layer in layers])[..., None]
        if name in layers[0].symlora_lambda:
            lam = torch.cat([layer.symlora_lambda[name] for layer in layers])
    else:
        U = torch.stack([layer.lora_A[name].weight for layer in layers]).mT
        V = torch.stack([layer.lora_B[name].weight for layer in layers]).mT
    V = layers[0].scaling[name] * V
    ends = None
    if len(layers) > 1:
        ends = to_device(torch.tensor(masks.counts(x)[1]).cumsum(0).to(torch.int32), x.device)
    out: Tensor = _Projection.apply(x.flatten(0, -2), base.weight, base.bias, U, V, lam, ends)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


class _Projection(torch.autograd.Function):
    """The projection, with a backward pass written out.

    x [T, n], W0 [m, n], b [m], U [K, n, r], diag(m) Vᵀ [K, r, m], λ [K], and `ends`: last row of each run + 1, [K].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any, U: Tensor, V: Tensor, lam: Any, ends: Any) -> Tensor:
        U, V = U.to(x.dtype), V.to(x.dtype)
        low = _by_run(x, U, ends)
        out = _combined(nn.functional.linear(x, weight, bias), low, V, ends, lam, bias)
        ctx.save_for_backward(x, weight, U, V, low, *(t for t in (lam, ends) if t is not None))
        ctx.has = lam is not None, ends is not None
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, U, V, low, *others = ctx.saved_tensors
        lam, ends = others[0] if ctx.has[0] else None, others[-1] if ctx.has[1] else None
        dy = grads[0].contiguous()
        d_low = _by_run(dy, V.mT, ends)
        d_x = d_lam = None
        if ctx.needs_input_grad[0] or lam is not None:
            z = dy @ weight
            if lam is not None:
                rows = (x * z).sum(1, dtype=torch.float32)
                d_lam = rows.sum()[None] if ends is None else torch.zeros_like(lam).index_add_(0, _runs(x, ends), rows)
            if ctx.needs_input_grad[0]:
                d_x = _combined(z, d_low, U.mT, ends, lam)
        d_U, d_V = (_outer(a, b, ends).float() for a, b in ((x, d_low), (low, dy)))
        return d_x, None, None, d_U, d_V, d_lam, None


def _by_run(x: Tensor, factors: Tensor, ends: Tensor | None) -> Tensor:
    """Multiply each run's rows by its factor, [K, n, r]."""
    return x @ factors[0] if ends is None else grouped_mm(x, factors, offs=ends)


def _combined(
    out: Tensor, low: Tensor, factors: Tensor, ends: Tensor | None, lam: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """Return b + λ (out - b) + each run's `low` times its factor.

    `out` may change. With λ the sum is taken in float32 and rounded once: λ times a bfloat16 number alone would round
    back to it until λ is 2^-9 away from 1.
    """
    if lam is None:
        return out.addmm_(low, factors[0]) if ends is None else out.add_(grouped_mm(low, factors, offs=ends))
    shift = torch.zeros(1, device=out.device) if bias is None else bias.float()
    shifts = (1 - lam[:, None]) * shift
    if not out.is_cpu:  # without a number of λ on the host
        runs = torch.zeros(len(out), device=out.device, dtype=torch.int64) if ends is None else _runs(out, ends)
        added = low @ factors[0] if ends is None else grouped_mm(low, factors, offs=ends)
        return (added + shifts[runs] + lam[runs][:, None] * out).to(out.dtype)
    parts = [(out, low)] if ends is None else zip(*(t.tensor_split(ends[:-1].long()) for t in (out, low)), strict=True)
    for (own, rows), factor, vector, scale in zip(parts, factors.float(), shifts, lam.tolist(), strict=True):
        if bias is None:  # the gradient, whose low-rank part may be rounded by itself
            torch.addcmul(rows @ factor.to(own.dtype), own, torch.ones_like(own), value=scale, out=own)
            continue
        own.copy_(torch.addmm(vector, rows.float(), factor).add_(own, alpha=scale))
    return out


def _runs(rows: Tensor, ends: Tensor) -> Tensor:
    """Return the number of each row's run."""
    return torch.searchsorted(ends, torch.arange(len(rows), device=rows.device, dtype=ends.dtype), right=True)


def _outer(a: Tensor, b: Tensor, ends: Tensor | None) -> Tensor:
    """Sum up outer products of each run's rows: [K, n, r]."""
    return (a.mT @ b)[None] if ends is None else grouped_mm(a.mT, b, offs=ends)
