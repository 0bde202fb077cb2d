"""Add our adapter methods to PEFT, one file a method.

A method is three small classes, which PEFT treats like those of its own methods:

* a dataclass on `LowRankConfig`, or on `AdapterConfig` without a rank (config.py): its fields and its `method` name;
* a layer on `FactorLayer` (factors.py), where the adapter adds a product of factors to the weight: `initial_values` and
  `factor_names`; or on `AdapterLayer` (layer.py): `initial_values`, `adapter_output` and `get_delta_weight`;
* a model on `AdapterModel` (tuner.py), which names the other two classes and defines what happens between steps.

A layer's forward is a function of its parameters and `x` alone (no state written, no branch on a value), so that
`torch.vmap` over `torch.func.functional_call` trains a stack of adapters at once.

Every method's file opens with its equation. These symbols mean the same in all of them:

    x, h   (..., n_in), (..., n_out)   input and output of a linear layer
    W0, b  (n_out, n_in), (n_out)      its frozen weight and bias
    α, r   `alpha` and `r`: scale and rank
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import peft  # noqa: F401  # first: its import runs the hook of symlora/__init__.py, which imports this package


def discover() -> list[ModuleType]:
    """Import every module of this package, and so register its methods."""
    return [importlib.import_module(found.name) for found in pkgutil.iter_modules(__path__, f"{__name__}.")]


discover()


def __getattr__(name: str) -> Any:
    """Find a name in any module here: `from symlora.adapters import LoraXsConfig`."""
    for module in discover():
        if name in vars(module):
            return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
