"""Adapter methods of our own, as PEFT tuners: one method, one file (`symlora.py`) on one base (`base.py`)."""

import peft  # noqa: F401  # first: its import sets off the hook of symlora/__init__.py, which imports the methods

from symlora.adapters.base import AdapterConfig, AdapterLayer, AdapterModel
from symlora.adapters.registry import register
from symlora.adapters.symlora import SymLoraConfig, SymLoraLinear, SymLoraModel, symmetric_update

register()

__all__ = [
    "AdapterConfig",
    "AdapterLayer",
    "AdapterModel",
    "SymLoraConfig",
    "SymLoraLinear",
    "SymLoraModel",
    "register",
    "symmetric_update",
]
