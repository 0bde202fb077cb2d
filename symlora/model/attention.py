"""Compute self-attention over a flat batch, without padding outside of it.

A flat batch is one row that holds all sentences end to end.

    out_i = softmax(scale · q_i K_s(i)ᵀ) V_s(i),    s(i): the sentence that token i belongs to

The encoder stays Hugging Face's own: this function is registered with `transformers.AttentionInterface` under the
name "flat" and receives its `FlatLayout` through the model's keyword arguments (`flat_layout=...`), as their flash
attention receives sequence lengths. Sentences of like length are gathered into a few padded groups; each group is
plain matmul-softmax-matmul, because scaled_dot_product_attention in bf16 on a CPU is 3 to 8 times slower (measured,
torch 2.13). On a GPU, and in float32 at 100 tokens and more, scaled_dot_product_attention is used where no dropout
mask of ours is due.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from symlora.model.dropout import Dropout, scaled_mask

NAME = "flat"
GROUPS = 3  # with 16 sentences a batch, more groups save less padding than their operators cost
GROUP_TOKENS = 48  # one more group for each so many tokens of the longest sentence: short ones are cheap to pad
SDPA_FROM = 100  # tokens; below it plain matmuls are faster in float32 on a CPU


@dataclass(frozen=True)
class Group:
    """Sentences attended to together."""

    sentences: int  # number g of sentences
    length: int  # tokens S of the longest
    mask: Tensor | None  # added to the scores, 0 or -inf: [g, 1, 1, S]; None when all are of one length
    run: int = 0  # number in the pack of the run that all of them belong to; 0 where groups are not kept apart by run


@dataclass(frozen=True)
class FlatLayout:
    """Map each token of a flat batch to attention and back."""

    groups: tuple[Group, ...]  # the padded groups, one after the other among the P gathered rows
    # Token of each gathered row: int64 [P]; padding points at its sentence's first token, so that no sentence meets
    # another's values, be they NaN
    gather: Tensor
    scatter: Tensor  # gathered row of each token: int64 [T]
    padding: Tensor  # gathered rows that are padding: int64

    @staticmethod
    def of(
        lengths: Int[Tensor, "sentences"],
        dtype: torch.dtype,
        device: torch.device,
        sizes: tuple[int, ...] | None = None,
    ) -> "FlatLayout":
        """Lays out sentences of the given lengths (int64 [B], on the CPU).

        No group holds sentences of two of the runs that have `sizes` sentences each; None: groups as if all were one's.
        """
        starts = torch.cumsum(lengths, 0) - lengths
        groups: list[Group] = []
        gather: list[Tensor] = []
        reals: list[Tensor] = []
        for run, own in enumerate(torch.split(torch.arange(len(lengths)), list(sizes or (len(lengths),)))):
            order = own[torch.argsort(lengths[own], stable=True)]
            most = GROUPS + (len(own) - 1) // 32
            wanted = min(most, 1 + int(lengths[own].max()) // GROUP_TOKENS, len(own))
            for members in torch.tensor_split(order, wanted):
                size = int(lengths[members].max())
                column = torch.arange(size)
                real = column < lengths[members, None]
                gather.append((starts[members, None] + torch.where(real, column, 0)).flatten())
                reals.append(real.flatten())
                mask = None
                if not bool(real.all()):
                    mask = torch.zeros(real.shape, dtype=dtype).masked_fill_(~real, float("-inf"))[:, None, None, :]
                    mask = mask.to(device)
                groups.append(Group(len(members), size, mask, run))
        rows, real_rows = torch.cat(gather), torch.cat(reals)
        scatter = torch.empty(int(lengths.sum()), dtype=torch.int64)
        scatter[rows[real_rows]] = real_rows.nonzero().flatten()
        padding = (~real_rows).nonzero().flatten()
        return FlatLayout(tuple(groups), rows.to(device), scatter.to(device), padding.to(device))


class Gather(torch.autograd.Function):
    """Gather rows of x by `index`.

    The backward pass gathers by the inverse index, where torch's would add row by row.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse), None, None


