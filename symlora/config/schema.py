"""Define the schema of a run's configuration.

One `Config` describes one run: one adapter method, trained on one GLUE task, with one set of hyper-parameters and
one seed. The YAML files in configs/ fill it; `symlora.config.compose.resolve` turns Hydra's object into these plain
dataclasses once, at the top of main. This module imports no torch: `--help` and configuration errors appear in about
a second.
"""

from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"  # OmegaConf's value, written out because a bare installation has no OmegaConf
HELD_OUT = "held_out"  # the slice of the training split that a protocol may set aside to choose the epoch


@dataclass
class TaskConfig:
    """Fixed facts about a task; none is tuned."""

    name: str = MISSING  # the config name of the hub dataset `nyu-mll/glue`
    columns: list[str] = field(default_factory=list)  # one or two text columns
    labels: list[str] = field(default_factory=list)  # class names in the hub's order; empty for regression (STS-B)
    # Metrics computed on every scored split, named as `evaluate`'s glue metric names them
    metrics: list[str] = field(default_factory=list)
    score: str = MISSING  # the one of `metrics` that Table 1 reports
    # Rows of each split, as published; a split with another count is refused
    splits: dict[str, int] = field(default_factory=dict)
    # First digits of the hash of each split's content, as published, where it is known; other content gives a warning
    sha256: dict[str, str] = field(default_factory=dict)
    validation: list[str] = field(default_factory=list)  # the splits scored after each epoch; the first decides
    test: list[str] = field(default_factory=list)  # the splits with hidden labels
    # For an own table (task=custom) only
    label: str = "label"  # the column of the labels
    regression: bool | None = None  # whether they are scores; unset, the table decides
    # Shares of the training rows for splits that have no file
    shares: dict[str, float] = field(default_factory=dict)


@dataclass
class DataConfig:
    """Where the data come from, and how a sentence becomes tokens."""

    # `glue` (real data), `demo` (sentences made by symlora.data.demo) or `own` (a table: symlora.config.own_task)
    source: str = "glue"
    # A folder with the hub dataset (`rte/train-00000-of-00001.parquet`), GLUE's own zip, or another shape that
    # symlora.data.readers knows; unset, the hub is asked. For source `own` a table, or a folder of tables
    dir: str | None = None
    dataset: str = "nyu-mll/glue"  # name of the hub dataset
    revision: str = MISSING  # its pinned commit
    cache_dir: str | None = ".cache/tokens"  # where tokenised splits are kept; null keeps none
    max_length: int = 128  # tokens at which a sentence or pair is cut
    train_limit: int | None = None  # train on this many rows only, drawn with a fixed seed; for smoke runs
    allow_subset: bool = False  # accept splits whose row count is not the official one; marks the run
    demo_rows: dict[str, int] = field(default_factory=dict)  # rows of each demo split


@dataclass
class ModelConfig:
    """A pre-trained encoder."""

    name: str = MISSING  # how the model is called in the results folder
    hub: str | None = None  # name on the Hugging Face hub
    revision: str | None = None  # its pinned commit
    package: str | None = None  # A Python package that carries the same model; wins over `hub` where it is installed
    path: str | None = None  # A folder with config.json, model.safetensors and the tokenizer; wins over both
    note: str = ""  # A sentence that must be shown with this model's scores
    # Values that the encoder's config.json must have, so that no other encoder is filed under this name
    shape: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)  # as `protocol.recipe`, which it replaces in protocol `paper`


@dataclass
class MethodConfig:
    """What is trained."""

    name: str = MISSING  # how the method is called in the results folder
    # `adapter` (a PEFT adapter and the head), `head` (the head alone) or `all` (full fine-tuning)
    trains: str = "adapter"
    peft_type: str | None = None  # PEFT's name of the adapter, for example LORA or SYMLORA
    peft_config: dict[str, Any] = field(default_factory=dict)  # arguments of that PEFT method's config class
    load_in_4bit: bool = False  # hold the frozen encoder in 4 bits (QLoRA); needs bitsandbytes
    lambda_decay: str = "none"  # what weight decay does to SymLoRA's λ: `none`, toward `zero`, or toward `one`
    # End of a parameter's name (`lora_B`) to the multiple of `train.lr` at which it trains (LoRA+)
    lr_ratio: dict[str, float] = field(default_factory=dict)
    # Regular expressions; the encoder's own parameters whose names match train with the head (`trains: head`;
    # BitFit)
    base_parameters: list[str] = field(default_factory=list)
    equation: str = ""  # for `make methods`
    source: str = ""  # paper, for `make methods`


