"""Run MPNet's attention on flat batches.

    scores_ij = q_i · k_j / √d + bias[head, j - i]

The bias is learnt, one table for all layers. transformers' MPNet takes no other attention function and hands nothing
on to its layers, so two methods are replaced on the model: the one that makes the table, as long as the longest group
instead of the batch, and the forward of each attention block.
"""

from functools import partial
from typing import Any

from torch import Tensor

from symlora.model.attention import flat_attention


def use_flat_attention(stack: Any, encoder: Any) -> None:
    """Replace methods of an `MPNetEncoder`.

    Args:
        stack: The layers; changed in place.
        encoder: The `symlora.model.encoder.Encoder` around them, which knows the batch's layout.
    """
    stack.compute_position_bias = partial(_position_bias, stack, encoder)  # partials are copied with their model
    for layer in stack.layer:
        layer.attention.forward = partial(_attention, layer.attention, encoder)
    stack.layer[-1].attention.attn.first_only = True


def _position_bias(stack: Any, encoder: Any, hidden: Tensor) -> Tensor:
    """Make the table for the longest group: float32 [h, L, L]."""
    longest = encoder.layout.groups[0].shape[2]
    bias: Tensor = type(stack).compute_position_bias(stack, hidden.new_empty(1, longest))
    return bias[0].float()


def _attention(block: Any, encoder: Any, hidden: Tensor, mask: None, position_bias: Tensor, **_: Any) -> tuple[Tensor]:
    """Compute an attention block: [1, T, n], at last [1, B, n]."""
    attn = block.attn
    shape = (1, hidden.shape[1], attn.num_attention_heads, attn.attention_head_size)
    q, k, v = (project(hidden).view(shape).transpose(1, 2) for project in (attn.q, attn.k, attn.v))
    drop = attn.dropout.p if attn.training else 0.0
    out, _weights = flat_attention(attn, q, k, v, mask, dropout=drop, flat_layout=encoder.layout, bias=position_bias)
    context = out.flatten(2)
    if hasattr(attn, "first_only"):
        context, hidden = (states.index_select(1, encoder.layout.first) for states in (context, hidden))
    return (block.LayerNorm(block.dropout(attn.o(context)) + hidden),)
