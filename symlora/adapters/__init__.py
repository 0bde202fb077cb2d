"""Adapter methods of our own, as PEFT tuners: one method, one file (`symlora.py`) on one base (`base.py`)."""

import peft  # noqa: F401  # first: its import sets off the hook of symlora/__init__.py, which imports the methods

from symlora.adapters.asymlora import AsymLoraConfig, AsymLoraLinear, AsymLoraModel
from symlora.adapters.base import AdapterLayer, AdapterModel
from symlora.adapters.base_scale import BaseScaleLayer
from symlora.adapters.config import AdapterConfig, LowRankConfig
from symlora.adapters.dylora import DyLoraConfig, DyLoraLinear, DyLoraModel
from symlora.adapters.edora import EdoraConfig, EdoraLinear, EdoraModel
from symlora.adapters.houlsby import HoulsbyConfig, HoulsbyLinear, HoulsbyModel
from symlora.adapters.lora2 import Lora2Config, Lora2Linear, Lora2Model
from symlora.adapters.loralambda import LoraLambdaConfig, LoraLambdaLinear, LoraLambdaModel
from symlora.adapters.loramini import LoraMiniConfig, LoraMiniLinear, LoraMiniModel
from symlora.adapters.lorand import LorandConfig, LorandLinear, LorandModel
from symlora.adapters.loraxs import LoraXsConfig, LoraXsLinear, LoraXsModel
from symlora.adapters.lorta import LortaConfig, LortaLinear, LortaModel
from symlora.adapters.melora import MeloraConfig, MeloraLinear, MeloraModel
from symlora.adapters.prilora import PriLoraConfig, PriLoraLinear, PriLoraModel
from symlora.adapters.registry import register
from symlora.adapters.sara import SaraConfig, SaraLinear, SaraModel
from symlora.adapters.symlora import SymLoraConfig, SymLoraLinear, SymLoraModel, symmetric_update
from symlora.adapters.symlora_orthonormal import (
    SymLoraOrthonormalConfig,
    SymLoraOrthonormalLinear,
    SymLoraOrthonormalModel,
)
from symlora.adapters.symmetric import SymmetricConfig, SymmetricLinear, SymmetricModel
from symlora.adapters.xgblora import XgbLoraConfig, XgbLoraLinear, XgbLoraModel

register()

__all__ = [
    "AdapterConfig",
    "AdapterLayer",
    "AdapterModel",
    "AsymLoraConfig",
    "AsymLoraLinear",
    "AsymLoraModel",
    "BaseScaleLayer",
    "DyLoraConfig",
    "DyLoraLinear",
    "DyLoraModel",
    "EdoraConfig",
    "EdoraLinear",
    "EdoraModel",
    "HoulsbyConfig",
    "HoulsbyLinear",
    "HoulsbyModel",
    "Lora2Config",
    "Lora2Linear",
    "Lora2Model",
    "LoraLambdaConfig",
    "LoraLambdaLinear",
    "LoraLambdaModel",
    "LoraMiniConfig",
    "LoraMiniLinear",
    "LoraMiniModel",
    "LoraXsConfig",
    "LoraXsLinear",
    "LoraXsModel",
    "LorandConfig",
    "LorandLinear",
    "LorandModel",
    "LortaConfig",
    "LortaLinear",
    "LortaModel",
    "LowRankConfig",
    "MeloraConfig",
    "MeloraLinear",
    "MeloraModel",
    "PriLoraConfig",
    "PriLoraLinear",
    "PriLoraModel",
    "SaraConfig",
    "SaraLinear",
    "SaraModel",
    "SymLoraConfig",
    "SymLoraLinear",
    "SymLoraModel",
    "SymLoraOrthonormalConfig",
    "SymLoraOrthonormalLinear",
    "SymLoraOrthonormalModel",
    "SymmetricConfig",
    "SymmetricLinear",
    "SymmetricModel",
    "XgbLoraConfig",
    "XgbLoraLinear",
    "XgbLoraModel",
    "register",
    "symmetric_update",
]
