"""Draw dropout masks from seed, step, site and place alone.

    mask = scale · [draw(seed, step, sentence, token, site, column) ≥ p]

A mask is a pure function of these: it does not depend on earlier draws, the other runs of a pack, padding, device or
the number of processes, and a checkpoint need not store it. A 64-bit key for each token (`token_keys`: seed, step,
place of the sentence in its run's batch, place of the token) meets a key for each four columns of a site in one integer
hash, whose 64 bits are four draws. The probability is rounded to a multiple of 2^-16 (0.1 becomes 0.1000061), and kept
values are scaled by the inverse of the rounded one, so that the expectation is exact.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from symlora.data.batches import Batch
from symlora.model import fused
from symlora.model.device import to_device
from symlora.seeds import seed_sequence

_LEVELS = 1 << 16
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of SplitMix64
_ODD = _FIRST - (1 << 64)  # as torch's signed integers write it
_HEADS = zlib.crc32(b"heads of an attention layer")


def mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit words: SplitMix64's output function, a bijection."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(_FIRST)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(_SECOND)
    return words ^ (words >> np.uint64(31))


def sequence(start: int, count: int) -> npt.NDArray[np.uint64]:
    """Return the first `count` words of SplitMix64 from this start."""
    with np.errstate(over="ignore"):
        return mixed(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(start % (1 << 64)))


@lru_cache(maxsize=1024)
def _seed_word(seed: int) -> int:
    return int(seed_sequence(seed, "dropout").generate_state(1, np.uint64)[0])


def step_key(seed: int, step: int) -> int:
    """Return the 64-bit key of one step of one run."""
    return int(sequence(_seed_word(seed) + step * _SECOND, 1)[0])


def token_keys(steps: Sequence[int], batch: Batch) -> Int[Tensor, "tokens"]:
    """Return a key for each token, from the runs' step keys."""
    lengths, starts = batch.lengths.numpy(), batch.starts.numpy()
    places = np.repeat((batch.places.numpy() << 32) - starts, lengths) + np.arange(lengths.sum())
    runs = np.repeat(np.array(steps, dtype=np.uint64), batch.tokens())
    with np.errstate(over="ignore"):
        return torch.from_numpy(mixed(runs + places.astype(np.uint64) * np.uint64(_GOLDEN)).view(np.int64))


def _hash(keys: Tensor, columns: Tensor) -> Tensor:
    """Combine keys (...) and columns (w) to words (..., w)."""
    words = keys[..., None] ^ columns
    words *= _ODD
    words += words >> 32  # so that the low draws depend on all bits too
    return words


class _Mask(torch.autograd.Function):
    """A mask as an operator, so that vmap need not look inside."""

    @staticmethod
    def forward(keys: Tensor, columns: Tensor, size: int, p: float, dtype: torch.dtype) -> Tensor:
        dropped = round(p * _LEVELS)
        if dropped >= _LEVELS:
            return torch.zeros((*keys.shape, size), dtype=dtype, device=keys.device)
        scale, least = _LEVELS / (_LEVELS - dropped), dropped - _LEVELS // 2
        if fused.fuses(dtype, keys.numel() * size):
            kept = int(torch.tensor(scale, dtype=dtype).view(torch.int16))
            words: Tensor = fused.packed_mask(keys.reshape(-1, 1), columns, _ODD, least, kept)
            return words.view(dtype).view(*keys.shape, -1)[..., :size]
        draws = _hash(keys, columns).view(torch.int16)[..., :size]
        mask = torch.empty(draws.shape, dtype=dtype, device=keys.device)
        torch.ge(draws, least, out=mask)  # 0 or 1 in the dtype at once, without a pass over booleans
        return mask.mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, keys: Tensor, *others: Any) -> tuple[Any, int]:
        return _Mask.apply(keys.movedim(in_dims[0], 0), *others), 0  # type: ignore[no-untyped-call]


