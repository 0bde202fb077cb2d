"""List what the bench measures: the cases of each task."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.flops import Shape, needed
from bench.work import BATCH_SIZE, Case, Load, measuring_rows
from symlora.config.compose import compose
from symlora.config.overrides import check_words
from symlora.config.schema import Config
from symlora.model.device import pick_precision
from symlora.model.source import find, load_tokenizer
from symlora.runner.prepare import prepare_data

PADDED, DYNAMIC = "HF + PEFT, padded to 128", "HF + PEFT, dynamic padding"
RIVAL = "HF + PEFT, grouped"  # the strongest settings: batches of rows of like length, and our precision


@dataclass(frozen=True)
class Settings:
    """What to measure; the command line's help explains the fields."""

    tasks: tuple[str, ...] = ("rte", "mrpc", "stsb", "cola")
    runs: tuple[int, ...] = (1, 8, 16)
    rounds: int = 3
    steps: int = 4
    min_seconds: float = 1.0
    method: str = "symlora"
    model: str = "minilm"
    model_path: str | None = None
    model_shape: tuple[int, int] | None = None  # layers, width
    device: str = "auto"
    precision: str = "auto"
    cores: int | None = None
    compiled: bool = True  # one rival more, whose encoder torch.compile has compiled: minutes a task


def cases(settings: Settings, device: torch.device) -> list[Case]:
    """List the cases of one task, in the order of a round."""
    fast, method = pick_precision(settings.precision, device).replace("fp16", "fp32"), settings.method  # as the rival
    pairs = [(fast, runs) for runs in settings.runs]
    if device.type == "cpu" and fast != "fp32":
        packed = [runs for runs in settings.runs if runs > 1][:2][-1:]  # one pack shows that fp32 gains little
        pairs += [("fp32", runs) for runs in (1, *packed)]
    found = [Case(PADDED, "baseline", "lora", "maximum", "fp32"), Case(DYNAMIC, "baseline", "lora", "longest", "fp32")]
    spread = {"one process": False} | ({"a process a core": True} if device.type == "cpu" else {})
    found += [
        Case(f"{RIVAL}, {attention}, {where}", "baseline", "lora", "grouped", fast, attention=attention, spread=apart)
        for attention in ("eager", "sdpa")
        for where, apart in spread.items()
    ]
    if settings.compiled:
        found.append(replace(found[-1], name=f"{RIVAL}, eager, compiled", attention="eager", compiled=True))
    found += [Case(f"ours {kind}, K = {runs}", "ours", method, "none", kind, runs=runs) for kind, runs in pairs]
    if method != "lora":
        own = [runs for kind, runs in pairs if kind == fast]
        found += [Case(f"ours LoRA {fast}, K = {runs}", "ours", "lora", "none", fast, runs=runs) for runs in own]
    if device.type == "cpu":
        found.append(Case("ours fp32, K = 1, no dropout", "ours", method, "none", "fp32", dropout=0.0))
    return found


def task_config(settings: Settings, task: str, method: str) -> Config:
    """Compose one run's configuration: GLUE's sentences if GLUE_DIR is set, else the demo's."""
    model = [f"model={settings.model}"]
    if settings.model_path is not None:
        model = ["model=local", f"model.name={Path(settings.model_path).name}", f"model.path={settings.model_path}"]
    protocol = "paper" if os.environ.get("GLUE_DIR") else "demo"
    train = ["train.lr=5e-4", f"train.batch_size={BATCH_SIZE}", "train.epochs=1", "train.head_lr=null"]
    words = [f"task={task}", f"method={method}", *model, f"protocol={protocol}", *train]
    check_words(words)
    return compose(*words)


def task_loads(
    settings: Settings, task: str, device: torch.device, folder: Path
) -> tuple[list[Load], Shape, dict[str, Any]]:
    """Prepare every case of a task, the encoder's size, and the record's entry on the data."""
    configs = {method: task_config(settings, task, method) for method in ("lora", settings.method)}
    data = prepare_data(configs["lora"])[1]["train"]
    if settings.model_shape is not None:
        for config in configs.values():
            use_random_encoder(config, folder, *settings.model_shape)
    shape = Shape.of(encoder_config(configs["lora"]), configs[settings.method])
    rows = measuring_rows(data, settings.steps * BATCH_SIZE)
    grouped = measuring_rows(data, settings.steps * BATCH_SIZE, BATCH_SIZE)
    described = {"source": configs["lora"].data.source, "rows": len(data), "mean_tokens": float(data.lengths.mean())}
    described |= {"measured_rows": len(rows), "measured_mean_tokens": float(rows.lengths.mean())}
    loads = []
    for case in cases(settings, device):
        own = grouped if case.padding == "grouped" else rows
        loads.append(Load(case, configs[case.method], own, needed(shape, own.lengths)))
    return loads, shape, described


def encoder_config(config: Config) -> Any:
    """Load the encoder's config.json."""
    source = find(config.model)
    return transformers.AutoConfig.from_pretrained(source.name_or_path, **source.arguments)


def use_random_encoder(config: Config, folder: Path, layers: int, width: int) -> None:
    """Give a run a random encoder of its kind in another size, with BERT's heads and feed-forward for that width."""
    path = folder / f"{config.model.name}-{layers}x{width}-{len(config.task.labels)}"
    if not path.exists():
        transformers.utils.logging.disable_progress_bar()
        hf_config = encoder_config(config)
        hf_config.num_labels = len(config.task.labels) or 1
        hf_config.num_hidden_layers, hf_config.hidden_size = layers, width
        hf_config.num_attention_heads, hf_config.intermediate_size = max(1, width // 64), 4 * width
        transformers.AutoModelForSequenceClassification.from_config(hf_config).save_pretrained(path)
        load_tokenizer(find(config.model)).save_pretrained(path)
    config.model.path, config.model.shape = str(path), {}
