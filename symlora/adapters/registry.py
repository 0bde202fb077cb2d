"""Register our methods with PEFT.

PEFT looks up a method by a member of its `PeftType` enum and offers no way to add one from outside. An enum keeps its
members in plain tables, so `register` appends ours; saving, loading and pickling then find them as PEFT's own.
"""

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.peft_types import PeftType, register_peft_method

METHODS: dict[str, Any] = {}  # the `AdapterModel` of each method, by the name of PEFT's type, such as "SYMLORA"


def register(model: Any) -> None:
    """Register one method with PEFT; of several definitions the last one counts.

    Raises:
        KeyError: PEFT has a method of this name itself.
    """
    name = model.config_class.method.upper()
    if name in METHODS:  # defined again, as in a notebook's cell
        PEFT_TYPE_TO_CONFIG_MAPPING.pop(PeftType(name), None)
        PEFT_TYPE_TO_TUNER_MAPPING.pop(PeftType(name), None)
    elif name not in PeftType.__members__:
        _append_member(name)
    register_peft_method(name=name.lower(), config_cls=model.config_class, model_cls=model, prefix=model.prefix)
    METHODS[name] = model


def _append_member(name: str) -> None:
    """Add a member to `PeftType`, as the enum's machinery would."""
    member: Any = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType.__members__)
    type.__setattr__(PeftType, name, member)  # the enum's own __setattr__ refuses
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    getattr(PeftType, "_hashable_values_", []).append(name)  # Python 3.13 looks `"X" in PeftType` up there
