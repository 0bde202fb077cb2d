"""Report bad overrides in one line, before Hydra does."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from symlora.config.compose import CONFIG_DIR, our_configs
from symlora.config.schema import Config
from symlora.errors import SymloraError

WITH_VALUE = ("--cfg", "--package", "-p", "--info", "-i")  # Hydra's options
GROUPS = ("task", "method", "model", "protocol", "sweep", "budget")
SPACES = "A value with spaces is quoted whole: \"results_dir='/my runs'\", with make ARGS=\"results_dir='/my runs'\"."


def check_words(words: Sequence[str]) -> None:
    """Check that each override can be read and names what exists.

    Raises:
        SymloraError: One cannot be read, or names nothing; the message lists similar names.
    """
    if any(word.startswith(("--config", "-c")) for word in words):  # other folders, or another program of Hydra's
        return
    many = any(re.match(r"-m$|--multirun$|sweep=|hydra\.mode=", word) for word in words)
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-") or before in WITH_VALUE:
            continue
        if word.lstrip("+").startswith("="):
            raise SymloraError(f"{word}: there is no key before the `=`.")
        if "=" not in word and not word.startswith("~"):
            raise SymloraError(f"{word}: give key=value. {SPACES}")
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            key, _, value = word.partition("=")
            hint = f' Quoted: "{key}={_quoted(value)}"; with make ARGS="{key}={_quoted(value)}".'
            raise SymloraError(f"{word} cannot be read: {str(error).splitlines()[0]}.{hint}") from None
        if override.get_key_element().startswith("hydra/") and isinstance(override.value(), str):
            _check_hydra(override.get_key_element(), str(override.value()))
        elif match := re.fullmatch(rf"({'|'.join(GROUPS)})=([\w.,/+-]+)", word):
            for name in match[2].split(","):
                _check_choice(match[1], name)
                if match[1] == "protocol":
                    _check_protocol(name, words)
        elif isinstance(override.value(), ChoiceSweep) and not word.startswith("+"):
            for each in override.sweep_iterator():
                _check_setting(word, override.get_key_element(), getattr(each, "text", each))  # quoted or not
        elif not (word.startswith(("+", "~")) or override.is_sweep_override()):
            _check_setting(word, override.get_key_element(), override.value())
        if override.is_sweep_override() and not many:
            raise SymloraError(f"{word}: several values mean several runs: add -m (with make: ARGS=-m).")


def _check_setting(word: str, key: str, value: Any) -> None:
    """Check that a setting exists and can have this value."""
    group, _, name = key.partition(".")
    if key == "logger" and value is None:
        raise SymloraError(f"{word}: give none or wandb.")
    if group.startswith("hydra") or "/" in key or key in (*GROUPS, "grid", "best", "logger"):
        return
    if key == "protocol.name":
        raise SymloraError(f"{word}: a file sets this name. Give protocol={value}, or a new file in configs/protocol.")
    schema = OmegaConf.structured(Config)
    try:
        OmegaConf.update(schema, key, value)
    except (ConfigKeyError, ConfigAttributeError):
        here = [f"{group}.{field}" for field in schema[group]] if name and group in schema else []
        dotted = [f"{own}.{field}" for own in schema if OmegaConf.is_dict(schema[own]) for field in schema[own]]
        known = here or [*sorted({*schema, *GROUPS}), *dotted]
        same = [setting for setting in known if setting.endswith(f".{key}")]
        hint = f"Near: {', '.join(same)}." if same else _near(key, known, "Known here")
        raise SymloraError(f"{word}: there is no setting {key}. {hint}") from None
    except OmegaConfBaseException as error:
        if "ListConfig" in str(error):
            raise SymloraError(f'{word}: a list is expected: "{key}={_quoted(f"[{value}]")}".') from None
        raise SymloraError(f"{word}: {str(error).splitlines()[0]}.") from None


def _quoted(value: str) -> str:
    """Quote a text, or each one of a list."""
    if value[:1] + value[-1:] != "[]":
        return f"'{value}'"
    return "[" + ",".join(f"'{part.strip()}'" for part in value[1:-1].split(",")) + "]"


def _check_protocol(name: str, words: Sequence[str]) -> None:
    """Check that a protocol's name is its file's, and its grid exists."""
    path = CONFIG_DIR / "protocol" / f"{name}.yaml"
    own = OmegaConf.select(OmegaConf.load(path), "protocol.name")
    if own != name:
        raise SymloraError(f"{path}: protocol.name is {own or 'missing'}. Set it to {name}: it names the run folders.")
    if "sweep=grid" in words and not any(word.startswith("grid=") for word in words):
        _check_choice("grid", name, " A protocol's grid is the file with the same name there.")


def _check_choice(group: str, name: str, advice: str = "") -> None:
    known = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    if name not in known and (name != "null" or group in ("task", "method", "model", "protocol")):
        raise SymloraError(
            f"{group}={name}: there is no configs/{group}/{name}.yaml. {_near(name, known, 'There are')}{advice}"
        )


def _check_hydra(group: str, name: str) -> None:
    """Check a choice such as hydra/launcher=packed, of Hydra's own groups."""
    with our_configs():
        known = GlobalHydra.instance().config_loader().get_group_options(group)
    if known and name not in known:
        raise SymloraError(f"{group}={name}: there is no such choice. {_near(name, known, 'There are')}")


def _near(name: str, known: Sequence[str], otherwise: str) -> str:
    """List the names near to one; all if there are none."""
    near = [other for other in known if other.lower() == name.lower()] or difflib.get_close_matches(name, known)
    return f"Near: {', '.join(near)}." if near else f"{otherwise}: {', '.join(known)}."
