"""Hydra overrides: whether their keys are there, and their values right."""

import dataclasses
import functools
import re
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from symlora.config.compose import CONFIG_DIR, compose
from symlora.config.schema import Config
from symlora.docs_check.arguments import Wrong
from symlora.docs_check.pages import PLACEHOLDER
from symlora.errors import SymloraError
from symlora.sweep.grid import expand

SETTING = re.compile(r"(?:\+\+?|~)?([a-z]\w*(?:[./]\w+)*)=(.+)")
GROUPS = ("task", "method", "model", "protocol")
"""Of configs/: those that the options of scripts name too."""


def is_setting(word: str) -> bool:
    """Whether it sets something of a run: `train.lr=1e-3`, `force=true`, `sweep=grid`; and not `status=failed`."""
    found = SETTING.fullmatch(word)
    if not found:
        return False
    key = found[1]
    head = re.split("[./]", key)[0]
    if head != key:
        return head == "hydra" or head in get_type_hints(Config)
    return _is_group(key) or (_kind(key) is not None and not dataclasses.is_dataclass(_kind(key)))


def check_composes(overrides: list[str], every_job: bool) -> None:
    """Composes what a command sets.

    Args:
        overrides: Its words.
        every_job: All jobs of a multirun, not the first alone; that takes its time.

    Raises:
        Wrong: A key or a value is not there, or not right.
    """
    _compose(tuple(word for word in overrides if not _is_left_open(word)), every_job)


def check_alone(settings: list[str]) -> None:
    """Settings without their command: keys and types, and values as far as they need no other setting.

    Raises:
        Wrong: A key or a value is not there, or not right.
    """
    packed = ["hydra/launcher=packed"] * any(word.startswith("hydra.launcher.") for word in settings)
    try:
        check_composes([*packed, *settings], every_job=False)
    except Wrong as error:
        keys = [word.partition("=")[0].lstrip("+~") for word in settings]
        named = any(re.match(rf"{re.escape(key)}=\S*: ", str(error)) for key in keys)
        cause = error.__cause__
        if named or isinstance(cause, HydraException) or isinstance(getattr(cause, "__cause__", None), HydraException):
            raise


def several(overrides: list[str]) -> str | None:
    """The first of these that stands for several runs."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise Wrong(str(error)) from None
    sweeps = (text for text, one in zip(overrides, parsed, strict=True) if one.is_sweep_override())
    return next(sweeps, None)


@functools.cache
def _compose(overrides: tuple[str, ...], every_job: bool) -> None:
    try:
        if every_job:
            expand(*overrides)
        else:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
            compose(*(_first(text, override) for text, override in zip(overrides, parsed, strict=True)))
    except (SymloraError, HydraException) as error:
        raise Wrong(" ".join(str(error).split())) from error


def _first(text: str, override: Override) -> str:
    """The override of a multirun's first job."""
    if not override.is_sweep_override():
        return text
    return f"{text.partition('=')[0]}={next(override.sweep_string_iterator())}"


def _is_left_open(word: str) -> bool:
    """Whether its value is the reader's to give, and anything that stands for it would be refused."""
    key, _, value = word.partition("=")
    if PLACEHOLDER not in value:
        return word == "key=value"
    return _is_group(key) or _kind(key) not in (None, str, str | None)


def _is_group(key: str) -> bool:
    return (CONFIG_DIR / key).is_dir()


def _kind(key: str) -> Any:
    """The type that the schema gives a key; None where it has no such key, or takes anything."""
    kind: Any = Config
    for part in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return None
        kind = get_type_hints(kind).get(part)
    return kind
