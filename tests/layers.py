"""What the tests of adapters share: one adapted linear layer, with names, shapes and random values; a classifier."""

import sys
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.peft_types import PeftType
from torch import Tensor, nn

from symlora.adapters.registry import METHODS

CONFIGS: dict[str, Any] = {model.config_class.method: model.config_class for model in METHODS.values()}
SQUARE = ("symlora", "symloraorthonormal", "symmetric")
N_IN, N_OUT, R = 9, 7, 3  # no two alike, so that a transposed factor shows
CLASSIFIER: Any = transformers.AutoModelForSequenceClassification  # transformers' types stop at the auto classes
IDS = torch.randint(3, 100, (4, 9), generator=torch.Generator().manual_seed(0))


def model_of(
    config: Any, n_in: int = N_IN, n_out: int = N_OUT, dtype: torch.dtype = torch.float64, seed: int = 0, **options: Any
) -> Any:
    """PEFT's model around one adapted linear layer."""
    torch.manual_seed(seed)
    config.target_modules = {"0"}
    return peft.get_peft_model(nn.Sequential(nn.Linear(n_in, n_out)).to(dtype), config, **options)


def layer_of(config: Any, *shape: Any, **options: Any) -> Any:
    """The adapted layer itself."""
    return model_of(config, *shape, **options).base_model.model[0]


def containers(layer: Any, adapter: str = "default") -> dict[str, Tensor]:
    """The values of one adapter, trained and frozen, by container name."""
    held = {name: getattr(layer, name) for name in layer.adapter_layer_names + layer.frozen_layer_names}
    return {name: values[adapter] for name, values in held.items() if adapter in values}


def forget(method: str) -> None:
    """Take a method out of PEFT's tables and ours."""
    tables: list[Any] = [PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, METHODS]
    for table in [*tables, PeftType._member_map_, PeftType._value2member_map_]:
        del table[method.upper()]
    PeftType._member_names_.remove(method.upper())
    type.__delattr__(PeftType, method.upper())
    sys.modules.pop(f"symlora.adapters.{method}", None)


def base(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The classifier in a folder, as transformers loads it."""
    return CLASSIFIER.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def logits(model: Any) -> Any:
    return model(IDS).logits


def inputs(n: int = N_IN, rows: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, n, dtype=dtype, generator=torch.Generator().manual_seed(3))
