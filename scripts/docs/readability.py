"""Measure how long the sentences of Markdown pages are; exit with 1 if a page's mean is too long.

Counted are paragraphs and list items; headings, tables and code blocks are left out. Inline code is one word.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

LONGEST = 15.0  # words: every page's mean must be below


def sentences(text: str) -> Iterator[int]:
    """Count the words of each sentence of a page."""
    before = ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "inline" and before == "paragraph_open":
            for sentence in re.split(r"[.!?][)\"”*]*(?:\s|$)", prose(token)):
                if words := re.findall(r"\S*\w\S*", sentence):
                    yield len(words)
        before = token.type


def prose(paragraph: Token) -> str:
    """Return a paragraph's text, with one word for each piece of inline code."""
    shown = {"code_inline": "code", "softbreak": " "}
    return "".join(shown.get(part.type, part.content) for part in paragraph.children or ())


def main(pages: list[str]) -> int:
    """Print the mean of each page; return 1 if one is too long."""
    means = {page: [*sentences(Path(page).read_text(encoding="utf-8"))] for page in pages}
    long = {page: sum(counts) / len(counts) for page, counts in means.items() if counts}
    for page, mean in long.items():
        print(f"{mean:5.1f} words a sentence: {page}{'' if mean < LONGEST else f'  (keep it below {LONGEST:g})'}")
    return int(any(mean >= LONGEST for mean in long.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
