"""Markdown pages: their blocks of code, the commands in them and in the running text, links and headings."""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

PROGRAMS = (
    "make", "python", ".venv/bin/python", "torchrun", "accelerate", "symlora", "pip", "uv", "git", "cd", "export",
)  # fmt: skip
"""A line of a block without a language that begins with one of these is a command."""
SHELL = ("bash", "sh", "console")
PLACEHOLDER = "placeholder"
"""Stands for what a page leaves to its reader: <in angle brackets>, or an ellipsis."""


@dataclass(frozen=True)
class Block:
    """A block of code, fenced or indented.

    Attributes:
        page: File.
        line: Of its first line, from 1.
        language: As the fence says; empty without one.
        text: Content.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def is_shell(self) -> bool:
        """Whether it is to be read as commands."""
        return self.language in SHELL or (not self.language and any(map(_is_command, self.text.splitlines())))

    def commands(self) -> list[tuple[int, list[str]]]:
        """Each command's line, and its words: comments dropped, lines ended by a backslash joined.

        Of a block of a console, the lines after `$ `.
        """
        found, number = [], self.line
        for line in re.split(r"(?<!\\)\n", self.text):
            text = line.replace("\\\n", " ").strip()
            if self.language == "console":
                text = text[2:] if text.startswith("$ ") else ""
            if words := words_of(text):
                found.append((number, words))
            number += 1 + line.count("\n")
        return found


def words_of(command: str) -> list[str]:
    """Its words; what it leaves to the reader is one word, `[what may be left out]` is there.

    Raises:
        ValueError: A quotation is not closed.
    """
    text = re.sub(r"<[^<>]*>|(?<==)(\.\.\.|…)", PLACEHOLDER, command)
    text = re.sub(r"(?<!\S)\[([^\[\]]*)\](?!\S)", r"\1", text)
    return [word for word in shlex.split(text, comments=True) if word not in ("...", "…")]


def variants(words: list[str]) -> Iterator[list[str]]:
    """Of `--to merged|lora` each of the two."""
    found = []
    for word in words:
        several = re.fullmatch(r"(.*=)?([\w.-]+(?:\|[\w.-]+)+)", word)
        found.append([(several[1] or "") + one for one in several[2].split("|")] if several else [word])
    yield from map(list, itertools.product(*found))


def _is_command(line: str) -> bool:
    words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
    return bool(words) and words[0] in PROGRAMS


def blocks(page: Path) -> Iterator[Block]:
    """Every block of code of a page."""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block") and token.map is not None:
            line = token.map[0] + (2 if token.type == "fence" else 1)
            yield Block(page, line, token.info.strip(), token.content)


def inlines(page: Path) -> Iterator[tuple[int, str]]:
    """What stands in code type in the running text, each with its line."""
    lines = page.read_text().splitlines()
    for token in MarkdownIt().parse(page.read_text()):
        if token.type != "inline" or token.map is None:
            continue
        text, at = "\n".join(lines[token.map[0] : token.map[1]]), 0
        for child in token.children or ():
            if child.type == "code_inline":
                found = re.compile(r"\s+".join(map(re.escape, child.content.split()))).search(text, at)
                at = found.end() if found else at
                yield token.map[0] + 1 + text.count("\n", 0, found.start() if found else at), child.content


def links(page: Path) -> Iterator[str]:
    """Targets of a page's links to other places of this project."""
    for token in MarkdownIt().parse(page.read_text()):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if isinstance(target, str) and not re.match(r"[a-z]+:", target):
                yield target


def named_paths(page: Path) -> Iterator[str]:
    """Files of this project that a page names in code type, such as `symlora/store/folder.py`."""
    for token in MarkdownIt().parse(page.read_text()):
        for child in token.children or ():
            if child.type == "code_inline" and re.fullmatch(
                r"(symlora|scripts|configs|tests|docs|notebooks)/[\w./-]*", child.content
            ):
                yield child.content


def anchors(page: Path) -> set[str]:
    """The names that a page can be linked to by: those that GitHub makes of its headings, and its <a id="…">."""
    tokens = MarkdownIt().parse(page.read_text())
    given = set(re.findall(r'<a id="([^"]+)">', page.read_text()))
    titles = [after.content for token, after in zip(tokens, tokens[1:], strict=False) if token.type == "heading_open"]
    return given | {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
