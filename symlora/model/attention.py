"""Compute self-attention over a flat batch, without padding outside of it.

A flat batch is one row that holds all sentences end to end.

    out_i = softmax(scale · q_i K_s(i)ᵀ + bias_i) V_s(i),    s(i): the sentence that token i belongs to

The encoder stays Hugging Face's own: this function is registered with `transformers.AttentionInterface` under the
name "flat" and receives its `FlatLayout` through the model's keyword arguments (`flat_layout=...`), as their flash
attention receives sequence lengths. Sentences of like length, of whichever run, are gathered into a few padded groups,
straight into the layout of batched matmuls; each group is plain matmul-softmax-matmul, because
scaled_dot_product_attention in bf16 on a CPU is 3 to 8 times slower (measured, torch 2.13).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from symlora.model.device import to_device
from symlora.model.dropout import Dropout
from symlora.model.fused import fuses, gather_three, softmax_back, softmax_drop

NAME = "flat"
STEP = 16  # groups are as long as a multiple of so many tokens: fewer shapes, and a whole vector of float32 numbers
# A sentence joins a longer group where its scores grow by less than what a further group costs (in scores).
GROUP_COST = {"cpu": 20_000, "cuda": 10_000_000}


@dataclass(frozen=True)
class Group:
    """Sentences attended to together."""

    rows: slice  # their gathered rows
    shape: tuple[int, int, int]  # number of sentences g, heads h, tokens S of the longest
    shortest: int  # tokens of the shortest
    mask: Tensor | None  # 0 or -inf, added to the scores of keys from `shortest` on: float32 [g, 1, 1, S - shortest]


@dataclass(frozen=True)
class FlatLayout:
    """Map tokens and heads of a flat batch to groups and back.

    Rows of a [tokens, heads · d] matrix are meant as rows of [tokens · heads, d].
    """

    groups: tuple[Group, ...]  # one after the other among the P gathered rows, each in order (sentence, head, token)
    lengths: Tensor  # tokens of each sentence: int64 [B], on the CPU
    # Row of each gathered row: int64 [P]; padding points at its sentence's first token, so that no sentence meets
    # another's values, be they NaN
    gather: Tensor
    scatter: Tensor  # gathered row of each row: int64 [T · h]; P for tokens of no sentence
    padding: Tensor  # gathered rows that are padding: int64
    first: Tensor  # token that each sentence begins with: int64 [B]
    keys: Tensor | None = None  # of the gathered rows, for dropout: int64 [P]

    @staticmethod
    def of(
        lengths: Int[Tensor, "sentences"], heads: int, tokens: int, device: torch.device, keys: Tensor | None = None
    ) -> "FlatLayout":
        """Lay out sentences of the given lengths.

        Lengths are int64 [B], on the CPU; `tokens` counts those of no sentence too; `keys` are of tokens and heads.
        """
        size = lengths.numpy()
        starts = np.cumsum(size) - size
        head = np.arange(heads)[:, None]
        groups: list[Group] = []
        gather: list[npt.NDArray[np.int64]] = []
        reals: list[npt.NDArray[np.bool_]] = []
        end = 0
        for members in grouped(size, GROUP_COST.get(device.type, GROUP_COST["cuda"]) / heads):
            shape = (len(members), heads, -(-int(size[members].max()) // STEP) * STEP)
            column, shortest = np.arange(shape[2]), int(size[members].min())
            real = column < size[members, None]
            token = starts[members, None] + np.where(real, column, 0)
            gather.append((token[:, None] * heads + head).reshape(-1))
            reals.append(np.broadcast_to(real[:, None], shape).reshape(-1))
            mask = None
            if shortest < shape[2]:
                hidden = torch.from_numpy(~real[:, None, None, shortest:])
                mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
                mask = to_device(mask, device)
            groups.append(Group(slice(end, end := end + int(np.prod(shape))), shape, shortest, mask))
        rows, real_rows = np.concatenate(gather), np.concatenate(reals)
        scatter = np.full(tokens * heads, end)
        scatter[rows[real_rows]] = np.flatnonzero(real_rows)
        found = (rows, scatter, np.flatnonzero(~real_rows), starts)
        tables = (to_device(torch.from_numpy(table), device) for table in found)
        layout = FlatLayout(tuple(groups), lengths, *tables)
        return layout if keys is None else FlatLayout(**vars(layout) | {"keys": keys.flatten()[layout.gather]})


def grouped(lengths: npt.NDArray[np.int64], cost: float) -> list[npt.NDArray[np.int64]]:
    """Group sentences of similar length, the longest first."""
    rounded = -(-lengths // STEP) * STEP
    sizes, counts = np.unique(rounded, return_counts=True)
    firsts, waste = [int(sizes[-1])], 0.0  # the length of each group, and the scores that padding adds to the last
    for size, count in zip(sizes[-2::-1].tolist(), counts[-2::-1].tolist(), strict=True):
        waste += count * (firsts[-1] ** 2 - size**2)
        if waste > cost:
            firsts.append(size)
            waste = 0.0
    ends = [*firsts[1:], 0]
    return [np.flatnonzero((rounded <= first) & (rounded > end)) for first, end in zip(firsts, ends, strict=True)]


class _Attention(torch.autograd.Function):
    """Attention of all groups; q, k, v: [T · h, d].

    With P the probabilities, M the scaled mask of dropout and O = (P ∘ M) V,

        dV = (P ∘ M)ᵀ dO,   dS = (P ∘ M) ∘ (dO Vᵀ) - P ∘ rowsum(dO ∘ O),   dQ = scale · dS K,   dK = scale · dSᵀ Q

    since each row of P ∘ M ∘ (dO Vᵀ) sums up to dO · O.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        layout: FlatLayout,
        drop: Dropout | None,
        queries: slice,
        bias: Tensor | None,
    ) -> Tensor:
        if fuses(q.dtype, q.numel()):
            q, k, v = gather_three(q, k, v, layout.gather, scale)
        else:
            q, k, v = (t.index_select(0, layout.gather) for t in (q * scale, k, v))
        out = _rows_for(q, queries)
        kept = []
        columns = None if drop is None else drop.masks.columns(drop.site, layout.groups[0].shape[2], q.device)
        for group in layout.groups:
            query, key, value, target = _of_group(group, q, k, v, out)
            query = query[:, queries]
            scores = torch.bmm(query, key.mT)
            if bias is not None:
                scores = scores.float()
                scores.view(*group.shape[:2], -1, group.shape[2]).add_(_cut(bias, group, queries))
            if group.mask is not None:  # in one dtype: adding float32 to bfloat16 would copy the scores
                scores.view(*group.shape[:2], -1, group.shape[2])[..., group.shortest :] += group.mask.to(scores.dtype)
            mask = None
            if drop is not None and columns is not None and layout.keys is not None:
                keys, length = layout.keys[group.rows].view(target.shape[:2])[:, queries], group.shape[2]
                mask = drop.mask(keys, columns[: length // 4], length, q.dtype)
            if mask is not None and fuses(scores.dtype, scores.numel()):
                pair = softmax_drop(scores.flatten(0, 1), mask.flatten(0, 1))
                probabilities, dropped = (part.view(scores.shape) for part in pair)
            else:
                probabilities = torch.softmax(scores, -1).to(q.dtype)  # its sums are float32
                dropped = probabilities if mask is None else probabilities * mask
            torch.bmm(dropped, value, out=target[:, queries])
            kept += [probabilities, dropped]
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.scale, ctx.layout, ctx.queries = scale, layout, queries
        ctx.bias_shape = None if bias is None else bias.shape
        return out.index_select(0, layout.scatter)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, *kept = ctx.saved_tensors
        layout, needs_k = ctx.layout, ctx.needs_input_grad[1]
        d_out = grads[0].index_select(0, layout.gather).index_fill_(0, layout.padding, 0.0)
        sums = (d_out * out[:-1]).sum(-1, keepdim=True)
        d_q, d_k, d_v = _rows_for(q, ctx.queries), _rows_for(q), _rows_for(q)
        d_bias = torch.zeros(ctx.bias_shape, device=out.device) if ctx.needs_input_grad[7] else None
        for group, probabilities, dropped in zip(layout.groups, kept[::2], kept[1::2], strict=True):
            query, key, value, d_target, row_sums = _of_group(group, q, k, v, d_out, sums)
            query, d_target, row_sums = (t[:, ctx.queries] for t in (query, d_target, row_sums))
            to_query, to_key, to_value = _of_group(group, d_q, d_k, d_v)
            torch.bmm(dropped.mT, d_target, out=to_value)
            d_scores = torch.bmm(d_target, value.mT)
            if fuses(q.dtype, d_scores.numel()):
                parts = (part.flatten(0, 1) for part in (d_scores, dropped, probabilities, row_sums))
                d_scores = softmax_back(*parts).view(d_scores.shape)
            else:
                d_scores.mul_(dropped).sub_(probabilities * row_sums)
            torch.bmm(d_scores, key, out=to_query[:, ctx.queries])
            if d_bias is not None:
                summed = d_scores.view(*group.shape[:2], -1, group.shape[2]).sum(0, dtype=torch.float32)
                _cut(d_bias, group, ctx.queries).add_(summed)
            if needs_k:
                torch.bmm(d_scores.mT, query, out=to_key)
        if needs_k and fuses(q.dtype, q.numel()):
            return *gather_three(d_q, d_k, d_v, layout.scatter, ctx.scale), None, None, None, None, d_bias
        found = [d.index_select(0, layout.scatter) for d in ((d_q, d_k, d_v) if needs_k else (d_q, d_v))]
        found[0].mul_(ctx.scale)
        return found[0], found[1] if needs_k else None, found[-1], None, None, None, None, d_bias


def _rows_for(rows: Tensor, queries: slice = slice(None)) -> Tensor:
    """Allocate memory for the results of gathered rows."""
    # One row more, of 0, is for tokens of no sentence. Where only some queries attend, the other rows are 0 too.
    made = rows.new_empty(len(rows) + 1, rows.shape[1])
    (made if queries.stop is not None else made[-1]).zero_()
    return made


def _of_group(group: Group, *rows: Tensor) -> list[Tensor]:
    """Return a group's part of gathered rows: [g · h, S, …]."""
    sentences, heads, length = group.shape
    return [part[group.rows].view(sentences * heads, length, -1) for part in rows]


def _cut(bias: Tensor, group: Group, queries: slice) -> Tensor:
    """Cut a bias, [h, L, L], to a group's length and queries."""
    length = group.shape[2]
    return bias[:, :length, :length][:, queries]


def flat_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens size"],
    key: Float[Tensor, "1 heads tokens size"],
    value: Float[Tensor, "1 heads tokens size"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float | nn.Module = 0.0,
    flat_layout: FlatLayout | None = None,
    bias: Float[Tensor, "heads longest longest"] | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 tokens heads size"], None]:
    """Attend within each sentence of a flat batch.

    The signature is that of `transformers.AttentionInterface`.

    Args:
        module: The attention module; its Dropout (ours) draws the mask of the attention probabilities. Where its
            `first_only` is True, only sentences' first tokens attend, and the others get 0.
        query, key, value: [1, heads, T, d].
        attention_mask: Must be None: the layout says which tokens belong together.
        scaling: Factor on the scores; d**-0.5 when None.
        dropout: Probability at which attention probabilities are dropped, or (in ModernBERT) the module that drops.
        flat_layout: The layout of this batch.
        bias: Added to the scores of every sentence: float32 [heads, L, L], L at least the length of every group.
        sliding_window: Tokens attend only to tokens fewer places away than this; None: to all.
        others: What models pass to every attention function; not used here.

    Returns:
        [1, T, heads, d], and None for the weights.

    Raises:
        ValueError: Called without a layout or with a mask, or dropout is on and the module has no symlora Dropout.
    """
    if flat_layout is None or attention_mask is not None:
        raise ValueError(
            "flat attention takes flat_layout=... and no attention_mask; use symlora.model.encoder.Encoder"
        )
    heads, tokens, size = query.shape[1:]
    rows = (t.transpose(1, 2).reshape(tokens * heads, size) for t in (query, key, value))
    drop = _dropout_of(module) if dropout else None
    longest = flat_layout.groups[0].shape[2]
    if sliding_window is not None and sliding_window < longest:
        bias = _window(sliding_window, longest, query.device)
    scale = size**-0.5 if scaling is None else scaling
    queries = slice(0, 1 if getattr(module, "first_only", False) else None)
    out: Tensor = _Attention.apply(*rows, scale, flat_layout, drop, queries, bias)  # type: ignore[no-untyped-call]
    return out.view(1, tokens, heads, size), None


@lru_cache(maxsize=8)
def _window(size: int, length: int, device: torch.device) -> Float[Tensor, "1 length length"]:
    """Make a bias that hides tokens `size` places away and more."""
    place = torch.arange(length, device=device)
    hidden = (place[:, None] - place).abs() >= size
    # Finite, or a query that is padding and sees only padded keys would be NaN.
    return torch.zeros(1, length, length, device=device).masked_fill_(hidden, torch.finfo(torch.float32).min / 2)


def _dropout_of(module: nn.Module) -> Dropout | None:
    """Return a module's `dropout` or `attention_dropout`; None if it keeps all."""
    for name in ("dropout", "attention_dropout"):
        child = getattr(module, name, None)
        if isinstance(child, Dropout):
            return child if child.p > 0.0 else None
    raise ValueError(f"{type(module).__name__} has no symlora Dropout: call use_own_dropout on the model first")


def register() -> None:
    """Register `attn_implementation="flat"` with transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, flat_attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
