"""Load trained runs and adapters for forward passes."""

import dataclasses
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from symlora.config.compose import compose
from symlora.config.schema import Config, MethodConfig, ModelConfig
from symlora.data.tokens import TokenizedSplit
from symlora.errors import SymloraError
from symlora.interchange.base_scale import read_base_scale
from symlora.interchange.loralib import loralib_to_lora
from symlora.interchange.merged import base_source, path_not_kept, put_on
from symlora.model.adapter import train_in_float32
from symlora.model.build import build_pack
from symlora.model.device import pick_device, pick_precision
from symlora.model.head import head_modules
from symlora.model.packable import CannotPack
from symlora.model.run_model import HEAD_FILE
from symlora.model.source import find, weights_sha256
from symlora.model.start_from import BOOKKEEPING
from symlora.store.adapter_folder import CONFIG, PREFIX, StoredAdapter, read_adapter, read_tensors
from symlora.store.folder import RUN_FILE, UnusableRun, find_damage, is_finished, load_run, run_folders
from symlora.training.loop import predict_pack
from symlora.training.result import Logits

TOGETHER = 64  # runs in one pass


@dataclass
class Trained:
    """A trained model on disk."""

    source: Path  # where it was found
    config: Config  # what it computes: encoder, task, length, method
    folder: Path  # its files
    adapter: StoredAdapter | None  # None of the head alone and of full fine-tuning
    record: dict[str, Any] | None = None  # the content of run.json; None of an adapter's folder


def runs_below(source: Path) -> list[Path]:
    """Return the finished runs of a results folder, or the source itself."""
    if source.is_file() or any((source / name).exists() for name in (RUN_FILE, CONFIG)):
        return [source]
    runs = [folder for folder in run_folders(source) if is_finished(folder)]
    kept = [folder for folder in runs if (folder / "adapter").is_dir()]
    if left_out := len(runs) - len(kept):
        print(f"warning: {left_out} runs in {source} have no adapter folder: left out", file=sys.stderr)
    return kept or [source]


@contextmanager
def open_trained(
    source: Path, task: str | None = None, base: str | None = None, alpha: float | None = None, data: str | None = None
) -> Iterator[Trained]:
    """Open a run folder, an adapter's folder, or a checkpoint of loralib.

    Args:
        source: Folder, or (with `alpha`) the checkpoint's file.
        task: Name of the task, where the source is no run.
        base: Folder or hub name of the encoder, where the source does not say where it is.
        alpha: The α that a loralib checkpoint was trained with.
        data: Where the task's data are; None for GLUE_DIR, and without it the hub.

    Raises:
        SymloraError: Nothing usable is there; the message says what is missing.
    """
    if (source / RUN_FILE).is_file():
        if task is not None or alpha is not None:
            raise SymloraError(f"{source} is a run folder, which has its task and its α: leave out --task and --alpha.")
        model = of_run(source, base)
        model.config.data.dir = data or os.environ.get("GLUE_DIR") or None
        if model.config.data.source == "own":
            model.config.data.dir = data
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="symlora-") as place:
        folder, files = source, [source] if source.is_file() else sorted(source.glob("*.safetensors"))
        if alpha is not None:
            if len(files) != 1 or (source / CONFIG).is_file():
                raise SymloraError(f"--alpha goes with a checkpoint file of loralib; {source} is none.")
            folder = Path(place) / "lora"
            loralib_to_lora(files[0], folder, alpha)
        elif files and not any((source / part / CONFIG).is_file() for part in ("", "adapter")):
            raise SymloraError(f"{source} has no {CONFIG}. A checkpoint of LoRA's own code needs --alpha (its α).")
        adapter = read_adapter(folder)
        if task == "custom":
            raise SymloraError(
                f"{source}: --task custom needs a run folder, which knows the table's columns and classes."
            )
        if task is None:
            raise SymloraError(f"{source} is not a run folder, so its task is unknown: give --task.")
        name = base or adapter.config.base_model_name_or_path
        if alpha is not None and name is None:
            raise SymloraError(f"{source} does not name its encoder: give --base.")
        config = _config_of(adapter, task, base)
        config.data.dir = data or config.data.dir
        yield Trained(source, config, folder, adapter)


def of_run(source: Path, base: str | None = None, config: Config | None = None) -> Trained:
    """Read a finished run; `config` replaces the recorded configuration."""
    try:
        record = load_run(source)
    except UnusableRun as error:
        raise SymloraError(f"{source} cannot be used: {error}.") from error
    if record["status"] != "finished":
        raise SymloraError(f"{source}: the run is {record['status']}, not finished.")
    if problems := find_damage(source, record):
        raise SymloraError(f"{source} is damaged: {problems[0]}.")
    if config is None:
        try:
            merged = OmegaConf.merge(OmegaConf.structured(Config), record["config"])
            made: Any = OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            raise SymloraError(f"{source}: its configuration cannot be read ({str(error).splitlines()[0]}).") from error
        config = made
        if config.model.path is not None and base is None:
            raise path_not_kept(source, config.model.path)
        if base is not None:
            _set_base(config.model, base, config.model.revision if base == config.model.hub else None)
            weights = record["provenance"].get("weights_sha256")
            if weights is not None and weights_sha256(find(config.model)) != weights:
                print(f"warning: {base} has other weights than the encoder of {source}", file=sys.stderr)
    config = dataclasses.replace(config, init_from=None, precision=record["precision"])
    folder = source / "adapter"
    if not folder.is_dir():
        raise SymloraError(f"{source} has no adapter folder: the trained values were not kept.")
    return Trained(source, config, folder, read_adapter(source) if (folder / CONFIG).is_file() else None, record)


