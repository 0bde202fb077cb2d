"""Tokenize a split into flat arrays, cached as a safetensors file.

A row's tokens are `input_ids[offsets[row]:offsets[row + 1]]`, with special tokens and without padding. Reading a file
needs numpy and safetensors alone, so a machine with neither pyarrow nor a tokenizer can train from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from symlora.config.rows import Labels, Rows, Split
from symlora.config.schema import DataConfig
from symlora.errors import SymloraError
from symlora.store.files import atomic_write

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

FORMAT = "symlora-tokens-1"  # change it when the arrays' meaning changes: old cache files are then left alone
_CHUNK = 4096  # rows tokenised at once: bounds the memory of Python lists (MNLI has 392,702 rows)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TokenizedSplit:
    """A tokenized split."""

    input_ids: npt.NDArray[np.uint16] | npt.NDArray[np.int32]  # [tokens], int32 for vocabularies over 65,536
    token_type_ids: npt.NDArray[np.uint8] | None  # [tokens] which text it is of; None without segments (RoBERTa)
    offsets: npt.NDArray[np.int64]  # [rows + 1] where each row begins and ends; no row is empty
    labels: Labels  # [rows] as in Split
    idx: Rows  # [rows] as in Split
    truncated: int  # number of rows that were cut at the maximal length

    def __len__(self) -> int:
        return len(self.idx)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Count the tokens of each row, special tokens included: [rows]."""
        return np.diff(self.offsets)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name."""
        names = ("input_ids", "token_type_ids", "offsets", "labels", "idx")
        return {name: np.ascontiguousarray(array) for name in names if (array := getattr(self, name)) is not None}

    @property
    def sha256(self) -> str:
        """Hash the content of the arrays."""
        return _digest(self.arrays())


def tokenize(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, cache_dir: str | Path | None
) -> TokenizedSplit:
    """Tokenize a split as `run_glue` does, or read it from the cache.

    Rows are cut at `max_length` tokens, special tokens included; of a pair the longer text first. A damaged cache file
    is made again, and a cache that cannot be written costs only a warning. Tokens of a tokenizer that is not backed by
    the `tokenizers` library are not cached: it has no state for the cache's key.

    Raises:
        SymloraError: `max_length` is less than the special tokens need, or more than the encoder takes.
    """
    least = tokenizer.num_special_tokens_to_add(pair=len(split.texts) == 2) + len(split.texts)
    if not least <= max_length <= tokenizer.model_max_length:
        raise SymloraError(
            f"data.max_length is {max_length}; this tokenizer takes {least} to {tokenizer.model_max_length} tokens."
        )
    if cache_dir is None or getattr(tokenizer, "backend_tokenizer", None) is None:
        return _tokenize(split, tokenizer, max_length)
    path = Path(cache_dir) / f"{_cache_key(split, tokenizer, max_length)}.safetensors"
    if path.exists():
        try:
            return load_tokens(path)
        except SymloraError as error:
            log.info("tokenising %s again: %s", split.name, error)
    tokens = _tokenize(split, tokenizer, max_length)
    try:
        save_tokens(path, tokens)
    except OSError as error:
        log.warning("tokens of %s not cached (%s): set data.cache_dir to a writable folder", split.name, error)
    return tokens


def tokenize_all(
    splits: Mapping[str, Split], tokenizer: PreTrainedTokenizerBase, data: DataConfig
) -> dict[str, TokenizedSplit]:
    """Tokenize splits by name, as a configuration has it."""
    return {name: tokenize(split, tokenizer, data.max_length, data.cache_dir) for name, split in splits.items()}


def save_tokens(path: str | Path, tokens: TokenizedSplit) -> None:
    """Write tokens to a safetensors file, complete or not at all."""
    from safetensors.numpy import save

    path = Path(path)
    metadata = {"format": FORMAT, "truncated": str(tokens.truncated), "sha256": tokens.sha256}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tokens.arrays(), metadata=metadata))


def load_tokens(path: str | Path) -> TokenizedSplit:
    """Read what `save_tokens` wrote; SymloraError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get("format") != FORMAT or metadata.get("sha256") != _digest(arrays):
            raise ValueError(f"its content is not the {FORMAT} that was written")
        types = arrays.pop("token_type_ids", None)
        return TokenizedSplit(**arrays, token_type_ids=types, truncated=int(metadata["truncated"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SymloraError(f"{path} holds no usable tokens ({error}). Delete it: it is made again.") from error


def _tokenize(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizedSplit:
    id_type = np.uint16 if len(tokenizer) <= 2**16 else np.int32
    ids: list[npt.NDArray[Any]] = [np.zeros(0, id_type)]
    types: list[npt.NDArray[Any]] = []
    lengths, truncated = [0], 0
    for start in range(0, len(split), _CHUNK):
        texts = [column[start : start + _CHUNK] for column in split.texts]
        # verbose=False: no warning about rows longer than the encoder, they are cut or only counted.
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False, verbose=False)
        sizes = [len(row) for row in encoded["input_ids"]]
        ids.append(np.fromiter(chain.from_iterable(encoded["input_ids"]), id_type, sum(sizes)))
        if "token_type_ids" in encoded:
            types.append(np.fromiter(chain.from_iterable(_segments(encoded, len(texts))), np.uint8, sum(sizes)))
        full = [row for row, size in enumerate(sizes) if size == max_length]
        if full:  # find out whether they were cut or just fit
            uncut = tokenizer(*([column[row] for row in full] for column in texts), verbose=False)["input_ids"]
            truncated += sum(len(row) > max_length for row in uncut)
        lengths += sizes
    segments = np.concatenate(types) if types else None
    offsets = np.cumsum(lengths, dtype=np.int64)
    return TokenizedSplit(np.concatenate(ids), segments, offsets, split.labels, split.idx, truncated)


def _segments(encoded: BatchEncoding, texts: int) -> list[list[int]]:
    """Return each row's segments; the second text always has 1."""
    rows: list[list[int]] = encoded["token_type_ids"]
    if texts == 1 or not encoded.is_fast or any(map(any, rows)):
        return rows
    # From the second text's first token on.
    return [list(accumulate((int(text == 1) for text in encoded.sequence_ids(row)), max)) for row in range(len(rows))]


def _cache_key(split: Split, tokenizer: Any, max_length: int) -> str:
    """Hash everything that the arrays depend on."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None  # left over from the last call
    parts = [FORMAT, version("tokenizers"), split.sha256, state, tokenizer.model_input_names, max_length]
    return hashlib.sha256(json.dumps([*parts, tokenizer.truncation_side], sort_keys=True).encode()).hexdigest()


def _digest(arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Hash arrays, since safetensors does not detect changed bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
