"""Write a table as Markdown, LaTeX (booktabs) or CSV."""

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from symlora.report.table import Cell, Table

# What LaTeX reads as a command, or lacks a glyph for. Braces and backslashes first go through one pass together.
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "·": r"$\cdot$",
    "√": r"$\surd$", "λ": r"$\lambda$", "∞": r"$\infty$", "<": r"$<$", ">": r"$>$", "“": "``", "”": "''",
})  # fmt: skip
_MARKDOWN = str.maketrans({"|": r"\|", "*": r"\*", "<": "&lt;", "_": r"\_"})
_NUMBER = re.compile(r"<?-?[\d.,]+(e-?\d+)?( ± [\d.]+)?")


def to_markdown(table: Table) -> str:
    """Write GitHub's tables, one a section: gaps in italics, flags in bold."""
    lines = [f"## {escape(table.title)}", "", escape(table.caption), ""]
    for section in table.sections:
        lines += [f"### {escape(section.title)}", ""]
        for note in section.notes:
            lines += [escape(note), ""]
        lines += [*markdown_rows(table.header, section.rows, table.labels), ""]
    lines += [f"- {escape(text)}" for text in table.footers]
    return "\n".join(lines).rstrip() + "\n"


def markdown_rows(header: Sequence[str], rows: Iterable[Sequence[Cell]], labels: int) -> list[str]:
    """Write one table of Markdown; columns after the `labels` are aligned right."""
    rule = ["---"] * labels + ["---:"] * (len(header) - labels)
    lines = [[escape(name) for name in header], rule, *([_marked(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def to_latex(table: Table) -> str:
    """Write a `table` environment; it needs booktabs and graphicx."""
    columns = "l" * table.labels + "r" * (len(table.header) - table.labels)
    width = len(table.header)
    lines = [
        "% \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        f"\\caption{{{table.title.split('. ', 1)[-1].translate(_LATEX)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\centering",
        f"\\resizebox{{\\linewidth}}{{!}}{{\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(name.translate(_LATEX) for name in table.header) + r" \\",
    ]
    for section in table.sections:
        title = section.title.translate(_LATEX)
        lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{title}}}}} \\\\", "\\midrule"]
        lines += [" & ".join(cell.text.translate(_LATEX) for cell in row) + r" \\" for row in section.rows]
    lines += ["\\bottomrule", "\\end{tabular}}", "", "\\smallskip\\raggedright\\footnotesize"]
    notes = [f"{section.title}: {note}" for section in table.sections for note in section.notes]
    lines += [text.translate(_LATEX) + r"\par" for text in [table.caption, *notes, *table.footers]]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """Write one line per row, the section first, with unrounded numbers.

    What follows a ± has its own column. Where the other formats show more than a number (a range, seeds that failed), a
    further column holds that text.
    """
    rows = [row for section in table.sections for row in section.rows]
    columns = {"Section": [section.title for section in table.sections for _ in section.rows]}
    for i, name in enumerate(unique(table.header)):
        cells = [row[i] for row in rows]
        columns[name] = [cell.text if cell.value is None else f"{cell.value:.10g}" for cell in cells]
        if any(cell.half is not None for cell in cells):
            columns[f"{name} ±"] = ["" if cell.half is None else f"{cell.half:.10g}" for cell in cells]
        if any(cell.value is not None and not _NUMBER.fullmatch(cell.text) for cell in cells):
            columns[f"{name}, as shown"] = [cell.text for cell in cells]
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, but for code between backticks."""
    pieces = text.split("`")
    return "`".join(piece if i % 2 else piece.translate(_MARKDOWN) for i, piece in enumerate(pieces))


def unique(names: Sequence[str]) -> list[str]:
    """Rename columns called Holm after the column before them."""
    return [f"{name}, {before}" if name == "Holm" else name for before, name in zip(("", *names), names, strict=False)]


def _marked(cell: Cell) -> str:
    mark = {"": "", "gap": "_", "flag": "**"}[cell.kind] if cell.text else ""
    return f"{mark}{escape(cell.text)}{mark}"
