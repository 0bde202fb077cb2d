"""Measure how long the sentences of Markdown pages are; exit with 1 if a page's mean is too long.

Counted are paragraphs and list items, not headings, tables and code blocks. Inline code is one word.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

LONGEST = 15.0  # words: every page's mean must be below
SHOWN = {"code_inline": "code", "softbreak": " "}  # all else is shown as it is


def sentences(text: str) -> Iterator[int]:
    """Count the words of each sentence of a page."""
    before = ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "inline" and before == "paragraph_open":
            prose = "".join(SHOWN.get(part.type, part.content) for part in token.children or ())
            for sentence in re.split(r"[.!?][)\"”*]*(?:\s|$)", prose):
                if words := re.findall(r"\S*\w\S*", sentence):
                    yield len(words)
        before = token.type


def main(pages: list[str]) -> int:
    """Print the mean of each page; return 1 if one is too long."""
    counts = {page: [*sentences(Path(page).read_text(encoding="utf-8"))] for page in pages}
    means = {page: sum(found) / len(found) for page, found in counts.items() if found}
    for page, mean in means.items():
        print(f"{mean:5.1f} words a sentence: {page}{'' if mean < LONGEST else f'  (keep it below {LONGEST:g})'}")
    return int(any(mean >= LONGEST for mean in means.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
