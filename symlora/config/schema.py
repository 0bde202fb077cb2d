"""Define the schema of a run's configuration.

One `Config` describes one run: one adapter method, trained on one GLUE task, with one set of hyper-parameters and
one seed. The YAML files in configs/ fill it; `symlora.config.compose.resolve` turns Hydra's object into these plain
dataclasses once, at the top of main. This module imports no torch: `--help` and configuration errors appear in about
a second.
"""

from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"  # OmegaConf's own, written out: a PEFT user has neither Hydra nor OmegaConf
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
        seconds: Time between two checkpoints; 0 writes one after every step. One that took t seconds is followed by
            none for 100 t.
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