@dataclass
class TrainConfig:
    """Hyper-parameters. A protocol sets them all, each with its source."""

    lr: float = MISSING  # peak learning rate of AdamW
    batch_size: int = MISSING  # sentences (pairs) a step
    epochs: int = MISSING  # passes over the training split
    # Share of the steps over which the learning rate rises from 0; then it falls linearly to 0
    warmup_ratio: float = MISSING
    # Of AdamW, on everything but biases and LayerNorms (and λ, see `method.lambda_decay`)
    weight_decay: float = MISSING
    max_grad_norm: float = MISSING  # global norm at which the gradient is clipped; 0 does not clip
    # Probability of every dropout in encoder and head; unset, the encoder's own (RoBERTa: 0.1)
    model_dropout: float | None = None
    # Peak learning rate of the head; unset, `lr` (as in LoRA's scripts; FourierFT and VeRA use another)
    head_lr: float | None = None
    # Epochs without a better score on the split that chooses (`protocol.selection`: best or held_out) after which
    # training ends; unset, it never ends early. The schedule stays that of `epochs`
    patience: int | None = None
    # Parts that a batch is cut into, to need less memory; their gradients are summed, and `batch_size` stays the rows
    # of a step. (Hugging Face's option of this name multiplies the batch instead.)
    gradient_accumulation_steps: int = 1
    # torch.compile for elementwise parts of bf16 steps: `on`, `off` or `auto` (in long training on a CPU, if it works)
    compile: str = "auto"


@dataclass
class ProtocolConfig:
    """How a run is judged."""

    name: str = MISSING  # how the protocol is called in the results folder
    # Which epoch's model is kept and whose validation score is the run's: `best` (on validation), `last`, or
    # `held_out` (best on a slice of the training split, validation untouched by the choice)
    selection: str = "best"
    held_out: float = 0.0  # share of the training split set aside, the same rows for every run; 0 sets none aside
    # Seeds of the grid: a point is chosen by their mean, and they are not used again. Empty: seed 0, which is reused
    grid_seeds: list[int] = field(default_factory=list)
    # Learning rate, batch size and epochs of each task, where the protocol has a table of them
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass
class LoggerConfig:
    """Mirror a run in Weights & Biases; the folder is the record."""

    name: str = "none"  # `none` or `wandb`
    project: str = "symlora"  # W&B project
    mode: str = "offline"  # `offline`, `online` or `disabled`
    group: str | None = None  # W&B group (an experiment); unset, protocol and model
    job_type: str = "run"  # W&B job type


@dataclass
class CheckpointConfig:
    """Exact resume of a run that was stopped (symlora.training.checkpoint)."""

    # Seconds between two checkpoints; 0 writes one after every step. After a checkpoint that took t seconds, none is
    # written for 100 t.
    seconds: float = 60.0  # the work that a kill may cost
    resume: bool = True  # resume from a checkpoint; false starts anew


@dataclass
class Config:
    """One run."""

    task: TaskConfig = field(default_factory=TaskConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 0  # of head, adapter, order of the data and dropout (a generator for each, symlora.seeds)
    device: str = "auto"  # `cpu`, `mps`, `cuda`, `cuda:<number>`, or `auto` (the first there of cuda, mps and cpu)
    # `fp32`, `bf16`, `fp16`, or `auto` (bf16 where it is fast, else fp16 on CUDA, else fp32). Only frozen weights and
    # activations have 16 bits; adapters, λ and head are always float32.
    precision: str = "auto"
    # A run folder or a PEFT adapter folder to start from (RTE, MRPC and STS-B from MNLI in LoRA's recipe); the output
    # layer of its head is not carried over
    init_from: str | None = None
    predict_test: bool = False  # also store predictions on the test splits
    results_dir: str = "results/runs"  # root of the run folders
    force: bool = False  # train again although a finished run with this configuration exists
    progress: bool = True  # show bars when the output is a terminal
