"""The schema of a run's configuration: Hydra checks YAML and command line against it.

One `Config` describes one run: one adapter method, trained on one GLUE task, with one set of hyper-parameters and
one seed. The YAML files in configs/ fill it; `resolve` turns Hydra's object into these plain dataclasses once, at
the top of main. This module imports no torch, so that `--help` and errors in the configuration answer in about a
second.
"""

import dataclasses
import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import symlora.sweep  # noqa: F401  # what configs/ may name: the resolver cuda_device, hydra/launcher=packed
from symlora.errors import SymloraError

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
METRICS = ("matthews_correlation", "accuracy", "f1", "pearson", "spearmanr")
SELECTIONS = ("best", "last", "held_out")
PRECISIONS = ("auto", "fp32", "bf16")
LAMBDA_DECAYS = ("none", "zero", "one")
HELD_OUT = "held_out"  # the slice of the training split that a protocol may set aside to choose the epoch


@dataclass
class TaskConfig:
    """Facts of a task (columns, labels, metrics, sizes of the splits) and nothing that could be tuned.

    Attributes:
        name: The config name of the hub dataset `nyu-mll/glue`.
        columns: One or two text columns.
        labels: Class names in the hub's order; empty for regression (STS-B).
        metrics: Metrics computed on every scored split, named as `evaluate`'s glue metric names them.
        score: The one of `metrics` that Table 1 reports.
        splits: Rows of each split, as published; a split with another count is refused.
        sha256: First digits of the hash of each split's content, as published, where it is known; another content is
            warned of.
        validation: The splits scored after each epoch; the first decides.
        test: The splits with hidden labels.
    """

    name: str = MISSING
    columns: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    score: str = MISSING
    splits: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)


@dataclass
class DataConfig:
    """Where the data come from, and how a sentence becomes tokens.

    Attributes:
        source: `glue` (real data) or `demo` (sentences made by symlora.data.demo).
        dir: A folder laid out as the hub dataset (`rte/train-00000-of-00001.parquet`); unset, the hub is asked.
        dataset: Name of the hub dataset.
        revision: Its pinned commit.
        cache_dir: Where tokenised splits are kept.
        max_length: Tokens at which a sentence or pair is cut.
        train_limit: Train on this many rows only, drawn with a fixed seed; for smoke runs.
        demo_rows: Rows of each demo split.
    """

    source: str = "glue"
    dir: str | None = None
    dataset: str = "nyu-mll/glue"
    revision: str = MISSING
    cache_dir: str = ".cache/tokens"
    max_length: int = 128
    train_limit: int | None = None
    demo_rows: dict[str, int] = field(default_factory=dict)


@dataclass
class ModelConfig:
    """A pre-trained encoder.

    Attributes:
        name: How the model is called in the results folder.
        hub: Name on the Hugging Face hub.
        revision: Its pinned commit.
        package: A Python package that carries the same model; wins over `hub` where it is installed.
        path: A folder with config.json, model.safetensors and the tokenizer; wins over both.
        note: A sentence that must stand beside this model's scores.
        shape: Values that the encoder's config.json must have, so that no other encoder is filed under this name.
    """

    name: str = MISSING
    hub: str | None = None
    revision: str | None = None
    package: str | None = None
    path: str | None = None
    note: str = ""
    shape: dict[str, Any] = field(default_factory=dict)


@dataclass
class MethodConfig:
    """What is trained.

    Attributes:
        name: How the method is called in the results folder.
        trains: `adapter` (a PEFT adapter and the head), `head` (the head alone) or `all` (full fine-tuning).
        peft_type: PEFT's name of the adapter, for example LORA or SYMLORA.
        peft_config: Arguments of that PEFT method's config class.
        load_in_4bit: Hold the frozen encoder in 4 bits (QLoRA); needs bitsandbytes.
        lambda_decay: What weight decay does to SymLoRA's λ: `none`, toward `zero`, or toward `one`.
        lr_ratio: End of a parameter's name (`lora_B`) to the multiple of `train.lr` at which it trains (LoRA+).
        base_parameters: Regular expressions; the encoder's own parameters whose names match train beside the head
            (`trains: head`; BitFit).
        equation: For `make methods`.
        source: Paper, for `make methods`.
    """

    name: str = MISSING
    trains: str = "adapter"
    peft_type: str | None = None
    peft_config: dict[str, Any] = field(default_factory=dict)
    load_in_4bit: bool = False
    lambda_decay: str = "none"
    lr_ratio: dict[str, float] = field(default_factory=dict)
    base_parameters: list[str] = field(default_factory=list)
    equation: str = ""
    source: str = ""


