"""What the bench measures: its settings, and the configurations that follow from them."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from symlora.bench.work import Case
from symlora.config.compose import compose
from symlora.config.schema import Config
from symlora.model.device import pick_precision

BATCH_SIZE = 16  # LoRA's scripts have 16 or 32
DROPOUT = 0.1  # RoBERTa's and BERT's own, of hidden states and of attention probabilities


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        tasks: Whose sentences.
        runs: K of the packs.
        rounds: Times that every configuration is measured.
        steps: Batches in a pass over the rows.
        min_seconds: A measurement is repeated passes until about this time is filled.
        method: Of our side.
        model: Name of a model's file in configs/model.
        model_path: A folder with another encoder.
        model_shape: (layers, width) of an encoder with random weights, on `model`'s tokenizer.
        device: As in a run's configuration.
        precision: `auto`, `fp32` or `bf16`.
        cores: Of the machine, used by each side; None: all.
        growth: Measure growth with length and layers too.
    """

    tasks: tuple[str, ...] = ("rte", "mrpc", "stsb", "cola")
    runs: tuple[int, ...] = (1, 4, 8, 16, 32)
    rounds: int = 3
    steps: int = 4
    min_seconds: float = 1.0
    method: str = "symlora"
    model: str = "minilm"
    model_path: str | None = None
    model_shape: tuple[int, int] | None = None
    device: str = "auto"
    precision: str = "auto"
    cores: int | None = None
    growth: tuple[tuple[int, ...], tuple[int, ...]] = ((16, 32, 64, 128), (2, 4, 6, 12))


def cases(settings: Settings, device: torch.device) -> list[Case]:
    """The configurations of one task, in the order in which a round takes them."""
    fast = pick_precision(settings.precision, device)
    found = [
        Case("HF + PEFT, padded to 128", "baseline", "lora", "maximum", "fp32", DROPOUT),
        Case("HF + PEFT, dynamic padding", "baseline", "lora", "longest", "fp32", DROPOUT),
    ]
    method = settings.method
    found += [Case(f"ours {fast}, K = {k}", "ours", method, "none", fast, DROPOUT, k) for k in settings.runs]
    if fast != "fp32" and device.type == "cpu":
        packed = [k for k in settings.runs if k > 1][:2][-1:]  # one pack is enough to see that fp32 gains little
        found += [Case(f"ours fp32, K = {k}", "ours", method, "none", "fp32", DROPOUT, k) for k in (1, *packed)]
    if device.type == "cpu":
        found.append(Case("ours fp32, K = 1, no dropout", "ours", method, "none", "fp32", 0.0))
    return found


def task_config(settings: Settings, task: str, method: str) -> Config:
    """One run's configuration: real sentences where GLUE_DIR says where they are, else the demo's."""
    real = bool(os.environ.get("GLUE_DIR"))
    model = [f"model={settings.model}"]
    if settings.model_path is not None:
        model = ["model=local", f"model.name={Path(settings.model_path).name}", f"model.path={settings.model_path}"]
    return compose(
        f"task={task}",
        f"method={method}",
        *model,
        f"protocol={'paper' if real else 'demo'}",
        *("train.lr=5e-4", f"train.batch_size={BATCH_SIZE}", "train.epochs=1", "train.head_lr=null"),
        f"train.model_dropout={DROPOUT}",
    )
