"""What a user may have meant by a target module that the model does not have."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from torch import nn

_SHOWN = 8


def near_names(model: nn.Module, targets: Any) -> str:
    """A sentence with the names of linear layers that are spelled alike, or else with those that there are.

    Args:
        model: The base model.
        targets: `target_modules`: names, their ends, or a regular expression.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return "This model has no linear layers."
    wanted = [targets] if isinstance(targets, str) else sorted(targets or ())
    found: list[str] = []
    for target in wanted:
        ends = _ends(linear, target.count(".") + 1)
        found += get_close_matches(target, ends, n=3)
    if found:
        return f"Did you mean {', '.join(dict.fromkeys(found))}?"
    ends = _ends(linear, 1)
    more = f" and {len(ends) - _SHOWN} more" if len(ends) > _SHOWN else ""
    return f"Its linear layers end in {', '.join(ends[:_SHOWN])}{more}."


def _ends(names: Iterable[str], parts: int) -> list[str]:
    """The last parts of these names, each once."""
    return sorted({".".join(name.split(".")[-parts:]) for name in names})
