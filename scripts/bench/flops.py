"""Count the FLOPs that a training step of an adapter needs at least.

Letters: n width, m width of the feed-forward, L layers, r rank, c classes; a row of l tokens. A matmul of [a, b] with
[b, d] is 2abd; nothing but matmuls is counted. Of one row, forward:

    layers 0 … L-2    l (8n² + 4nm) + 4l²n              projections, feed-forward, attention
    last layer        l · 4n² + 4n² + 4nm + 4ln         keys and values of all tokens, all else of the first token
    adapters          4nr for each token that a query or value is made of
    head              2n² + 2nc

(Embeddings are looked up; ELECTRA's and ALBERT's projection of them is left out.)

Backward: frozen matrices need only the gradient of their input, as much again (attention twice as much, since both
inputs of its matmuls have a gradient); adapters and head also that of their weights. Nothing flows below layer 0: there
Wq, Wk and Wv have no backward, keys none at all. So a step costs about 2F, not the 3F of full fine-tuning.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from symlora.config.schema import Config


@dataclass(frozen=True)
class Shape:
    """An encoder's size: query and value adapted, a head of one dense layer and an output layer."""

    width: int  # n
    inner: int  # m
    layers: int  # L
    classes: int  # c
    rank: int  # r

    @staticmethod
    def of(hf_config: Any, config: Config) -> "Shape":
        """Read it from an encoder's config.json, as transformers loads it, and a run's configuration."""
        inner = getattr(hf_config, "intermediate_size", None) or hf_config.hidden_dim  # DistilBERT's name
        classes, rank = len(config.task.labels) or 1, config.method.peft_config["r"]
        return Shape(hf_config.hidden_size, inner, hf_config.num_hidden_layers, classes, rank)


def needed(shape: Shape, lengths: npt.NDArray[np.int64], *, first_query_only: bool = True) -> npt.NDArray[np.float64]:
    """Count the FLOPs of one training step for each row, from its tokens without padding.

    `first_query_only`: the last layer makes one query a row, which is all that the head reads. Our encoder makes one of
    every token (it takes the first tokens after the last attention).
    """
    n, m, r = shape.width, shape.inner, shape.rank
    tokens = lengths.astype(np.float64)
    total = np.zeros_like(tokens)
    for layer in range(shape.layers):
        last = layer == shape.layers - 1
        queries = np.ones_like(tokens) if last and first_query_only else tokens
        after = np.ones_like(tokens) if last else tokens  # tokens that the rest of the layer works on
        projections = 2.0 * n * n * (queries + 2 * tokens)
        output = after * (2.0 * n * n + 4.0 * n * m)
        attention = 4.0 * queries * tokens * n
        adapters = 4.0 * n * r * (queries + tokens)
        total += projections + output + attention + adapters
        if layer:
            total += projections + output + 2 * attention + 2 * adapters
        else:
            total += output + 1.5 * attention + 1.5 * adapters
    return total + 3 * (2.0 * n * n + 2.0 * n * shape.classes)