@dataclass
class TrainConfig:
    """Hyper-parameters. A protocol sets them all, each with its source.

    Attributes:
        lr: Peak learning rate of AdamW.
        head_lr: That of the head; unset, `lr` (as LoRA's scripts have it; FourierFT and VeRA give the head its own).
        batch_size: Sentences (pairs) a step.
        epochs: Passes over the training split.
        warmup_ratio: Share of the steps over which the learning rate rises from 0; then it falls linearly to 0.
        weight_decay: Of AdamW, on everything but biases and LayerNorms (and λ, see `method.lambda_decay`).
        max_grad_norm: Global norm at which the gradient is clipped; 0 does not clip.
        model_dropout: Probability of every dropout in encoder and head; unset, the encoder's own (RoBERTa: 0.1).
    """

    lr: float = MISSING
    batch_size: int = MISSING
    epochs: int = MISSING
    warmup_ratio: float = MISSING
    weight_decay: float = MISSING
    max_grad_norm: float = MISSING
    model_dropout: float | None = None
    head_lr: float | None = None


@dataclass
class ProtocolConfig:
    """How a run is judged.

    Attributes:
        name: How the protocol is called in the results folder.
        selection: Which epoch's model is kept and whose validation score is the run's: `best` (on validation), `last`,
            or `held_out` (best on a slice of the training split, validation untouched by the choice).
        held_out: Share of the training split set aside, the same rows for every run; 0 sets none aside.
        recipe: Learning rate, batch size and epochs of each task, where the protocol has a table of them.
    """

    name: str = MISSING
    selection: str = "best"
    held_out: float = 0.0
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass
class LoggerConfig:
    """A mirror of the run folder in Weights & Biases; the folder is the record.

    Attributes:
        name: `none` or `wandb`.
        project: W&B project.
        mode: `offline`, `online` or `disabled`.
        group: W&B group (an experiment); unset, protocol and model.
        job_type: W&B job type.
    """

    name: str = "none"
    project: str = "symlora"
    mode: str = "offline"
    group: str | None = None
    job_type: str = "run"


@dataclass
class CheckpointConfig:
    """Exact resume of a run that was stopped (symlora.training.checkpoint).

    Attributes:
        seconds: Time between two checkpoints; 0 writes one after every step. They take 1 % of the time at most.
        resume: Take up what a stopped run left; false starts anew.
    """

    seconds: float = 60.0  # what a kill may cost
    resume: bool = True


