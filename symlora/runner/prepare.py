"""What a run is trained and scored on: splits, checked and cut, and their tokens."""

from collections.abc import Mapping
from typing import Any

from symlora.config.schema import HELD_OUT, Config
from symlora.data.splits import Split, holdout, load_splits
from symlora.data.tokens import TokenizedSplit, tokenize
from symlora.errors import SymloraError
from symlora.model.run_model import RunModel
from symlora.model.source import find, load_tokenizer


def prepare_data(config: Config) -> tuple[dict[str, Split], dict[str, TokenizedSplit]]:
    """The splits that a run needs, checked, and their tokens.

    `train`, then the task's validation splits, then `held_out` where the protocol sets a slice aside, then test splits
    where they are asked for.
    """
    names = ["train", *config.task.validation, *(config.task.test if config.predict_test else [])]
    splits = load_splits(config.task, config.data, names)
    if config.protocol.held_out:
        splits["train"], splits[HELD_OUT] = holdout(splits["train"], config.protocol.held_out)
        if len(splits[HELD_OUT]) < 10:
            raise SymloraError(
                f"protocol.held_out={config.protocol.held_out} sets {len(splits[HELD_OUT])} rows aside: too few to "
                "choose an epoch with. Give a larger share."
            )
    tokenizer = load_tokenizer(find(config.model))
    tokens = {
        name: tokenize(split, tokenizer, config.data.max_length, config.data.cache_dir)
        for name, split in splits.items()
    }
    return splits, tokens


def describe(split: Split, tokens: TokenizedSplit) -> dict[str, Any]:
    return {
        "rows": len(split),
        "sha256": split.sha256,
        "truncated_rows": tokens.truncated,
        "mean_tokens": float(tokens.lengths.mean()),
    }


def check_vocabulary(config: Config, model: RunModel, tokens: Mapping[str, TokenizedSplit]) -> None:
    """Refuses a tokenizer that gives tokens which the encoder does not have.

    Raises:
        SymloraError: The tokenizer beside the weights is another model's.
    """
    largest = max(int(split.input_ids.max()) for split in tokens.values())
    size = model.encoder.model.get_input_embeddings().num_embeddings
    if largest >= size:
        raise SymloraError(
            f"model={config.model.name}: its tokenizer gives token {largest}, but the encoder has {size}. The "
            "tokenizer's files beside the weights are another model's."
        )
