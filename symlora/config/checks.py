"""Check ranges, known words and names of a configuration."""

import dataclasses
import re
from math import inf
from typing import Any

from symlora.config.schema import Config
from symlora.errors import SymloraError

NAMED = ("task", "method", "model", "protocol")  # groups whose name is a part of the run folder's path
SCORES = ("matthews_correlation", "accuracy", "f1", "macro_f1", "balanced_accuracy", "pearson", "spearmanr")
METRICS = (*SCORES, "auroc", "mae")  # these two cannot choose a model: auroc needs scores, a lower mae is better


def check(config: Config) -> None:
    """Check values beyond their types.

    Raises:
        SymloraError: A value is out of range or unknown; the message names its key.
    """
    for metric in config.task.metrics:
        _one_of("task.metrics", metric, METRICS)
    _one_of("task.score", config.task.score, tuple(name for name in config.task.metrics if name in SCORES))
    _one_of("data.source", config.data.source, ("glue", "demo", "own"))
    _at_least("data.max_length", config.data.max_length, 8)
    for split, rows in config.data.demo_rows.items():
        _at_least(f"data.demo_rows.{split}", rows, 1)
    _at_least("data.train_limit", config.data.train_limit, 2)
    _one_of("method.trains", config.method.trains, ("adapter", "head", "all"))
    _one_of("method.lambda_decay", config.method.lambda_decay, ("none", "zero", "one"))
    if config.method.trains == "adapter" and not config.method.peft_type:
        raise SymloraError(
            "method.peft_type is unset: name a PEFT method (LORA, SYMLORA, ...), or set method.trains=head or all."
        )
    if config.method.base_parameters and config.method.trains != "head":
        raise SymloraError("method.base_parameters needs method.trains=head.")
    lora = config.method.peft_type == "LORA" and not config.method.peft_config.get("use_dora", False)
    if config.method.load_in_4bit and not (config.method.trains == "adapter" and lora):
        raise SymloraError("method.load_in_4bit needs method.peft_type=LORA without use_dora: see method=qlora.")
    for name, ratio in config.method.lr_ratio.items():
        _give(0.0 < ratio < inf, f"method.lr_ratio.{name}", ratio, "a number above 0")
    train, protocol = config.train, config.protocol
    _give(0.0 < train.lr < inf, "train.lr", train.lr, "a learning rate above 0, for example 4e-4")
    _one_of("train.compile", train.compile, ("auto", "on", "off"))
    rate = train.head_lr
    _give(rate is None or 0.0 < rate < inf, "train.head_lr", rate, "a learning rate above 0, or null for train.lr")
    _at_least("train.batch_size", train.batch_size, 1)
    _at_least("train.epochs", train.epochs, 1)
    _at_least("train.patience", train.patience, 1)
    if train.patience is not None and protocol.selection == "last":
        raise SymloraError(
            f"train.patience={train.patience} with protocol.selection=last: early stopping watches the score that "
            "chooses the epoch. Set protocol.selection to best or held_out, or leave train.patience=null."
        )
    if not 1 <= train.gradient_accumulation_steps <= train.batch_size:
        raise SymloraError(
            f"train.gradient_accumulation_steps={train.gradient_accumulation_steps}: cuts a batch into parts, so give "
            f"a number from 1 to train.batch_size={train.batch_size}."
        )
    _at_least("train.weight_decay", train.weight_decay, 0.0)
    _at_least("train.max_grad_norm", train.max_grad_norm, 0.0)
    dropout = train.model_dropout
    _give(dropout is None or 0.0 <= dropout < 1.0, "train.model_dropout", dropout, "a probability below 1, or null")
    _give(0.0 <= train.warmup_ratio <= 1.0, "train.warmup_ratio", train.warmup_ratio, "a share between 0 and 1")
    _one_of("protocol.selection", protocol.selection, ("best", "last", "held_out"))
    share = "a share of the training split, 0 or more, below 1"
    _give(0.0 <= protocol.held_out < 1.0, "protocol.held_out", protocol.held_out, share)
    if protocol.selection == "held_out" and protocol.held_out == 0.0:
        raise SymloraError("protocol.selection=held_out needs protocol.held_out above 0 (for example 0.1).")
    _at_least("checkpoint.seconds", config.checkpoint.seconds, 0.0)
    _one_of("logger.name", config.logger.name, ("none", "wandb"))
    _one_of("logger.mode", config.logger.mode, ("offline", "online", "disabled"))
    _one_of("precision", config.precision, ("auto", "fp32", "bf16", "fp16"))
    _at_least("seed", config.seed, 0)


def check_keys(node: Any, above: str = "") -> None:
    """Refuse keys that nothing reads: `+key=value` adds any to Hydra's object."""
    known = {field.name for field in dataclasses.fields(node)}
    for key, value in vars(node).items():
        if key not in known:
            raise SymloraError(f"{above}{key}: there is no such setting. Known here: {', '.join(sorted(known))}.")
        if dataclasses.is_dataclass(value):
            check_keys(value, f"{above}{key}.")


def check_name(group: str, name: Any) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(name)):
        raise SymloraError(f"{group}.name={name!r} is part of a path: use letters, digits, dots, - and _.")


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SymloraError(f"{key}={value}: unknown. Choose one of: {', '.join(known)}.")


def _give(holds: bool, key: str, value: float | None, what: str) -> None:
    if not holds:
        raise SymloraError(f"{key}={value}: give {what}.")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:  # NaN fails too
        raise SymloraError(f"{key}={value}: must be at least {least}.")