class Scatter(torch.autograd.Function):
    """Scatter real rows to their tokens; padding gets gradient 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scatter: Tensor, gather: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(gather, padding)
        return x.index_select(0, scatter)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        gather, padding = ctx.saved_tensors
        return grads[0].index_select(0, gather).index_fill_(0, padding, 0.0), None, None, None


def flat_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens size"],
    key: Float[Tensor, "1 heads tokens size"],
    value: Float[Tensor, "1 heads tokens size"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    flat_layout: FlatLayout | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 tokens heads size"], None]:
    """Attend within each sentence of a flat batch.

    The signature is that of `transformers.AttentionInterface`.

    Args:
        module: The attention module; its Dropout (ours) draws the mask of the attention probabilities.
        query, key, value: [1, heads, T, d].
        attention_mask: Must be None: the layout says which tokens belong together.
        scaling: Factor on the scores; d**-0.5 when None.
        dropout: Probability at which attention probabilities are dropped.
        flat_layout: The layout of this batch.
        others: What models pass to every attention function; not used here.

    Returns:
        [1, T, heads, d], and None for the weights.

    Raises:
        ValueError: Called without a layout or with a mask, or dropout is due and the module has none of ours.
    """
    if flat_layout is None or attention_mask is not None:
        raise ValueError(
            "flat attention takes flat_layout=... and no attention_mask; use symlora.model.Encoder to call it"
        )
    heads, tokens, size = query.shape[1:]
    scale = size**-0.5 if scaling is None else scaling
    rows = (t[0].transpose(0, 1).reshape(tokens, heads * size) for t in (query * scale, key, value))
    gathered: list[Tensor] = [Gather.apply(t, flat_layout.gather, flat_layout.scatter) for t in rows]  # type: ignore[no-untyped-call]
    drop = _dropout_of(module) if dropout > 0.0 else None
    # split and not slices: its backward pass is one concatenation, theirs a tensor of zeros for each slice
    counts = [group.sentences * group.length for group in flat_layout.groups]
    outputs = []
    for group, parts in zip(
        flat_layout.groups, zip(*(torch.split(t, counts) for t in gathered), strict=True), strict=True
    ):
        shape = (group.sentences, group.length, heads, size)
        q, k, v = (part.view(shape).transpose(1, 2) for part in parts)
        outputs.append(_attend(q, k, v, group, drop).transpose(1, 2).reshape(-1, heads * size))
    joined: Tensor = Scatter.apply(  # type: ignore[no-untyped-call]
        torch.cat(outputs), flat_layout.scatter, flat_layout.gather, flat_layout.padding
    )
    return joined.view(1, tokens, heads, size), None


def _dropout_of(module: nn.Module) -> Dropout:
    """Return an attention module's Dropout: `dropout`, in ALBERT `attention_dropout`."""
    for name in ("dropout", "attention_dropout"):
        child = getattr(module, name, None)
        if isinstance(child, Dropout):
            return child
    raise ValueError(f"{type(module).__name__} has no Dropout of ours: call use_own_dropout on the model first")


def _attend(q: Tensor, k: Tensor, v: Tensor, group: Group, drop: Dropout | None) -> Tensor:
    mask = group.mask
    fused = q.is_cuda or (q.dtype == torch.float32 and q.shape[2] >= SDPA_FROM)
    if fused and drop is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    scores = torch.matmul(q, k.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    probabilities = torch.softmax(scores, dim=-1)
    if drop is not None:
        generators = drop.streams.generators
        run = group.run if len(generators) > 1 else 0
        probabilities = probabilities * scaled_mask(probabilities, drop.p, generators[run])
    return torch.matmul(probabilities, v)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def register() -> None:
    """Makes `attn_implementation="flat"` known to transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, flat_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
