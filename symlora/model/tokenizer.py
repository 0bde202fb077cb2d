"""Describe the properties of a tokenizer that affect results."""

from pathlib import Path
from typing import Any

from symlora.data.tokens import TokenizedSplit
from symlora.model.source import ModelSource

_PROBE = "The CAT sat: naïve café, isn't it? 3.5% (Straße)"
_UNKNOWN_SHARE = 0.01  # of the training tokens; more suggests another encoder's tokenizer
_CAPITALS_SHARE = 0.05  # of the vocabulary; an uncased one has none


def describe_tokenizer(tokenizer: Any, source: ModelSource, train: TokenizedSplit) -> dict[str, Any]:
    """Return facts (`tokenizer`) and remarks (`notes`) for run.json."""
    words = tokenizer.get_vocab()
    unknown = tokenizer.unk_token_id
    if unknown is None and tokenizer.is_fast:  # a generic tokenizer has only its model's
        unknown = words.get(getattr(tokenizer.backend_tokenizer.model, "unk_token", None))
    facts = {
        "class": type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
        "lower_case": _ids(tokenizer, _PROBE) == _ids(tokenizer, _PROBE.lower()),
        "segments": 2 if "token_type_ids" in tokenizer.model_input_names else 1,
        "truncation_side": tokenizer.truncation_side,
        "unknown_tokens": 0.0 if unknown is None else float((train.input_ids == unknown).mean()),
    }
    notes = []
    if tokenizer.truncation_side != "right":
        notes.append("the tokenizer cuts long texts on the left")
    if facts["unknown_tokens"] > _UNKNOWN_SHARE:
        notes.append(f"{facts['unknown_tokens']:.1%} of the training tokens are unknown to the tokenizer")
    capitals = sum(word != word.lower() for word in words) / len(words)
    if facts["lower_case"] and capitals > _CAPITALS_SHARE:
        notes.append(f"the tokenizer makes all text lower case, but {capitals:.0%} of its vocabulary has capitals")
    if not _agrees(tokenizer, source):
        notes.append(
            "the tokenizer differs from tokenizer.json, because transformers builds it from tokenizer_config.json "
            "(do_lower_case, ...); to use tokenizer.json as it is, set tokenizer_class PreTrainedTokenizerFast there"
        )
    return {"tokenizer": facts, "notes": notes}


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _agrees(tokenizer: Any, source: ModelSource) -> bool:
    """Tell whether a folder's tokenizer does what its tokenizer.json says."""
    path = Path(source.name_or_path) / "tokenizer.json"
    if source.revision is not None or not path.is_file():
        return True
    from tokenizers import Tokenizer

    written = Tokenizer.from_file(str(path))
    written.no_truncation()
    written.no_padding()
    return bool(written.encode(_PROBE, add_special_tokens=False).ids == _ids(tokenizer, _PROBE))
