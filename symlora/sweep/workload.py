"""Estimate what runs cost and which can share a pass.

Reading the data here also fills the cache of tokens once, before several workers need it.
"""

import dataclasses
import json
from collections.abc import Mapping

from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.sweep.packing import Job
from symlora.sweep.worker import Outcome


def describe(configs: Mapping[int, Config]) -> tuple[list[Job], dict[int, Outcome]]:
    """Describe jobs; report those without data, encoder or device.

    Args:
        configs: By the job's place in the multirun.
    """
    go_offline_if_unreachable()
    from symlora.model.device import pick_device
    from symlora.runner.prepare import prepare_data

    sizes: dict[str, tuple[float, int] | SymloraError] = {}
    jobs: list[Job] = []
    failed: dict[int, Outcome] = {}
    for index, config in configs.items():
        content = dataclasses.asdict(config)
        parts = [content[name] for name in ("task", "data", "model", "protocol", "predict_test", "device")]
        key = json.dumps(parts, sort_keys=True)
        if key not in sizes:
            try:
                pick_device(config.device)
                train = prepare_data(config)[1]["train"]
                sizes[key] = (float(train.lengths.mean()), len(train))
            except SymloraError as error:
                sizes[key] = error
        if isinstance(size := sizes[key], SymloraError):
            failed[index] = Outcome(index, error=str(size))
        else:
            jobs.append(Job(index, config, *size, packable=packable(config)))
    return jobs, failed


def packable(config: Config) -> bool:
    """Tell whether runs of a method can share a pass."""
    from symlora.model.encoder import FLAT_MODEL_TYPES
    from symlora.model.packable import why_alone

    return why_alone(config.method) is None and model_type(config) in FLAT_MODEL_TYPES


def model_type(config: Config) -> str | None:
    """Read the encoder's model type; None if it cannot be read."""
    if known := config.model.shape.get("model_type"):
        return str(known)
    from transformers import AutoConfig

    from symlora.model.source import find

    source = find(config.model)
    try:
        return str(AutoConfig.from_pretrained(source.name_or_path, **source.arguments).model_type)
    except Exception:
        return None
