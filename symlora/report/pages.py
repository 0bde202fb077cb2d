"""Make HTML pages, in one file each, from Markdown, tables and figures."""

import re
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore

from symlora.report.captions import FIGURES
from symlora.report.formats import escape as escape_markdown
from symlora.report.formats import markdown_rows, unique
from symlora.report.table import Cell, Section, Table

PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, undefined=StrictUndefined
)
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_WRAP_FROM = 25  # characters: longer cells may break over lines
_SVG, _LINK, _DC = (
    f"{{http://{name}}}" for name in ("www.w3.org/2000/svg", "www.w3.org/1999/xlink", "purl.org/dc/elements/1.1/")
)
ElementTree.register_namespace("", _SVG[1:-1])
ElementTree.register_namespace("xlink", _LINK[1:-1])


def page(title: str, body: str) -> str:
    """Put a body of HTML into a page."""
    return PAGES.get_template("page.html.j2").render(title=title, body=body)


def markdown_html(markdown: str) -> str:
    """Render GitHub-flavored Markdown.

    HTML inside the Markdown is shown as text, so that messages of others cannot add markup. The one exception is
    `<a id="name"></a>` in a paragraph of its own before a heading: it becomes the heading's id.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.core.ruler.push("page", _mark)
    html: str = reader.render(markdown)
    scroll = '<div class="scroll" tabindex="0" role="region" aria-label="Table">\n<table>'
    return html.replace("<table>", scroll).replace("</table>", "</table>\n</div>")


def table_page(table: Table) -> str:
    """Write a page of a table and what belongs to it."""
    parts = [f"<h1>{escape(table.title)}</h1>", markdown_html(escape_markdown(table.caption))]
    parts += [section_html(table, section) for section in table.sections]
    parts.append(markdown_html("\n".join(f"- {escape_markdown(text)}" for text in table.footers)))
    return page(table.title, "\n".join(parts))


def section_html(table: Table, section: Section) -> str:
    """Write a section, split in parts, without empty rows and columns.

    The table says where to split. What was left out is counted in one line, and named behind it.
    """
    labels, columns = range(table.labels), range(table.labels, len(table.header))
    told = [row for row in section.rows if any(_is_told(row[i]) for i in columns)]
    shown = [i for i in columns if any(_is_told(row[i]) for row in told)]
    header, parts = unique(table.header), [f"### {escape_markdown(section.title)}"]
    for start, end in zip((0, *table.breaks), (*table.breaks, len(header)), strict=True):
        here = [*labels, *(i for i in shown if start <= i < end)]
        least = table.labels + (2 if start else 1)  # "reference" alone is said above already
        rows = [[row[i] for i in here] for row in told if sum(_is_told(row[i]) for i in here) >= least]
        if rows:
            parts.append("\n".join(markdown_rows([header[i] for i in here], rows, len(labels))))
    html = markdown_html("\n\n".join([*parts, *map(escape_markdown, section.notes)]))
    tasks = [row[0].text for row in told]
    missing = {
        "task": list(dict.fromkeys(row[0].text for row in section.rows if row[0].text not in tasks)),
        "column": [header[i] for i in columns if told and i not in shown],
    }
    counts = [f"{len(found)} {name}{'s' * (len(found) > 1)}" for name, found in missing.items() if found]
    if not counts:
        return html
    listed = "; ".join(", ".join(found) for found in missing.values() if found)
    return f"{html}<details><summary>Without numbers: {' and '.join(counts)}</summary>{escape(listed)}</details>"


def figure_html(folder: Path, stem: str, out: Path) -> dict[str, Any]:
    """Read a figure's SVG for the page, and name its other files.

    The drawing keeps only the ids that it refers to, and leaves title and caption to the page.
    """
    csv = "figure1" if stem.startswith("figure1") else stem
    files = {"PDF": folder / f"{stem}.pdf", "PNG": folder / f"{stem}.png", "CSV": folder / f"{csv}.csv"}
    root = ElementTree.parse(folder / f"{stem}.svg").getroot()
    title, caption = (next(root.iter(f"{_DC}{name}")).text or "" for name in ("title", "description"))
    for name in ("title", "metadata", "defs"):
        root.remove(root.find(f"{_SVG}{name}"))  # type: ignore[arg-type]  # matplotlib writes them
    for group in root.iter(f"{_SVG}g"):
        group.attrib.pop("id", None)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.set("style", f"--points: {width:g}")  # the page says how many pixels a point has
    return {
        "what": FIGURES[stem],
        "files": {kind: path.relative_to(out).as_posix() for kind, path in files.items()},
        "svg": ElementTree.tostring(root, encoding="unicode"),
        "title": title,
        "caption": caption,
    }


def _is_told(cell: Cell) -> bool:
    return bool(cell.text) and cell.kind != "gap"


def _mark(state: StateCore) -> None:
    """Name each cell's column, and make anchors the ids of headings."""
    names: list[str] = []
    hidden: set[int] = set()  # paragraphs of anchors
    place, tokens = 0, state.tokens
    for i, token in enumerate(tokens):
        if token.type == "table_open":
            names = []
        elif token.type == "tr_open":
            place = 0
        elif token.type == "th_open":
            token.attrSet("scope", "col")
            names.append(re.sub(r"\\(.)", r"\1", tokens[i + 1].content).replace("&lt;", "<"))  # as it is shown
        elif token.type == "td_open":
            token.attrSet("data-label", names[place])
            place += 1
            if len(tokens[i + 1].content) >= _WRAP_FROM:
                token.attrSet("class", "text")
        elif token.type == "heading_open" and i > 2 and (anchor := _ANCHOR.fullmatch(tokens[i - 2].content)):
            token.attrSet("id", anchor[1])
            hidden |= {i - 3, i - 2, i - 1}
    state.tokens = [token for i, token in enumerate(tokens) if i not in hidden]  # equal tokens are not the same
