"""Pages that are one file: system fonts, light and dark, no script, nothing from outside; pictures are in the page."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from symlora.report.formats import inline, to_html
from symlora.report.table import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #ffffff; --band: #f3f5f7; --line: #d5dae0;
  --gap: #9a5b00; --flag: #b3261e; --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a0a9b4; --paper: #14171b; --band: #1e2329;
  --line: #363d46; --gap: #e0a455; --flag: #ff8a80; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 82rem; padding: 1.2rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1.05rem; }
p, ul, .note { max-width: 60rem; } a { color: var(--link); } code { font-size: 0.9em; }
nav ul { padding-left: 1.1rem; } figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); }
figcaption, .foot, .note { color: var(--soft); font-size: 0.88rem; } .foot { padding-left: 1.1rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; position: relative; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: 0.35rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
thead th { vertical-align: bottom; background: var(--band); } .word { text-align: left; }
td:first-child, thead th:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; }
thead th:first-child { background: var(--band); }
th.section { text-align: left; background: var(--band); white-space: normal; font-weight: 600; }
.stay { position: sticky; left: 0.7rem; width: fit-content; max-width: min(60rem, calc(100vw - 5rem)); }
.note { font-weight: 400; } .gap { color: var(--gap); font-style: italic; } .flag { color: var(--flag); }
td.text { white-space: normal; text-align: left; min-width: 7rem; }
@media print { .scroll { overflow: visible; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of HTML fragments."""
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(parts))


def table_page(table: Table) -> str:
    """One table as a page of its own."""
    return page(table.title, [to_html(table).replace(f"<h2>{escape(table.title)}</h2>\n", "")])


def contents(entries: Sequence[tuple[str, str]]) -> str:
    """Links: (address, text)."""
    items = "".join(f'<li><a href="{escape(address)}">{escape(text)}</a></li>' for address, text in entries)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def paragraph(text: str) -> str:
    """One paragraph; `code` between backticks."""
    return f"<p>{inline(text)}</p>"


def footer_list(lines: Iterable[str]) -> str:
    """What holds for all tables of a page."""
    return f'<ul class="foot">{"".join(f"<li>{inline(line)}</li>" for line in lines)}</ul>'


def heading(text: str, anchor: str) -> str:
    """A heading that can be linked to."""
    return f'<h2 id="{escape(anchor)}">{escape(text)}</h2>'


def picture(png: Path, caption: str, links: Sequence[tuple[str, str]] = ()) -> str:
    """A figure with the picture in the page; links (address, text) to the same in other formats."""
    content = png.read_bytes()
    data = base64.b64encode(content).decode()
    width = int.from_bytes(content[16:20], "big") * 2 // 3  # from PNG's first block; finer than a screen's dots
    also = " · ".join(f'<a href="{escape(address)}">{escape(text)}</a>' for address, text in links)
    image = f'<img width="{width}" alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return (
        f'<figure id="{escape(f"{png.parent.name}-{png.stem}")}">{image}'
        f"<figcaption>{escape(caption)} {also}</figcaption></figure>"
    )


def grid_html(rows: Sequence[Sequence[str]], label: str) -> str:
    """Render a small table of text, header first."""
    head = "".join(f'<th scope="col" class="word">{inline(name)}</th>' for name in rows[0])
    body = "".join(f"<tr>{''.join(_text_cell(text) for text in row)}</tr>" for row in rows[1:])
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
    return f"{box}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _text_cell(text: str) -> str:
    kind = "text" if len(text) > 24 else "word"
    return f'<td class="{kind}">{inline(text)}</td>'
