"""How a step grows with the length of its rows and with the encoder's layers: random tokens, random weights."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from symlora.bench.flops import Shape, needed
from symlora.bench.settings import BATCH_SIZE, DROPOUT, Settings, task_config
from symlora.bench.work import Case, Load, Work, random_rows
from symlora.config.schema import Config
from symlora.model.source import find, load_tokenizer

LAYERS_AT = 64  # tokens a row while layers grow: RTE's mean


@contextmanager
def folder() -> Iterator[Path]:
    """For encoders with random weights; removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="symlora-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def random_encoder(config: Config, where: Path, layers: int, width: int | None = None) -> Path:
    """An encoder like the configured one, with its tokenizer, but with this many layers and random weights.

    Args:
        config: Names the model.
        where: A folder for such encoders.
        layers: L.
        width: n; heads of 64 and a feed-forward of 4n come with it, as in BERT. None keeps the model's.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = where / f"{config.model.name}-{layers}x{width or 'own'}-{len(config.task.labels)}"
    if not path.exists():
        source = find(config.model)
        hf_config: Any = AutoConfig.from_pretrained(source.name_or_path, **source.arguments)
        hf_config.num_hidden_layers, hf_config.num_labels = layers, len(config.task.labels) or 1
        if width is not None:
            hf_config.hidden_size, hf_config.num_attention_heads = width, max(1, width // 64)
            hf_config.intermediate_size = 4 * width
        AutoModelForSequenceClassification.from_config(hf_config).save_pretrained(path)
        load_tokenizer(source).save_pretrained(path)
    return path


def loads(settings: Settings, where: Path, precision: str) -> dict[str, list[Load]]:
    """By part (`length`, `layers`) the cases; their names end with the number that grows."""
    from transformers import AutoConfig

    def load(part: str, size: int, length: int, layers: int | None) -> Load:
        config = task_config(settings, settings.tasks[0], settings.method)
        config.task.labels = ["0", "1"]
        depth, width = settings.model_shape or (None, None)
        if layers or depth:
            path = random_encoder(config, where, layers or depth or 0, width)
            config.model.path, config.model.shape = str(path), {}
        source = find(config.model)
        hf_config: Any = AutoConfig.from_pretrained(source.name_or_path, **source.arguments)
        rows = random_rows(length, settings.steps * BATCH_SIZE, hf_config.vocab_size)
        shape = Shape.of(hf_config, 2, int(config.method.peft_config["r"]))
        case = Case(f"{part} {size}", "ours", settings.method, "none", precision, DROPOUT)
        return Load(case, config, Work(rows, BATCH_SIZE, needed(shape, rows.lengths)))

    lengths, depths = settings.growth
    found = {
        "length": [load("length", length, length, None) for length in lengths],
        "layers": [load("layers", layers, LAYERS_AT, layers) for layers in depths],
    }
    return {part: some for part, some in found.items() if some}


def exponent(sizes: list[float], seconds: list[float]) -> float | None:
    """p in seconds ∝ size^p, by least squares on the logarithms; None with fewer than two sizes."""
    if len(sizes) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
