"""Render Markdown as a page in one file, without scripts."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_WRAP_FROM = 25  # characters: longer cells may break over lines
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #ffffff; --band: #f3f5f7; --line: #d5dae0;
  --link: #0b57d0; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e9ed; --soft: #a0a9b4; --paper: #14171b; --band: #1e2329;
  --line: #363d46; --link: #8ab4f8; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 82rem; padding: 1.2rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; }} h2 {{ font-size: 1.25rem; margin-top: 2.5rem; }}
h3 {{ font-size: 1.05rem; }} p, ul {{ max-width: 60rem; }} a {{ color: var(--link); }} code {{ font-size: 0.9em; }}
img {{ max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); }}
.scroll {{ overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; position: relative; }}
table {{ border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; min-width: 100%; }}
th, td {{ padding: 0.35rem 0.7rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }}
th {{ vertical-align: bottom; background: var(--band); }} td.text {{ white-space: normal; min-width: 7rem; }}
td:first-child, th:first-child {{ position: sticky; left: 0; }} td:first-child {{ background: var(--paper); }}
@media print {{ .scroll {{ overflow: visible; }} }}
</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""


def markdown_page(title: str, markdown: str, pictures: Path | None = None) -> str:
    """Render GitHub-flavored Markdown as an HTML page.

    HTML inside the Markdown is shown as text, so that messages of others cannot add markup. The one exception is
    `<a id="name"></a>` in a paragraph of its own before a heading: it becomes the heading's id. Tables scroll in a
    box of their own. The PNG files that the Markdown names are read from the folder `pictures`, and put into the page.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.core.ruler.push("page", _page_tokens)
    body = reader.render(markdown, {"pictures": pictures})
    return _PAGE.format(title=escape(title), body=body)


def _page_tokens(state: StateCore) -> None:
    tokens: list[Token] = []
    heading = ""
    for i, token in enumerate(state.tokens):
        anchor = _ANCHOR.fullmatch(state.tokens[i - 2].content) if token.type == "heading_open" and i > 2 else None
        if anchor:
            del tokens[-3:]
            token.attrSet("id", anchor[1])
        if token.type == "heading_open":
            heading = state.tokens[i + 1].content
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif token.type == "td_open" and len(state.tokens[i + 1].content) >= _WRAP_FROM:
            token.attrSet("class", "text")
        elif token.type == "inline":
            _embed(token.children or (), state.env["pictures"])
        if token.type == "table_open":
            tokens.append(_raw(f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(heading)}">\n'))
        tokens.append(token)
        if token.type == "table_close":
            tokens.append(_raw("</div>\n"))
    state.tokens = tokens


def _embed(children: Sequence[Token], folder: Path | None) -> None:
    for token in children:
        if token.type == "image" and folder is not None:
            content = (folder / unquote(str(token.attrs["src"]))).read_bytes()
            token.attrSet("src", f"data:image/png;base64,{base64.b64encode(content).decode()}")
            # The width is in a PNG's first block. Pictures are drawn finer than a screen's dots.
            token.attrSet("width", str(int.from_bytes(content[16:20], "big") * 2 // 3))


def _raw(content: str) -> Token:
    return Token("html_block", "", 0, content=content)