@dataclass
class Config:
    """One run.

    Attributes:
        seed: Of head start, adapter start, order of the data and dropout (a generator each, symlora.seeds).
        device: `auto`, `cpu`, `cuda`, or `cuda:<number>`.
        precision: `fp32`, `bf16`, or `auto` (bf16 where the device has fast bf16). Only frozen weights and activations
            are bf16; adapters, λ and head are always float32.
        init_from: A run folder or a PEFT adapter folder to start from (RTE, MRPC and STS-B from MNLI in LoRA's
            recipe); the output layer of its head is not carried over.
        predict_test: Also store predictions on the test splits.
        results_dir: Root of the run folders.
        force: Train again although a finished run with this configuration exists.
        progress: Show bars when the output is a terminal.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    init_from: str | None = None
    predict_test: bool = False
    results_dir: str = "results/runs"
    force: bool = False
    progress: bool = True


ConfigStore.instance().store(name="schema", node=Config)

_NAMED = ("task", "method", "model", "protocol")  # groups whose name is a part of the run folder's path
# What says where and how to run, not what: two configurations that differ only here are the same run.
_NOT_IDENTITY = ("seed", "logger", "checkpoint", "device", "results_dir", "force", "progress", "predict_test")
_NOT_IDENTITY_DATA = ("dir", "cache_dir")
_NOT_IDENTITY_MODEL = ("package", "note", "shape")
_NOT_IDENTITY_METHOD = ("equation", "source")
# Keys that came later name a run only when they are set: older runs keep their names.
_LATER: dict[tuple[str, str], Any] = {
    ("train", "head_lr"): None,
    ("method", "load_in_4bit"): False,
    ("method", "lr_ratio"): {},
    ("method", "base_parameters"): [],
}


def resolve(cfg: Any) -> Config:
    """Turns Hydra's composed object into a plain `Config`.

    Args:
        cfg: The DictConfig that Hydra hands to main.

    Returns:
        The typed configuration, every interpolation resolved.

    Raises:
        SymloraError: A value is missing or out of range; the message names its key.
    """
    try:
        for group in _NAMED:  # before the recipes, which look names up
            if name := OmegaConf.select(cfg, f"{group}.name", default=""):
                _check_name(group, name)
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise SymloraError(_explain(error)) from None
    assert isinstance(config, Config)
    _check_keys(config)
    check(config)
    _check_facts(config)
    config.protocol.recipe = {}  # its values now stand in `train`; the table of the other tasks is no part of this run
    return config


def check_files() -> None:
    """Reads every file in configs/ as YAML (0.02 s): of a damaged one Hydra would show a traceback.

    Raises:
        SymloraError: One cannot be read.
    """
    for path in sorted(CONFIG_DIR.rglob("*.yaml")):
        try:
            yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())[:300]
            raise SymloraError(f"{path} cannot be read as YAML ({reason}). Restore it (git checkout).") from None


def compose(*overrides: str) -> Config:
    """The configuration that `python scripts/train.py <overrides>` would run, for programs and tests.

    Raises:
        SymloraError: An override names no key or has a wrong value.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return resolve(hydra_compose("config", overrides=list(overrides)))
    except (yaml.YAMLError, UnicodeDecodeError):
        check_files()  # says which
        raise
    except HydraException as error:
        detail = f" ({error.__cause__})" if error.__cause__ else ""
        raise SymloraError(f"{error}{detail}") from error


def _check_facts(config: Config) -> None:
    """A task's metrics and splits decide the score, but are no part of a run's name: they are not settings."""
    path = CONFIG_DIR / "task" / f"{config.task.name}.yaml"
    if path.is_file():
        facts = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(path)))
        for key, value in vars(facts).items():
            if getattr(config.task, key) != value:
                raise SymloraError(
                    f"task.{key} is a fact of {config.task.name} ({path.name}), not a setting. Leave it, or make a "
                    "task file of another name in configs/task."
                )


def _check_keys(node: Any, above: str = "") -> None:
    """`+key=value` adds any key to Hydra's object; one that nothing reads must not look as if it had been heeded."""
    known = {field.name for field in dataclasses.fields(node)}
    for key, value in vars(node).items():
        if key not in known:
            raise SymloraError(f"{above}{key}: there is no such setting. Known here: {', '.join(sorted(known))}.")
        if dataclasses.is_dataclass(value):
            _check_keys(value, f"{above}{key}.")


def _check_name(group: str, name: Any) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(name)):
        raise SymloraError(f"{group}.name={name!r} is part of a path: use letters, digits, dots, - and _.")


