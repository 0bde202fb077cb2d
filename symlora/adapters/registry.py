"""Make PEFT know our methods.

PEFT looks up a method by a member of its `PeftType` enum and offers no way to add one from outside. An enum cannot be
subclassed but keeps its members in plain tables, so `register` appends ours. After that, `PeftModel.from_pretrained`,
JSON and pickling find our methods as they find PEFT's own.
"""

from typing import TYPE_CHECKING, Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.peft_types import PeftType, register_peft_method

if TYPE_CHECKING:
    from symlora.adapters.tuner import AdapterModel

METHODS: dict[str, type["AdapterModel"]] = {}  # by the name of PEFT's type, such as "SYMLORA"


def register(model: type["AdapterModel"]) -> None:
    """Register one method with PEFT; of several definitions the last one counts.

    Raises:
        KeyError: PEFT has a method of this name itself.
    """
    name = model.config_class.method.upper()
    if name in METHODS:  # defined again, as in a notebook's cell
        tables: tuple[Any, ...] = (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING)
        for table in tables:
            table.pop(PeftType(name), None)
    elif name not in PeftType.__members__:
        _append_member(name)
    register_peft_method(name=name.lower(), config_cls=model.config_class, model_cls=model, prefix=model.prefix)
    METHODS[name] = model


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
