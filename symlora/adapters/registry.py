"""Make PEFT know our methods.

PEFT looks a method up by a member of its `PeftType` enum, and has no way in for methods from outside. An enum is closed
to subclassing but keeps its members in plain tables, so `register` appends ours; then `PeftModel.from_pretrained`, JSON
and pickling find them as they find PEFT's own.
"""

from typing import Any

from peft.utils.peft_types import PeftType, register_peft_method

from symlora.adapters.asymlora import AsymLoraConfig, AsymLoraModel
from symlora.adapters.base import AdapterModel
from symlora.adapters.config import AdapterConfig
from symlora.adapters.dylora import DyLoraConfig, DyLoraModel
from symlora.adapters.edora import EdoraConfig, EdoraModel
from symlora.adapters.houlsby import HoulsbyConfig, HoulsbyModel
from symlora.adapters.lora2 import Lora2Config, Lora2Model
from symlora.adapters.loralambda import LoraLambdaConfig, LoraLambdaModel
from symlora.adapters.loramini import LoraMiniConfig, LoraMiniModel
from symlora.adapters.lorand import LorandConfig, LorandModel
from symlora.adapters.loraxs import LoraXsConfig, LoraXsModel
from symlora.adapters.lorta import LortaConfig, LortaModel
from symlora.adapters.melora import MeloraConfig, MeloraModel
from symlora.adapters.prilora import PriLoraConfig, PriLoraModel
from symlora.adapters.sara import SaraConfig, SaraModel
from symlora.adapters.symlora import SymLoraConfig, SymLoraModel
from symlora.adapters.symlora_orthonormal import SymLoraOrthonormalConfig, SymLoraOrthonormalModel
from symlora.adapters.symmetric import SymmetricConfig, SymmetricModel
from symlora.adapters.xgblora import XgbLoraConfig, XgbLoraModel

METHODS: tuple[tuple[type[AdapterConfig], type[AdapterModel]], ...] = (
    (AsymLoraConfig, AsymLoraModel),
    (DyLoraConfig, DyLoraModel),
    (EdoraConfig, EdoraModel),
    (HoulsbyConfig, HoulsbyModel),
    (Lora2Config, Lora2Model),
    (LoraLambdaConfig, LoraLambdaModel),
    (LoraMiniConfig, LoraMiniModel),
    (LorandConfig, LorandModel),
    (LoraXsConfig, LoraXsModel),
    (LortaConfig, LortaModel),
    (MeloraConfig, MeloraModel),
    (PriLoraConfig, PriLoraModel),
    (SaraConfig, SaraModel),
    (SymLoraConfig, SymLoraModel),
    (SymLoraOrthonormalConfig, SymLoraOrthonormalModel),
    (SymmetricConfig, SymmetricModel),
    (XgbLoraConfig, XgbLoraModel),
)


def register() -> None:
    """Register every method of ours with PEFT. Calling it again does nothing."""
    for config, model in METHODS:
        name = config.method.upper()
        if name in PeftType.__members__:
            continue
        _append_member(name)
        register_peft_method(name=config.method, config_cls=config, model_cls=model, prefix=model.prefix)


def _append_member(name: str) -> None:
    """Add the member `name` of value `name` to `PeftType` (a str enum), as the enum's own machinery would."""
    member: Any = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType.__members__)
    type.__setattr__(PeftType, name, member)  # the enum's own __setattr__ refuses
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    hashable = getattr(PeftType, "_hashable_values_", None)  # Python 3.13 looks `"X" in PeftType` up there
    if hashable is not None:
        hashable.append(name)
