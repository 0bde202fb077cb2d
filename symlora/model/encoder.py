"""Run a Hugging Face sequence classifier on flat batches.

    logits = head(h_first),    h = encoder(tokens of all sentences, end to end)

The model's own forward does all the work. Hooks adapt it: after the last layer, the first token of each sentence is
taken ([1, T, n] becomes [B, 1, n], which is what every head that reads `[:, 0]` expects), and what enters the head is
cast to float32. Where the last layer is built as BERT's, the first tokens are taken within it already, right after its
attention: output projection and feed-forward of the other tokens reach no head (exact; 1/8 of MiniLM's work).
Encoders that are not in `FLAT_MODEL_TYPES` run on batches padded to their longest sentence; members and order of the
batches are the same.
"""

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from symlora.data.batches import Batch, padded
from symlora.model import mpnet
from symlora.model.attention import NAME as FLAT
from symlora.model.attention import FlatLayout
from symlora.model.device import to_device
from symlora.model.dropout import Masks, drops, token_keys
from symlora.model.head import head_modules

# Encoders with transformers' attention interface, whose positions can be given and whose head takes the first token
# (ModernBERT's may take the mean of all); and MPNet (symlora.model.mpnet).
FLAT_MODEL_TYPES = frozenset(
    {"albert", "bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta"}
)


class Encoder(nn.Module):
    """A sequence classifier that takes flat batches.

    Args:
        model: A `...ForSequenceClassification` of transformers, loaded with `attn_implementation="flat"` to run flat.
        pad_id: The token that fills padded batches.
        masks: Where the model's Dropouts find the keys of a batch's rows.
    """

    def __init__(self, model: Any, pad_id: int, masks: Masks) -> None:
        super().__init__()
        self.model, self.pad_id, self.masks = model, pad_id, masks
        self.flat = model.config._attn_implementation == FLAT
        self.layout: FlatLayout | None = None  # of the batch that the model works on now
        base = getattr(model, model.base_model_prefix)
        accepted = inspect.signature(base.forward).parameters
        self._takes_token_types = "token_type_ids" in accepted
        positions = getattr(base.embeddings, "position_embeddings", None)
        # RoBERTa and its kin count positions from padding_idx + 1 (fairseq), BERT and its kin from 0.
        padding = getattr(positions, "padding_idx", None)
        self._first_position = 0 if padding is None else padding + 1
        self.max_length: int | None = None if positions is None else positions.num_embeddings - self._first_position
        if self.flat:
            # ModernBERT's layers stand alone, with a norm after them.
            stack = next(getattr(base, n) for n in ("encoder", "transformer", "final_norm") if hasattr(base, n))
            stack.register_forward_hook(self._take_first)
            last: Any = stack.layer[-1] if hasattr(stack, "layer") else None
            if model.config.model_type == "mpnet":
                mpnet.use_flat_attention(stack, self)
            elif last is not None and hasattr(last.attention, "output"):
                last.attention.output.register_forward_pre_hook(self._first_rows)
                last.attention.self.first_only = True
        for name in head_modules(model):
            # BERT's pooler is in the encoder, DeBERTa's is not.
            getattr(model if hasattr(model, name) else base, name).register_forward_pre_hook(_to_float32)

    @property
    def device(self) -> torch.device:
        """Return the device of the encoder's weights."""
        weights: Tensor = next(self.model.parameters())
        return weights.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of frozen weights and activations."""
        weights: Tensor = self.model.get_input_embeddings().weight
        return weights.dtype

    def forward(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Compute logits of each sentence or pair: float32 [B, classes].

        [B, 1] for regression.
        """
        logits: Tensor = self._flat(batch) if self.flat else self._padded(batch)
        return logits.float()

    def _flat(self, batch: Batch) -> Any:
        device, tokens = self.device, len(batch.input_ids)
        # Tokens of no sentence fill the batch up to a multiple of a power of 2 (1/16 to 1/32 of them), so that few
        # numbers of tokens occur: oneDNN compiles for each.
        extra = -tokens % (1 << max(4, tokens.bit_length() - 5)) if self.dtype == torch.bfloat16 else 0
        positions = torch.arange(tokens) - torch.repeat_interleave(batch.starts, batch.lengths) + self._first_position
        inputs = {"input_ids": batch.input_ids, "position_ids": positions}
        if self._takes_token_types:
            # Zeros must be explicit: the models' own default is a buffer no longer than max_position_embeddings.
            types = torch.zeros_like(batch.input_ids) if batch.token_type_ids is None else batch.token_type_ids
            inputs["token_type_ids"] = types
        inputs = {name: to_device(pad(value, (0, extra))[None], device) for name, value in inputs.items()}
        self.masks.begin(batch.sizes, batch.tokens(), extra)
        keys, heads = None, self.model.config.num_attention_heads
        if drops(self.model):
            tokens_keys = token_keys(self.masks.steps, batch)
            given = to_device(pad(tokens_keys, (0, extra)), device)
            self.masks.draw_for(given, to_device(tokens_keys[batch.starts], device))
            keys = self.masks.of_heads(given, heads)
        self.layout = FlatLayout.of(batch.lengths, heads, tokens + extra, device, keys)
        try:
            return self.model(**inputs, flat_layout=self.layout).logits
        finally:
            self.layout = None

    def _padded(self, batch: Batch) -> Any:
        inputs = padded(batch, self.pad_id)
        if not self._takes_token_types:
            inputs.pop("token_type_ids", None)
        self.masks.begin(batch.sizes, batch.tokens())
        if drops(self.model):
            keys = token_keys(self.masks.steps, batch)
            spread = torch.zeros_like(inputs["input_ids"]).masked_scatter_(inputs["attention_mask"].bool(), keys)
            self.masks.draw_for(*(to_device(part, self.device) for part in (spread, spread[:, 0])))
        given = {name: to_device(value, self.device) for name, value in inputs.items()}
        # Some of these models draw attention dropout themselves, from torch's generator.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices, enabled=self.model.training):
            if self.model.training:
                torch.manual_seed((self.masks.steps[0] + int(batch.places[0])) % (1 << 64))
            return self.model(**given).logits

    def _first_rows(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Take sentences' first tokens: [1, T, n] becomes [1, B, n]."""
        layout = self.layout
        return args if layout is None else tuple(arg.index_select(1, layout.first) for arg in args)

    def _take_first(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.layout is None:
            return output
        if isinstance(output, Tensor):
            if self.model.config.classifier_pooling == "mean":  # the head takes the mean again, of one row
                lengths = self.layout.lengths
                own = output[0, : int(lengths.sum())].float()
                on_device = to_device(lengths, own.device)
                return torch.segment_reduce(own, "mean", lengths=on_device, unsafe=True)[:, None]  # no check, no wait
            return self._first_rows(module, (output,))[0].transpose(0, 1)
        hidden = output.last_hidden_state
        if hidden.shape[1] != len(self.layout.first):
            (hidden,) = self._first_rows(module, (hidden,))
        output.last_hidden_state = hidden.transpose(0, 1)
        return output


def _to_float32(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)