def check(config: Config) -> None:
    """Checks the values that a type alone does not.

    Raises:
        SymloraError: A value is out of range or unknown; the message names its key.
    """
    for group in _NAMED:
        _check_name(group, getattr(config, group).name)
    for metric in config.task.metrics:
        _one_of("task.metrics", metric, METRICS)
    _one_of("task.score", config.task.score, tuple(config.task.metrics))
    _one_of("data.source", config.data.source, ("glue", "demo"))
    _at_least("data.max_length", config.data.max_length, 8)
    if config.data.train_limit is not None:
        _at_least("data.train_limit", config.data.train_limit, 2)
    _one_of("method.trains", config.method.trains, ("adapter", "head", "all"))
    _one_of("method.lambda_decay", config.method.lambda_decay, LAMBDA_DECAYS)
    if config.method.trains == "adapter" and not config.method.peft_type:
        raise SymloraError(
            "method.peft_type is unset: name a PEFT method (LORA, SYMLORA, ...), or set method.trains=head or all."
        )
    if config.method.base_parameters and config.method.trains != "head":
        raise SymloraError("method.base_parameters goes with method.trains=head.")
    lora = config.method.peft_type == "LORA" and not config.method.peft_config.get("use_dora", False)
    if config.method.load_in_4bit and not (config.method.trains == "adapter" and lora):
        raise SymloraError("method.load_in_4bit goes with method.peft_type=LORA (and no use_dora): see method=qlora.")
    for name, ratio in config.method.lr_ratio.items():
        if not 0.0 < ratio < float("inf"):
            raise SymloraError(f"method.lr_ratio.{name}={ratio}: give a number above 0.")
    train, protocol = config.train, config.protocol
    if not 0.0 < train.lr < float("inf"):
        raise SymloraError(f"train.lr={train.lr}: give a learning rate above 0, for example 4e-4.")
    if train.head_lr is not None and not 0.0 < train.head_lr < float("inf"):
        raise SymloraError(f"train.head_lr={train.head_lr}: give a learning rate above 0, or null for train.lr.")
    _at_least("train.batch_size", train.batch_size, 1)
    _at_least("train.epochs", train.epochs, 1)
    _at_least("train.weight_decay", train.weight_decay, 0.0)
    _at_least("train.max_grad_norm", train.max_grad_norm, 0.0)
    if train.model_dropout is not None and not 0.0 <= train.model_dropout < 1.0:
        raise SymloraError(f"train.model_dropout={train.model_dropout}: give a probability below 1, or null.")
    if not 0.0 <= train.warmup_ratio <= 1.0:
        raise SymloraError(f"train.warmup_ratio={train.warmup_ratio}: give a share between 0 and 1.")
    _one_of("protocol.selection", protocol.selection, SELECTIONS)
    if not 0.0 <= protocol.held_out < 1.0:
        raise SymloraError(
            f"protocol.held_out={protocol.held_out}: give a share of the training split, 0 or more, below 1."
        )
    if protocol.selection == "held_out" and protocol.held_out == 0.0:
        raise SymloraError("protocol.selection=held_out needs protocol.held_out above 0 (for example 0.1).")
    _at_least("checkpoint.seconds", config.checkpoint.seconds, 0.0)
    _one_of("logger.name", config.logger.name, ("none", "wandb"))
    _one_of("logger.mode", config.logger.mode, ("offline", "online", "disabled"))
    _one_of("precision", config.precision, PRECISIONS)
    _at_least("seed", config.seed, 0)


def _explain(error: Exception) -> str:
    key = getattr(error, "full_key", None) or "?"
    first_line = str(error).splitlines()[0]
    if "recipe" in first_line:
        return (
            f"This protocol has no recipe for this task ({first_line}). "
            "Give train.lr, train.batch_size and train.epochs on the command line, or add the task "
            "to the protocol's YAML file."
        )
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is not set: give {key}=<value>."
    return f"{key}: {first_line}"


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
    return _file_sha256(found[0], found[0].stat().st_mtime_ns) if found else folder


@functools.cache
def _file_sha256(path: Path, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_hash(config: Config) -> str:
    """First 8 hexadecimal digits of the SHA-256 of `identity(config)`."""
    text = json.dumps(identity(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(config: Config) -> str:
    """Short readable name of a configuration, the same for all its seeds: `lr-4e-4_bs-16_ep-30_<hash>`."""
    mantissa, exponent = f"{config.train.lr:.5e}".split("e")
    lr = f"{float(mantissa):g}e{int(exponent)}"
    return f"lr-{lr}_bs-{config.train.batch_size}_ep-{config.train.epochs}_{config_hash(config)}"


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SymloraError(f"{key}={value}: unknown. Choose one of: {', '.join(known)}.")


def _at_least(key: str, value: float, least: float) -> None:
    # Written so that NaN fails too.
    if not value >= least:
        raise SymloraError(f"{key}={value}: must be at least {least}.")
