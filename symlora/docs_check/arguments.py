"""Command lines, read by the parser of the script that they would start; the script itself is not run."""

import argparse
import ast
import contextlib
import functools
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from symlora.docs_check.pages import PLACEHOLDER


class Wrong(Exception):
    """What is wrong with a command, in one sentence; `line` is where it stands on its page, where that is known."""

    line: int | None = None


class _Asked(BaseException):
    """A script asked its parser to read the command line. No script catches it."""


def of_script(script: Path, words: Sequence[str]) -> argparse.Namespace:
    """What a script would read from these words.

    Raises:
        Wrong: It would refuse them.
    """
    parser, before = _parser(script)
    return parse(parser, [*before, *words])


def of_launcher(name: str, words: Sequence[str]) -> argparse.Namespace:
    """What `torchrun` or `accelerate launch` would read: `training_script`, `training_script_args` and its own.

    Raises:
        Wrong: It would refuse them.
    """
    return parse(_launcher(name), words)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """What a parser makes of words; nothing at all of a call for help.

    Raises:
        Wrong: It refuses them.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return parser.parse_args(words)
    except SystemExit as stop:
        if stop.code:
            raise Wrong(said.getvalue().strip().splitlines()[-1]) from None
        return argparse.Namespace()


@functools.cache
def _parser(script: Path) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the words that the script puts before those of its command line."""
    code = compile(_tree(script), str(script), "exec", dont_inherit=True)
    with (
        patch.object(argparse.ArgumentParser, "parse_known_args", _ask),
        patch.object(sys, "argv", [str(script)]),
        patch.object(sys, "path", [str(script.parent.parent), *sys.path]),
    ):
        try:
            exec(code, {"__name__": "__main__", "__file__": str(script)})  # to where it reads its command line
        except _Asked as found:
            parser, before = found.args
        except (Exception, SystemExit) as error:
            raise Wrong(f"{script.name}: {type(error).__name__}: {error}") from error
        else:
            raise Wrong(f"{script.name} reads no command line")
    _allow_placeholders(parser)
    return parser, before


def _ask(parser: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: Any = None) -> NoReturn:
    raise _Asked(parser, list(args or ()))


def _tree(script: Path) -> ast.Module:
    """A script as it stands; the examples without what they import, which takes ten seconds and no parser needs."""
    tree = ast.parse(script.read_text())
    if script.parent.name == "examples":
        tree.body = [node for node in tree.body if not _is_foreign(node)]
    return tree


def _is_foreign(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return False
    return any(name.partition(".")[0] not in sys.stdlib_module_names for name in names)


@functools.cache
def _launcher(name: str) -> argparse.ArgumentParser:
    if name == "torchrun":
        from torch.distributed.run import get_args_parser

        parser = get_args_parser()
    else:
        from accelerate.commands.launch import launch_command_parser

        parser = launch_command_parser()
    parser.prog = name
    _allow_placeholders(parser)
    return parser


def _allow_placeholders(parser: argparse.ArgumentParser) -> None:
    """<What a page leaves to its reader> may stand for a number, and for one of several words."""
    for action in parser._actions:
        if action.nargs == argparse.PARSER:
            for below in dict(action.choices or {}).values():
                _allow_placeholders(below)
            continue
        if action.choices is not None:
            action.choices = _Choices(action.choices)
        if callable(action.type):
            action.type = _or_placeholder(action.type)


class _Choices(tuple[Any, ...]):
    def __contains__(self, value: object) -> bool:
        return value == PLACEHOLDER or super().__contains__(value)


def _or_placeholder(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(kind, updated=())  # argparse tells its name
    def made(text: str) -> Any:
        return text if text == PLACEHOLDER else kind(text)

    return made
