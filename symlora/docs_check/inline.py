"""Commands and settings in the running text: `make study TASKS=rte`, `ARGS="train.lr=1e-3"`, `precision=fp32`.

They are checked, and not run. A mere name (`make`, `symlora export`) and prose (`key=value`, `status=failed`) are none.
"""

import difflib
import re

from symlora.docs_check.arguments import Wrong
from symlora.docs_check.commands import ROOT, Unused, check, make_variables, split
from symlora.docs_check.pages import PROGRAMS, variants, words_of
from symlora.docs_check.rules import SKIP, rule
from symlora.docs_check.settings import check_alone, is_setting


def check_inline(text: str) -> bool:
    """Looks at one piece of code type.

    Returns:
        Whether it is a command or a setting.

    Raises:
        Wrong: It is, and does not work.
    """
    try:
        words = words_of(text)
    except ValueError as error:  # a quotation that does not close
        if re.match(rf"({'|'.join(PROGRAMS)}) ", text):
            raise Wrong(str(error)) from None
        return False
    before, rest = split(words)
    if before and not rest:
        return _check_variables(before)
    if len(rest) > 1 and rest[0].startswith("scripts/"):
        rest = ["python", *rest]
    if _is_command(rest):
        _check_command(rest)
        return True
    if words and all(map(is_setting, words)):
        for each in variants(words):
            check_alone(each)
        return True
    return False


def _is_command(words: list[str]) -> bool:
    """Not `make` or `python 3.12`."""
    if len(words) < 2 or words[0] not in PROGRAMS:
        return False
    return not words[0].endswith("python") or words[1] == "-m" or words[1].endswith(".py")


def _check_command(words: list[str]) -> None:
    known = rule(words)
    if known is None:
        raise Wrong("no rule for it (symlora/docs_check/rules.py)")
    if known.how == SKIP:
        return
    try:
        check(words, every_job=False)
    except Wrong as error:
        if len(words) > 2 or "arguments are required" not in str(error):  # `symlora export` is a name
            raise


def _check_variables(words: list[str]) -> bool:
    """Those of the Makefile fit one of its targets at least; those of the environment are nobody's to check."""
    known = make_variables()
    names = [word.partition("=")[0] for word in words]
    for name in names:
        if name not in known and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.75)):
            raise Wrong(f"the Makefile has no variable {name}: is it {near[0]}?")
    ours = [word for word, name in zip(words, names, strict=True) if name in known]
    if ours:
        _check_fits(ours)
    return bool(ours)


def _check_fits(words: list[str]) -> None:
    wrong: list[Wrong] = []
    for target in _targets(words):
        try:
            check(["make", target, *words], every_job=False)
            return
        except Wrong as error:
            wrong.append(error)
    told = next((error for error in wrong if not isinstance(error, Unused)), wrong[0])
    raise Wrong(f"fits no target of the Makefile: {told}")


def _targets(words: list[str]) -> list[str]:
    """Those that may take such words; first `glue`, which is meant most often and tells best what is wrong."""
    found = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"glue"}
    if any("=" in word.partition("=")[2] for word in words):
        found -= {"docs-check", "verify-results"}  # the only ones that take any word
    return ["glue", *sorted(found)]
