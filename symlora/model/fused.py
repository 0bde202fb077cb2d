"""Compile the elementwise parts of a bfloat16 training step.

Each function here is compiled by torch.compile when it is first called within `fusing(True)`; one compilation serves
every number of tokens. Results agree with the uncompiled parts, which are elsewhere, within bfloat16's rounding; masks
are equal. GELU and LayerNorm without dropout stay torch's own kernels, which are faster than compiled ones (measured,
torch 2.13).
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from symlora.errors import SymloraError

# `auto` compiles, for up to a minute, if a run trains on at least this many sentences. Per run and not per pack: a
# resumed pack that has lost runs must decide as before.
ENOUGH = 50_000
# Elements from which a compiled part pays off: one call takes 50 to 100 µs, a call of torch's own 5 µs.
SMALLEST = 200_000
_state = {"on": False}


@contextmanager
def fusing(on: bool) -> Iterator[None]:
    """Turn the compiled parts on or off within this context."""
    before, _state["on"] = _state["on"], on
    try:
        yield
    finally:
        _state["on"] = before


def pick_compile(setting: str, device: torch.device, precision: str, sentences: int) -> bool:
    """Resolve `train.compile` for runs of so many sentences; try the compiler.

    Raises:
        SymloraError: It is `on`, and torch.compile does not work here.
    """
    if setting == "off" or precision != "bf16":
        return False
    if setting == "auto" and (device.type != "cpu" or sentences < ENOUGH):
        return False
    rows = torch.ones(3, 16, device=device, dtype=torch.bfloat16)
    try:
        with fusing(True), torch.no_grad():
            combine(rows, rows, torch.ones(3, 1, device=device), rows[0])
    except Exception as error:  # torch raises many kinds: no compiler, a folder that cannot be written, ...
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if setting == "on":
            raise SymloraError(f"train.compile=on: torch.compile fails here ({reason}); give auto or off.") from error
        print(f"train.compile=auto: torch.compile fails here ({reason}); continuing without it", file=sys.stderr)
        return False
    return True


def fuses(dtype: torch.dtype, size: int) -> bool:
    """Tell whether to use the compiled parts for this many numbers."""
    return _state["on"] and dtype == torch.bfloat16 and size >= SMALLEST and not torch.is_inference_mode_enabled()


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called within `fusing(True)`."""
    made: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if not _state["on"]:
            return function(*args)
        if made:
            return made[0](*args)
        import torch._inductor.config
        from torch.fx.experimental import _config

        torch._inductor.config.compile_threads = 1  # compile in this process, because worker processes would outlive it
        # The tests' type checks wrap all functions in one wrapper, which torch.compile takes for one function.
        made.append(torch.compile(inspect.unwrap(function), dynamic=True, fullgraph=True))
        # Two sizes that are equal now need not be so at the next step.
        with _config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            return made[0](*args)

    return call


@_compiled
def packed_mask(keys: Tensor, columns: Tensor, odd: int, least: int, kept: int) -> Tensor:
    """Draw a mask, four 16-bit numbers in each word.

    Keys [R, 1] and columns [w] become words [R, w]. `kept` are the bits of a number whose draw is `least` or more.
    """
    words = (keys ^ columns) * odd
    words = words + (words >> 32)
    found = torch.where((words >> 48) >= least, kept << 48, 0)
    for place in (0, 16, 32):
        found = found | torch.where(((words << (48 - place)) >> 48) >= least, kept << place, 0)
    return found


@_compiled
def drop_add_norm(
    x: Tensor, residual: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute LayerNorm(x · mask + residual) of rows.

    Also returns the sum, its mean and its inverse deviation.
    """
    total = (x.float() * mask.float() + residual.float()).to(x.dtype)
    values = total.float()
    mean = values.mean(-1, keepdim=True)
    inverse = torch.rsqrt((values - mean).square().mean(-1, keepdim=True) + eps)
    return ((values - mean) * inverse * weight.float() + bias.float()).to(x.dtype), total, mean, inverse


@_compiled
def drop_add_norm_back(
    dy: Tensor, total: Tensor, mean: Tensor, inverse: Tensor, mask: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and residual in `drop_add_norm`."""
    normed, scaled = (total.float() - mean) * inverse, dy.float() * weight.float()
    d_total = (scaled - scaled.mean(-1, keepdim=True) - normed * (scaled * normed).mean(-1, keepdim=True)) * inverse
    return (d_total * mask.float()).to(dy.dtype), d_total.to(dy.dtype)


@_compiled
def gather_three(a: Tensor, b: Tensor, c: Tensor, index: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same rows of a · scale, b and c."""
    return (a * scale)[index], b[index], c[index]


@_compiled
def softmax_drop(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities of rows of scores, and these times the mask."""
    probabilities = torch.softmax(scores.float(), -1)
    return probabilities.to(scores.dtype), (probabilities * mask.float()).to(scores.dtype)


@_compiled
def softmax_back(d_dropped: Tensor, dropped: Tensor, probabilities: Tensor, sums: Tensor) -> Tensor:
    """Return the gradient of scores; sums [R, 1] are of dO · O."""
    found = d_dropped.float() * dropped.float() - probabilities.float() * sums.float()
    return found.to(dropped.dtype)


@_compiled
def combine(out: Tensor, added: Tensor, lam: Tensor, bias: Tensor) -> Tensor:
    """Return bias + λ (out - bias) + added, rounded once.

    λ is float32 [T, 1].
    """
    return (added.float() + (1 - lam) * bias.float() + lam * out.float()).to(out.dtype)


@_compiled
def combine_back(out: Tensor, added: Tensor, lam: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return λ out + added, and each row's sum of x · out."""
    return (added.float() + lam * out.float()).to(out.dtype), (x.float() * out.float()).sum(-1)


class _DropAddNorm(torch.autograd.Function):
    """`drop_add_norm` with its gradient; weight and bias are frozen."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        out: Tensor
        out, *kept = drop_add_norm(*args)
        ctx.save_for_backward(*kept, *args[2:4])  # mask and weight
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *drop_add_norm_back(grads[0], *ctx.saved_tensors), None, None, None, None


def use_fused_output(model: torch.nn.Module) -> None:
    """Let BERT's output blocks (dense, dropout, residual, LayerNorm) use `drop_add_norm`."""
    for module in model.modules():
        if {name for name, _ in module.named_children()} == {"dense", "dropout", "LayerNorm"}:
            module.forward = functools.partial(_output, module)


def _output(block: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
    x, norm, drop = block.dense(hidden_states), block.LayerNorm, block.dropout
    frozen = type(norm) is torch.nn.LayerNorm and not norm.weight.requires_grad and not norm.bias.requires_grad
    if not (fuses(x.dtype, x.numel()) and frozen and norm.weight.dtype == x.dtype and drop.training and drop.p > 0):
        plain: Tensor = norm(drop(x) + input_tensor)
        return plain
    mask = drop.mask_of(x)
    rows = (t.flatten(0, -2) for t in (x, input_tensor, mask))
    out: Tensor = _DropAddNorm.apply(*rows, norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
    return out.view(x.shape)
