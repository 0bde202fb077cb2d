"""Every block, command and link of the documentation: what was done with it, and what is wrong."""

import contextlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from json import loads
from pathlib import Path
from typing import Any

import yaml

from symlora.docs_check.arguments import Wrong
from symlora.docs_check.commands import ROOT, check, run
from symlora.docs_check.inline import check_inline
from symlora.docs_check.pages import Block, anchors, blocks, inlines, links, named_paths
from symlora.docs_check.rules import CHECK, EXAMPLES, HUB, OUTPUT, RUN, SKIP, rule

FAILED, SHOWN = "FAILED", "text"
KEPT_OUT = (".venv", ".git", ".cache", "runs", "__pycache__", "wandb", ".hypothesis")


@dataclass(frozen=True)
class Found:
    """What was done with one block, with one wrong command in the text, or with those or the links of a page.

    Attributes:
        place: File and line.
        how: `ran`, `checked`, `skipped`, `text` or `FAILED`.
        what: In one line.
    """

    place: str
    how: str
    what: str


def pages(root: Path = ROOT) -> list[Path]:
    """README.md, docs/*.md, and the READMEs below results."""
    return [
        root / "README.md",
        *sorted((root / "docs").glob("*.md")),
        root / "results" / "README.md",
        root / "results" / "leaderboard" / "README.md",
    ]


def check_pages(found: Sequence[Path], *, running: bool) -> Iterator[Found]:
    """All blocks, commands in the text, and links of these pages.

    Args:
        found: Markdown files.
        running: Run Python and the commands that the rules say can be run, and compose every job of a multirun.
            Otherwise Python is compiled and all commands are checked, of a multirun the first job.
    """
    with ExitStack() as stack:
        project = cache(lambda: _copy(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docs-check-")))))
        for page in found:
            shown = list(blocks(page))
            python = " ".join(block.text for block in shown if block.language == "python")
            names = _names() if running and re.search(r"\b(model|base)\b", python) else {"__name__": "docs"}
            for block in shown:
                yield _block(block, project if running else None, names)
            yield from _inlines(page)
            yield _links(page)


def _copy(folder: Path) -> Path:
    """A copy of the project that commands may write into; its runs and its environment are the project's own."""
    copy = folder / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*KEPT_OUT))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    (copy / "results" / "runs").symlink_to(ROOT / "results" / "runs")
    return copy


def _block(block: Block, project: Callable[[], Path] | None, names: dict[str, Any]) -> Found:
    place = f"{_below(block.page)}:{block.line}"
    first = next((line.strip() for line in block.text.splitlines() if line.strip()), "")
    try:
        if block.is_shell:
            return _shell(place, block, project)
        if block.language == "python":
            return Found(place, *_python(block, names, running=project is not None))
        if block.language in ("yaml", "json"):
            (yaml.safe_load if block.language == "yaml" else loads)(block.text)
            return Found(place, CHECK, f"{block.language}: {first}")
        if block.language in OUTPUT:
            return Found(place, SHOWN, first)
    except (Wrong, ValueError, yaml.YAMLError) as error:
        line = getattr(error, "line", None) or block.line
        return Found(f"{_below(block.page)}:{line}", FAILED, f"{first}: {error}")
    return Found(place, FAILED, f"no rule for a block of language {block.language!r} (symlora/docs_check/rules.py)")


def _shell(place: str, block: Block, project: Callable[[], Path] | None) -> Found:
    done: dict[str, list[str]] = {}
    whys: set[str] = set()
    for line, command in block.commands():
        text = " ".join(command)
        try:
            how, why = _command(command, project)
        except Wrong as error:
            told = Wrong(f"`{text}`: {error}")
            told.line = line
            raise told from None
        done.setdefault(how, []).append(text)
        whys |= {why} - {""}
    if not done:
        raise Wrong("no command in it")
    how = next(name for name in (RUN, CHECK, SKIP) if name in done)
    counts = ", ".join(f"{len(texts)} {name}" for name, texts in done.items())
    reason = f" [not run: {'; '.join(sorted(whys))}]" if whys else ""
    return Found(place, how, f"{counts}: {done[how][0]}{reason}")


def _command(command: list[str], project: Callable[[], Path] | None) -> tuple[str, str]:
    """What was done with it, and why no more was."""
    known = rule(command)
    if known is None:
        raise Wrong("no rule for it (symlora/docs_check/rules.py)")
    if known.how == SKIP:
        return SKIP, known.why
    if known.how == RUN and project is not None:
        _run_once(tuple(command), project())
        return RUN, ""
    check(command, every_job=project is not None)
    return CHECK, "" if known.how == RUN else known.why


@cache
def _run_once(command: tuple[str, ...], folder: Path) -> None:
    """Pages repeat commands; what ran to the end runs to the end again."""
    run(list(command), folder)


def _python(block: Block, names: dict[str, Any], *, running: bool) -> tuple[str, str]:
    """Runs a block after those above it on its page; with a hub in it, it and those below it are only compiled."""
    first = block.text.strip().splitlines()[0]
    try:
        code = compile(block.text, str(block.page), "exec")
    except SyntaxError as error:
        raise Wrong(f"line {error.lineno}: {error.msg}") from None
    if names.get("__hub__") or re.search(HUB, block.text):
        names["__hub__"] = True
        return SKIP, f"python, compiled: {first} [not run: needs a hub]"
    if not running:
        return CHECK, f"python, compiled: {first}"
    before = Path.cwd()
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            os.chdir(folder)
            exec(code, names)  # what the project's own pages show
    except Exception as error:
        raise Wrong(f"{type(error).__name__}: {error}") from error
    finally:
        os.chdir(before)
    return RUN, f"python: {first}"


def _names() -> dict[str, Any]:
    """What Python of a page may take as given: `model` and `base`, small classifiers with random weights."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=50, max_position_embeddings=20, **shape)
    return {"__name__": "docs", **{name: RobertaForSequenceClassification(config) for name in ("model", "base")}}


def _inlines(page: Path) -> Iterator[Found]:
    """What is wrong with the commands and settings in the text, and how many there are."""
    count = 0
    for line, text in inlines(page):
        try:
            count += check_inline(text)
        except Wrong as error:
            yield Found(f"{_below(page)}:{line}", FAILED, f"`{text}`: {error}")
    if count:
        yield Found(_below(page), CHECK, f"{count} commands and settings in the text")


def _links(page: Path) -> Found:
    wrong, count = [], 0
    for target in links(page):
        count += 1
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        if not place.exists():
            wrong.append(f"{target} is not there")
        elif anchor and place.suffix == ".md" and anchor not in anchors(place):
            wrong.append(f"{target}: no such heading")
    for name in named_paths(page):
        count += 1
        if not (ROOT / name).exists() and not any(example in name for example in EXAMPLES):
            wrong.append(f"`{name}` is not there")
    return Found(_below(page), FAILED if wrong else CHECK, "; ".join(wrong) or f"{count} links and names of files")


def _below(page: Path) -> str:
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def summary(found: Sequence[Found]) -> str:
    """Counts by what was done."""
    counts = {how: sum(item.how == how for item in found) for how in (RUN, CHECK, SKIP, SHOWN, FAILED)}
    return ", ".join(f"{count} {how}" for how, count in counts.items())
