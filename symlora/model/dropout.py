"""Dropout whose masks come from generators of the runs' own.

Two reasons for not using torch's: its masks come from the one global generator, so that what a run draws depends on
what else drew before it, above all on the other runs of its pack; and on a CPU it costs 16 ns an element, a quarter of
a training step of MiniLM, where 16-bit masks cost 6 (measured, torch 2.13). The probability is rounded to a multiple
of 2^-16 (0.1 becomes 0.1000061), and kept values are scaled by the inverse of the rounded one, so that the expectation
is exact.

What a run draws depends on its seed and its own batches alone: each run's rows are masked from its own generator, in
the order in which the model calls its dropouts. Dropout on attention probabilities draws for sentences padded to the
longest of their group; so where it is on, no group holds sentences of two runs (symlora.model.attention).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

_LEVELS = 1 << 16


class DropoutStreams:
    """The dropout generators of runs, and whose rows a batch holds.

    Attributes:
        generators: One for each run, on the model's device.
        sentences, tokens: How many of the batch's each run has, one run's after the other's (`share`).
        calls: While it is a list, no mask is drawn; probability, shape and dtype of each call are noted instead.
        given: While it is a list, masks are taken from it, in order (symlora.model.pack draws them beforehand).
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)
        self.sentences: tuple[int, ...] = ()
        self.tokens: tuple[int, ...] = ()
        self.calls: list[tuple[float, tuple[int, ...], torch.dtype]] | None = None
        self.given: list[Tensor] | None = None

    def share(self, sentences: tuple[int, ...], tokens: tuple[int, ...]) -> None:
        """Says whose rows the next batch holds."""
        self.sentences, self.tokens = sentences, tokens

    def counts(self, x: Tensor) -> tuple[int, tuple[int, ...]]:
        """Return the dimension of x that runs share, and their shares.

        x is [1, tokens, n] or [1, sentences, n], or has a sentence in each entry of its first dimension.

        Raises:
            ValueError: x has as many rows as the batch has neither tokens nor sentences.
        """
        dim = 1 if x.dim() == 3 and x.shape[0] == 1 else 0
        for counts in (self.tokens, self.sentences):
            if sum(counts) == x.shape[dim]:
                return dim, counts
        raise ValueError(
            f"{tuple(x.shape)} holds neither {sum(self.tokens)} tokens nor {sum(self.sentences)} sentences"
        )

    def mask(self, x: Tensor, p: float) -> Tensor:
        """Draw a mask of x's shape, each run's part from its generator."""
        if self.calls is not None:
            self.calls.append((p, tuple(x.shape), x.dtype))
            return x.new_ones(())
        if self.given is not None:
            return self.given.pop(0)
        if len(self.generators) == 1:
            return scaled_mask(x, p, self.generators[0])
        dim, counts = self.counts(x)
        parts = zip(torch.split(x, list(counts), dim), self.generators, strict=True)
        return torch.cat([scaled_mask(part, p, generator) for part, generator in parts], dim)


class Dropout(nn.Module):
    """Dropout: y = x · m / (1 - p), m ~ Bernoulli(1 - p).

    The identity outside of training.

    Args:
        p: Probability of a zero.
        streams: Draws the masks; shared by all Dropouts of a model.
    """

    def __init__(self, p: float, streams: DropoutStreams) -> None:
        super().__init__()
        self.p = p
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        """Drops elements of x (any shape)."""
        if not self.training or self.p == 0.0:
            return x
        return x * self.streams.mask(x, self.p)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"p={self.p}"


def scaled_mask(x: Float[Tensor, "*shape"], p: float, generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Draw a mask of x's shape, dtype and device.

    0 with probability p (a multiple of 2^-16), else 1 / (1 - p).
    """
    dropped = round(p * _LEVELS)
    if dropped >= _LEVELS:
        return torch.zeros_like(x)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
    # random_() alone would leave the sign bit 0, and with it every fourth draw's highest bit.
    words.random_(-(1 << 63), None, generator=generator)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    mask = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.ge(draws, dropped - _LEVELS // 2, out=mask)  # 0 or 1 in x's dtype at once, without a pass over booleans
    return mask.mul_(_LEVELS / (_LEVELS - dropped))


def set_dropout(model: nn.Module, p: float) -> None:
    """Sets the probability of every `nn.Dropout` of a model, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


def use_own_dropout(model: nn.Module, streams: DropoutStreams) -> None:
    """Replace every `nn.Dropout` of a model by ours, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                replacement = Dropout(child.p, streams)
                replacement.train(child.training)
                setattr(module, name, replacement)


def drops(model: nn.Module) -> bool:
    """Tell whether the model's next forward pass draws masks."""
    return model.training and any(isinstance(module, Dropout) and module.p > 0 for module in model.modules())