def _config_of(adapter: StoredAdapter, task: str, base: str | None) -> Config:
    """Make a configuration for an adapter without a run."""
    source = base_source(adapter, base)
    config = compose(f"task={task}", "model=local", "model.name=adapter", "model.path=-", "protocol=short")
    _set_base(config.model, source.name_or_path, source.revision)
    settings = adapter.config.to_dict()
    kept = {key: settings[key] for key in ("bias", "init_lora_weights", "use_dora") if key in settings}
    config.method = MethodConfig(name=adapter.method.lower(), peft_type=adapter.method, peft_config=kept)
    return config


def _set_base(model: ModelConfig, name: str, revision: str | None) -> None:
    """Take the encoder from a folder or from the hub."""
    is_folder = revision is None and (Path(name).is_dir() or name.startswith((".", "/")))
    model.path, model.package, model.hub = name if is_folder else None, None, name
    model.revision = None if is_folder else revision or "main"


def logits_of(
    models: Sequence[Trained], splits: Mapping[str, TokenizedSplit], device: str = "auto"
) -> list[dict[str, Logits]]:
    """Compute logits of every split with every model: float32 [rows, classes].

    Models of one encoder, method and precision share a pass (symlora.model.pack).
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # transformers 5.23, of its own names
    place = pick_device(device)
    done: dict[int, dict[str, Logits]] = {}
    groups: dict[str, list[int]] = {}
    for number, model in enumerate(models):
        groups.setdefault(_shares(model, number), []).append(number)
    for members in groups.values():
        for start in range(0, len(members), TOGETHER):
            part = members[start : start + TOGETHER]
            try:
                results = _forward([models[number] for number in part], splits, place)
            except CannotPack:
                results = [_forward([models[number]], splits, place)[0] for number in part]
            done |= zip(part, results, strict=True)
    return [done[number] for number in range(len(models))]


def _shares(model: Trained, number: int) -> str:
    """Return what models must share to be scored together."""
    config = dataclasses.asdict(model.config)
    config["method"].pop("lambda_decay")
    if model.adapter is not None and read_base_scale(model.folder):
        config["alone"] = number
    settings = {} if model.adapter is None else model.adapter.config.to_dict()
    rest = {key: value for key, value in settings.items() if key not in BOOKKEEPING}
    keys = ("model", "method", "precision", "alone")
    return json.dumps([*(config.get(key) for key in keys), config["task"]["labels"], rest], default=sorted)


def _forward(
    models: Sequence[Trained], splits: Mapping[str, TokenizedSplit], device: torch.device
) -> list[dict[str, Logits]]:
    configs = [model.config for model in models]
    precision = pick_precision(configs[0].precision, device)
    pack = build_pack(configs, device, precision, [partial(_load, model) for model in models])
    results = predict_pack(pack.encoder, list(splits.values()), len(models))
    return [dict(zip(splits, found, strict=True)) for found in results]


def _load(model: Trained, classifier: Any) -> Any:
    """Load trained values into a classifier; return PEFT's model, if any."""
    if model.adapter is None:
        whole = not (model.folder / HEAD_FILE).is_file()
        path = model.folder / ("model.safetensors" if whole else HEAD_FILE)
        odd = classifier.load_state_dict(read_tensors(path), strict=False).unexpected_keys
        if odd:
            raise SymloraError(f"{path} was made for another encoder: {odd[0]} has no counterpart.")
        return None
    drawn = classifier.loaded["head"]["drawn"]
    if lost := [name for name in drawn if not any(key.startswith(f"{PREFIX}{name}.") for key in model.adapter.tensors)]:
        raise SymloraError(f"{model.source} has no weights for {lost[0]}, and neither has its encoder.")
    beside = set(model.adapter.config.modules_to_save or ()) - set(head_modules(classifier))
    try:
        wrapped = put_on(classifier, model.adapter, model.source, is_trainable=True)
        train_in_float32(wrapped, beside)
        for name, value in wrapped.named_parameters():  # of some methods PEFT has rounded them to the encoder's dtype
            saved = model.adapter.tensors.get(name.replace(".modules_to_save.default", "").replace(".default", ""))
            if value.requires_grad and saved is not None:
                value.data = saved.to(value.device, torch.float32)
        return wrapped
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise SymloraError(f"{model.source} does not fit this encoder or task ({reason}).") from error
