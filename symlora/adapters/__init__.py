"""Add our adapter methods to PEFT: one file a method, found by itself.

A method is three small classes:

* a dataclass on `LowRankConfig`, or on `AdapterConfig` where the method has no rank (config.py): the method's own
  fields and its `method` name;
* a layer on `FactorLayer` (factors.py), where the adapter adds a product of factors to the weight: `initial_values` and
  `factors`; or on `AdapterLayer` (layer.py): `initial_values`, `adapter_output` and `get_delta_weight`;
* a model on `AdapterModel` (tuner.py): `config_class` and `tuner_layer_cls`, and `before_step`, `after_step` if it acts
  between steps.

Saving, loading, merging, several adapters, switching, dtypes and devices then work as they do for PEFT's own methods.
A layer's forward is a function of its parameters and `x` alone (no state written, no branch on a value), so that
`torch.vmap` over `torch.func.functional_call` trains a stack of adapters at once.
"""

import importlib
import pkgutil
from typing import Any

import peft  # noqa: F401  # first: its import runs the hook of symlora/__init__.py, which imports this package


def discover() -> None:
    """Import every module of this package: a method registers itself when its classes are defined."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)


discover()


def __getattr__(name: str) -> Any:
    """Return a class or function of any module here, as in `from symlora.adapters import LoraXsConfig`."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        found = vars(importlib.import_module(module.name))
        if name in found:
            return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
