"""Report bad overrides in one line, before Hydra does."""

import difflib
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from symlora.config.compose import CONFIG_DIR
from symlora.errors import SymloraError

WITH_VALUE = ("--cfg", "--package", "-p", "--info", "-i")  # Hydra's options
GROUPS = ("task", "method", "model", "protocol", "sweep", "budget")
SPACES = "A value with spaces is quoted whole: \"results_dir='/my runs'\", with make ARGS=\"results_dir='/my runs'\"."


def check_words(words: Sequence[str]) -> None:
    """Check that each override can be read and names what exists.

    Raises:
        SymloraError: One cannot, or is not; with names near to it.
    """
    if any(word.startswith(("--config", "-c")) for word in words):  # other folders, or another program of Hydra's
        return
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-") or before in WITH_VALUE:
            continue
        if word.lstrip("+").startswith("="):
            raise SymloraError(f"{word}: there is no key before the `=`.")
        if "=" not in word and not word.startswith("~"):
            raise SymloraError(f"{word}: give key=value. {SPACES}")
        try:
            OverridesParser.create().parse_override(word)
        except HydraException as error:
            key, _, value = word.partition("=")
            hint = f" Quoted it is one text: \"{key}='{value}'\"; with make ARGS=\"{key}='{value}'\"."
            raise SymloraError(f"{word} cannot be read: {str(error).splitlines()[0]}.{hint}") from None
        if match := re.fullmatch(rf"({'|'.join(GROUPS)})=([\w.,/+-]+)", word):
            for name in match[2].split(","):
                _check_choice(match[1], name)


def _check_choice(group: str, name: str) -> None:
    known = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    if name in known or name == "null":
        return
    near = difflib.get_close_matches(name, known)
    hint = f"Near: {', '.join(near)}." if near else f"There are: {', '.join(known)}."
    raise SymloraError(f"{group}={name}: there is no configs/{group}/{name}.yaml. {hint}")
