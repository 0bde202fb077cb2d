"""One table in four formats: Markdown, LaTeX (booktabs), CSV and HTML (a fragment; the page is html.py's)."""

import csv
import io
import re
from collections.abc import Iterable
from html import escape

from symlora.report.table import Cell, Table

# What LaTeX reads as a command, or lacks a glyph for. Braces and backslashes first go through one pass together.
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "·": r"$\cdot$",
    "√": r"$\surd$", "λ": r"$\lambda$", "∞": r"$\infty$", "<": r"$<$", ">": r"$>$", "“": "``", "”": "''",
}  # fmt: skip
_MARKDOWN = {"|": r"\|", "*": r"\*", "<": "&lt;", "_": r"\_"}


def to_markdown(table: Table) -> str:
    """GitHub's tables, one a section; gaps in italics, numbers that need a second look in bold."""
    lines = [f"## {_plain(table.title)}", "", _plain(table.caption), ""]
    for section in table.sections:
        lines += [f"### {_plain(section.title)}", ""]
        for note in section.notes:
            lines += [_plain(note), ""]
        rule = ["---"] * table.labels + ["---:"] * (len(table.header) - table.labels)
        rows = [[_plain(name) for name in table.header], rule]
        rows += [[_marked(cell) for cell in row] for row in section.rows]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    lines += [f"- {_plain(text)}" for text in table.footers]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(table: Table) -> str:
    """A `table` environment with one booktabs tabular; needs the packages booktabs and graphicx."""
    columns = "l" * table.labels + "r" * (len(table.header) - table.labels)
    width = len(table.header)
    lines = [
        "% \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        f"\\caption{{{_tex(table.title.split('. ', 1)[-1])}}}",
        f"\\label{{tab:{table.name}}}",
        "\\centering",
        f"\\resizebox{{\\linewidth}}{{!}}{{\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(_tex(name) for name in table.header) + r" \\",
    ]
    for section in table.sections:
        lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{_tex(section.title)}}}}} \\\\", "\\midrule"]
        lines += [" & ".join(_tex(cell.text) for cell in row) + r" \\" for row in section.rows]
    lines += ["\\bottomrule", "\\end{tabular}}", "", "\\smallskip\\raggedright\\footnotesize"]
    notes = [f"{section.title}: {note}" for section in table.sections for note in section.notes]
    lines += [_tex(text) + r"\par" for text in [table.caption, *notes, *table.footers]]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """One line a row, the section first; numbers unrounded, and what follows a ± in a column of its own.

    A column of which some number says more in the other formats (a range, seeds that failed) has its text beside it.
    """
    columns = range(len(table.header))
    halves = [any(row[i].half is not None for row in _rows(table)) for i in columns]
    texts = [any(_says_more(row[i]) for row in _rows(table)) for i in columns]
    header = ["Section"]
    for i, name in enumerate(_unique(table.header)):
        header += [name, *[f"{name} ±"] * halves[i], *[f"{name}, as shown"] * texts[i]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for section in table.sections:
        for row in section.rows:
            line = [section.title]
            for i, cell in enumerate(row):
                line.append(cell.text if cell.value is None else f"{cell.value:.10g}")
                if halves[i]:
                    line.append("" if cell.half is None else f"{cell.half:.10g}")
                if texts[i]:
                    line.append(cell.text)
            writer.writerow(line)
    return out.getvalue()


def to_html(table: Table) -> str:
    """A section of a page; the table scrolls in its own box."""
    lines = [f'<section id="{escape(table.name)}">', f"<h2>{escape(table.title)}</h2>"]
    lines.append(f"<p>{inline(table.caption)}</p>")
    lines += [f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">', "<table>"]
    head = "".join(f'<th scope="col"{_class(i, table)}>{escape(name)}</th>' for i, name in enumerate(table.header))
    lines.append(f"<thead><tr>{head}</tr></thead>")
    for section in table.sections:
        notes = "".join(f'<div class="note">{inline(note)}</div>' for note in section.notes)
        lines.append(f'<tbody><tr><th class="section" colspan="{len(table.header)}" scope="rowgroup">')
        lines.append(f'<div class="stay">{escape(section.title)}{notes}</div></th></tr>')
        for row in section.rows:
            cells = "".join(f"<td{_class(i, table, cell)}>{escape(cell.text)}</td>" for i, cell in enumerate(row))
            lines.append(f"<tr>{cells}</tr>")
        lines.append("</tbody>")
    lines += ["</table>", "</div>"]
    if table.footers:
        notes = "".join(f"<li>{inline(text)}</li>" for text in table.footers)
        lines.append(f'<ul class="foot">{notes}</ul>')
    return "\n".join([*lines, "</section>"]) + "\n"


def inline(text: str) -> str:
    """Escaped, with the little Markdown that findings use: code, bold, and paragraphs."""
    found = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    found = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", found)
    return found.replace("\n\n", "</p><p>")


FORMATS = {"md": to_markdown, "tex": to_latex, "csv": to_csv}


def _rows(table: Table) -> Iterable[tuple[Cell, ...]]:
    return (row for section in table.sections for row in section.rows)


def _says_more(cell: Cell) -> bool:
    return cell.value is not None and re.fullmatch(r"<?-?[\d.,]+(e-?\d+)?( ± [\d.]+)?", cell.text) is None


def _unique(names: Iterable[str]) -> list[str]:
    """Two columns of one name (Holm) are told apart by the column before them."""
    found: list[str] = []
    before = ""
    for name in names:
        found.append(f"{name}, {before}" if name == "Holm" else name)
        before = name
    return found


def _class(column: int, table: Table, cell: Cell | None = None) -> str:
    names = ["word"] * (column < table.labels) + ([cell.kind] if cell and cell.kind else [])
    return f' class="{" ".join(names)}"' if names else ""


def _marked(cell: Cell) -> str:
    text = _plain(cell.text)
    marks = {"gap": "_", "flag": "**"}
    return f"{marks[cell.kind]}{text}{marks[cell.kind]}" if cell.kind and text else text


def _plain(text: str) -> str:
    pieces = text.split("`")  # what stands between backticks is code, and shown as it is
    return "`".join(piece if i % 2 else "".join(_MARKDOWN.get(c, c) for c in piece) for i, piece in enumerate(pieces))


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
