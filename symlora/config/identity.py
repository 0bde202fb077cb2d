"""Which configurations are the same run: the part that decides what is computed, its hash, and its readable name."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from symlora.config.formatting import format_rate
from symlora.config.schema import Config
from symlora.store.files import file_sha256

# What says where and how to run, not what: two configurations that differ only here are the same run.
_NOT_IDENTITY = ("seed", "logger", "checkpoint", "device", "results_dir", "force", "progress", "predict_test")
_NOT_IDENTITY_DATA = ("dir", "cache_dir")
_NOT_IDENTITY_MODEL = ("package", "note", "shape")
_NOT_IDENTITY_METHOD = ("equation", "source")
# What the runs of a pack may differ in: it concerns the trained modules alone.
_FREE = ("seed",)
_FREE_TRAIN = ("lr", "head_lr", "weight_decay", "warmup_ratio", "max_grad_norm")
_FREE_METHOD = ("lambda_decay",)
# Keys that came later name a run only when they are set: older runs keep their names.
_LATER: dict[tuple[str, str], Any] = {
    ("train", "head_lr"): None,
    ("method", "load_in_4bit"): False,
    ("method", "lr_ratio"): {},
    ("method", "base_parameters"): [],
}


def identity(config: Config) -> dict[str, Any]:
    """The part of a configuration that decides what a run computes, its seed apart."""
    content = dataclasses.asdict(config)
    for key in _NOT_IDENTITY:
        del content[key]
    for key in _NOT_IDENTITY_DATA:
        del content["data"][key]
    for key in _NOT_IDENTITY_MODEL:
        del content["model"][key]
    for key in _NOT_IDENTITY_METHOD:
        del content["method"][key]
    for (group, key), default in _LATER.items():
        if content[group][key] == default:
            del content[group][key]
    # Files stand for their content, wherever they are.
    content["model"]["path"] = _digest(config.model.path, "model.safetensors")
    content["init_from"] = _digest(config.init_from, "adapter/adapter_model.safetensors", "adapter_model.safetensors")
    content["task"] = config.task.name  # its facts are the data's, which are checked; its metrics choose nothing
    if config.data.source != "demo":
        del content["data"]["demo_rows"]
    return content


def _digest(folder: str | None, *files: str) -> str | None:
    """SHA-256 of the first of these files that is there; the folder's own name where none is (loading fails then)."""
    if folder is None:
        return None
    found = [path for path in (Path(folder) / file for file in files) if path.is_file()]
    return _hashed(found[0], found[0].stat().st_mtime_ns) if found else folder


@functools.cache
def _hashed(path: Path, changed: int) -> str:
    return file_sha256(path)


def config_hash(config: Config) -> str:
    """First 8 hexadecimal digits of the SHA-256 of `identity(config)`."""
    text = json.dumps(identity(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(config: Config) -> str:
    """Short readable name of a configuration, the same for all its seeds: `lr-4e-4_bs-16_ep-30_<hash>`."""
    train = config.train
    return f"lr-{format_rate(train.lr)}_bs-{train.batch_size}_ep-{train.epochs}_{config_hash(config)}"


def pack_key(config: Config) -> str:
    """Return what the runs of one pack must share, as text to compare."""
    content = dataclasses.asdict(config)
    for key in _FREE:
        del content[key]
    for key in _FREE_TRAIN:
        del content["train"][key]
    for key in _FREE_METHOD:
        del content["method"][key]
    return json.dumps(content, sort_keys=True)
