"""Make PEFT know our methods.

PEFT looks a method up by a member of its `PeftType` enum, and has no way in for methods from outside. An enum is closed
to subclassing but keeps its members in plain tables, so `register` appends ours; then `PeftModel.from_pretrained`, JSON
and pickling find them as they find PEFT's own.
"""

from typing import Any

from peft.utils.peft_types import PeftType, register_peft_method

from symlora.adapters.base import AdapterConfig, AdapterModel
from symlora.adapters.symlora import SymLoraConfig, SymLoraModel

METHODS: tuple[tuple[type[AdapterConfig], type[AdapterModel]], ...] = ((SymLoraConfig, SymLoraModel),)


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
