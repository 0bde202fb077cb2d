"""Decide which configurations are the same run: identity, hash and name."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symlora.config.formatting import format_rate
from symlora.config.schema import Config
from symlora.config.tables import find_tables

_OFFICIAL = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
# Settings that do not change a run's results: two configurations that differ only here are the same run.
NOT_IDENTITY_TRAIN = ("gradient_accumulation_steps", "compile")  # equal but for rounding
_NOT_IDENTITY = {
    "": ("seed", "logger", "checkpoint", "device", "results_dir", "force", "progress", "predict_test"),
    "data": ("dir", "cache_dir"),
    "model": ("package", "note", "shape", "recipe"),
    "method": ("equation", "source"),
    "protocol": ("grid_seeds",),  # decides which runs choose the point
    "train": NOT_IDENTITY_TRAIN,
}
# Files of an encoder's folder, besides its weights, that change results.
_BESIDE_WEIGHTS = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "*.codes"),
)
_ADAPTERS = tuple(f"{folder}adapter_model.{kind}" for folder in ("", "adapter/") for kind in ("safetensors", "bin"))
SAFE_WEIGHTS, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
# Settings in which the runs of a pack may differ: they concern the trained modules only.
_FREE = {
    "": ("seed",),
    "train": ("lr", "head_lr", "weight_decay", "warmup_ratio", "max_grad_norm", "patience"),
    "method": ("lambda_decay",),
}
# Keys added later enter the name only when they are set, so that older runs keep their names.
_LATER: dict[tuple[str, str], Any] = {
    ("train", "head_lr"): None,
    ("train", "patience"): None,
    ("method", "load_in_4bit"): False,
    ("method", "lr_ratio"): {},
    ("method", "base_parameters"): [],
    ("data", "allow_subset"): False,
}


def identity(config: Config) -> dict[str, Any]:
    """Return the settings that determine a run's results, without its seed."""
    content = without(config, _NOT_IDENTITY)
    for (group, key), default in _LATER.items():
        if content[group][key] == default:
            del content[group][key]
    # Paths are replaced by the hash of their content.
    content["model"]["path"] = encoder_sha256(config.model.path)
    content["init_from"] = _adapter_sha256(config.init_from)
    if config.data.allow_subset and config.data.dir:  # otherwise the rows are the task's official ones
        content["data"]["dir"] = _data_sha256(Path(config.data.dir), config.task.name)
    if config.data.source == "own":
        for key in ("splits", "sha256", "validation", "test"):
            del content["task"][key]
        if config.data.dir:
            content["data"]["dir"] = own_sha256(Path(config.data.dir))
    elif config.task.name in _OFFICIAL:
        content["task"] = config.task.name  # its facts are fixed, and its metrics change nothing
    if config.data.source != "demo":
        del content["data"]["demo_rows"]
    return content


def without(config: Config, left_out: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a configuration without some keys, given by group."""
    content = dataclasses.asdict(config)
    for group, keys in left_out.items():
        for key in keys:
            del (content[group] if group else content)[key]
    return content


def encoder_sha256(folder: str | None) -> str | None:
    """Hash an encoder's weights, config.json and tokenizer.

    The folder's own name where it has no weights (loading fails then).
    """
    if folder is None:
        return None
    weights = weight_files(Path(folder))
    files = [*weights, *_matching(Path(folder), _BESIDE_WEIGHTS)]
    return files_sha256(Path(folder), files) if weights else folder


def weight_names(folder: Path) -> list[str]:
    """List the safetensors files that transformers loads."""
    if (folder / SAFE_WEIGHTS).is_file():
        return [SAFE_WEIGHTS]
    try:
        return sorted(set(json.loads((folder / SAFE_INDEX).read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []  # no weights, or a damaged index; loading reports which


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files that exist."""
    return [path for name in weight_names(folder) if (path := folder / name).is_file()]


def files_sha256(root: Path, files: Sequence[Path]) -> str:
    """Hash one file's content, or places and contents of several."""
    hashes = {path.relative_to(root).as_posix(): _hashed(path, path.stat().st_mtime_ns) for path in files}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


def _adapter_sha256(folder: str | None) -> str | None:
    """Hash an adapter's weights; the folder's own name where there are none."""
    files = [] if folder is None else _matching(Path(folder), _ADAPTERS)
    return files_sha256(Path(folder), files[:1]) if folder and files else folder


def _data_sha256(root: Path, task: str) -> str:
    """Hash all data files below a folder whose path names the task."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    name = task.lower().replace("-", "")
    return files_sha256(root, [p for p in paths if name in p.relative_to(root).as_posix().lower().replace("-", "")])


def own_sha256(place: Path) -> str:
    """Hash the files of an own table, whatever they are called."""
    parts = [part for group in find_tables(place).values() for part in group]
    files = [path for part in parts for path in ([part] if part.is_file() else sorted(part.rglob("*")))]
    files = [path for path in files if path.is_file()]
    return files_sha256(place.parent if place.is_file() else place, files)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _hashed(path: Path, changed: int) -> str:
    return file_sha256(path)


def config_hash(config: Config) -> str:
    """Return the first 8 hexadecimal digits of the SHA-256 of `identity(config)`."""
    text = json.dumps(identity(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(config: Config) -> str:
    """Return the name that all seeds share: `lr-4e-4_bs-16_ep-30_<hash>`."""
    train = config.train
    return f"lr-{format_rate(train.lr)}_bs-{train.batch_size}_ep-{train.epochs}_{config_hash(config)}"


def pack_key(config: Config) -> str:
    """Return what the runs of a pack must share, as text."""
    return json.dumps(without(config, _FREE), sort_keys=True)