class Masks:
    """Hold the keys of a batch, for all Dropouts of a pack."""

    def __init__(self) -> None:
        self.steps: tuple[int, ...] = (0,)  # the step key of each run (`step_key`)
        # How many of the batch's sentences and tokens each run has, run after run
        self.sentences: tuple[int, ...] = ()
        self.tokens: tuple[int, ...] = ()
        self.given: Tensor | None = None  # keys of the rows that a module sees now, if they are one run's only
        self._keys = self._firsts = torch.empty(0, dtype=torch.int64)
        self._calls: Counter[int] = Counter()
        self._cached: dict[tuple[Any, ...], Tensor] = {}

    def begin(self, sentences: tuple[int, ...], tokens: tuple[int, ...], extra: int = 0) -> None:
        """Set how many rows of the next batch each run has.

        `extra` tokens of no sentence follow the last run's.
        """
        self.sentences, self.tokens = sentences, (*tokens[:-1], tokens[-1] + extra)
        self._calls.clear()

    def draw_for(self, keys: Tensor, firsts: Tensor) -> None:
        """Set the keys of a batch's tokens and sentences."""
        self._keys, self._firsts = keys, firsts

    def counts(self, x: Tensor) -> tuple[int, tuple[int, ...]]:
        """Return the dimension of x that runs share, and their shares.

        x is [1, tokens, n] or [1, sentences, n], or has a sentence in each entry of its first dimension.

        Raises:
            ValueError: x has neither one row per token nor one per sentence of the batch.
        """
        dim = 1 if x.dim() == 3 and x.shape[0] == 1 else 0
        for counts in (self.tokens, self.sentences):
            if sum(counts) == x.shape[dim]:
                return dim, counts
        raise ValueError(
            f"{tuple(x.shape)} holds neither {sum(self.tokens)} tokens nor {sum(self.sentences)} sentences"
        )

    def rows(self, shape: torch.Size) -> Tensor:
        """Return the keys of rows of this shape.

        They are tokens, sentences, or else single rows that all sentences share. With three dimensions of which the
        second is not the tokens', they are of (sentences, heads, tokens).
        """
        if len(shape) == 3 and self._keys.shape == (shape[0], shape[2]):
            return self.of_heads(self._keys, shape[1]).transpose(1, 2)
        for keys in (self.given,) if self.given is not None else (self._keys, self._firsts):
            if keys.numel() == shape.numel():
                return keys.reshape(shape)
        if len(self.steps) > 1:
            raise ValueError(f"{tuple(shape)} are neither the batch's tokens nor its sentences")
        return torch.from_numpy(sequence(self.steps[0], shape.numel()).view(np.int64)).to(self._keys.device).view(shape)

    def of_heads(self, keys: Int[Tensor, "*tokens"], heads: int) -> Int[Tensor, "*tokens heads"]:
        """Return keys of tokens for each attention head."""
        return _hash(keys, self._words(_HEADS, heads, keys.device))

    def columns(self, site: int, size: int, device: torch.device) -> Int[Tensor, "words"]:
        """Return keys of a site's columns, one for every four."""
        self._calls[site] += 1  # so that a module shared by several layers has other masks in each
        return self._words(site + (self._calls[site] << 32), -(-size // 4), device)

    def _words(self, start: int, count: int, device: torch.device) -> Tensor:
        key = (start, count, device)
        if key not in self._cached:
            words = sequence(int(sequence(start, 1)[0]), count)
            self._cached[key] = to_device(torch.from_numpy(words.view(np.int64)), device)
        return self._cached[key]


class Dropout(nn.Module):
    """Dropout: y = x · m / (1 - p), m ~ Bernoulli(1 - p).

    The identity outside of training.

    Args:
        masks: Where the keys of rows are found.
        site: A number of this module's own.
    """

    def __init__(self, p: float, masks: Masks, site: int) -> None:
        super().__init__()
        self.p, self.masks, self.site = p, masks, site

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of a batch's tokens, sentences or attention probabilities."""
        if not self.training or self.p == 0.0:
            return x
        return x * self.mask_of(x)

    def mask_of(self, x: Tensor) -> Tensor:
        """Draw the mask of a batch's tokens, sentences or attention probabilities."""
        columns = self.masks.columns(self.site, x.shape[-1], x.device)
        return self.mask(self.masks.rows(x.shape[:-1]), columns, x.shape[-1], x.dtype)

    def mask(
        self, keys: Int[Tensor, "*rows"], columns: Int[Tensor, "words"], size: int, dtype: torch.dtype
    ) -> Float[Tensor, "*rows size"]:
        """Draw a mask: 0 with probability p, else 1 / (1 - p)."""
        mask: Tensor = _Mask.apply(keys, columns, size, self.p, dtype)  # type: ignore[no-untyped-call]
        return mask


def use_dropout_modules(model: Any) -> None:
    """Replace the attention dropout of ModernBERT's layers by modules."""
    for layer in model.model.layers:
        layer.attn.attention_dropout = nn.Dropout(model.config.attention_dropout)
        layer.attn.out_drop = nn.Dropout(model.config.attention_dropout)


def set_dropout(model: nn.Module, p: float) -> None:
    """Set the probability of every dropout of a model, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        for name in ("dropout", "attention_dropout", "activation_dropout"):  # Longformer's and XLM's are numbers
            if type(getattr(module, name, None)) in (int, float):
                setattr(module, name, p)


def use_own_dropout(model: nn.Module, masks: Masks) -> None:
    """Replace every `nn.Dropout` of a model by ours, in place."""
    # A site is numbered by its name, so that an added adapter does not change the encoder's masks.
    for parent, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                path = f"{parent}.{name}".replace(".modules_to_save.default", "").replace(".original_module", "")
                replacement = Dropout(child.p, masks, zlib.crc32(path.encode()))
                replacement.train(child.training)
                setattr(module, name, replacement)


def drops(model: nn.Module) -> bool:
    """Tell whether the model's next forward pass draws masks."""
    return any(
        (isinstance(module, Dropout) and module.training and module.p > 0)
        or any(map(drops, getattr(module, "members", ())[:1]))  # a pack's module hides those of its runs
        for module in model.modules()
    )
