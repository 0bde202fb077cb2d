"""Write the files of `symlora report` from a results folder."""

import argparse
from pathlib import Path

import pandas as pd

from symlora.audit import audit_markdown, read_published
from symlora.audit.names import TASKS
from symlora.errors import SymloraError
from symlora.report.build import PUBLISHED, Report, build
from symlora.report.formats import to_csv, to_latex, to_markdown
from symlora.report.pages import markdown_html, page, table_page
from symlora.report.report_page import answer, places, report_page
from symlora.report.symmetry import RELEASED, symmetry_markdown, symmetry_of_checkpoint, symmetry_of_runs
from symlora.store.files import atomic_write, writing

Files = tuple[list[Path], tuple[str, ...]]
"""What was written, and what was left out."""


def write_tables(report: Report, out: Path) -> list[Path]:
    """Write every table as Markdown, LaTeX, CSV and a page, in <out>/tables."""
    formats = {"md": to_markdown, "tex": to_latex, "csv": to_csv, "html": table_page}
    return [
        write_text(out / "tables" / f"{table.name}.{suffix}", convert(table))
        for table in report.tables
        for suffix, convert in formats.items()
    ]


def write_audit(out: Path) -> list[Path]:
    """Write <out>/audit.md and audit.html; they need no run."""
    text = audit_markdown(read_published(PUBLISHED))
    html = page("What the paper printed", markdown_html(text))
    return [write_text(out / "audit.md", text), write_text(out / "audit.html", html)]


def write_figures(report: Report, out: Path, as_paper: bool = False) -> Files:
    """Write the figures in <out>/figures/<protocol>-<model>: PNG, PDF and CSV."""
    from symlora.report.figures.draw import draw_all  # matplotlib takes a second to import

    return draw_all(report, out / "figures", as_paper)


def write_symmetry(report: Report, out: Path, checkpoint: Path | None = None) -> Files:
    """Write <out>/symmetry.md: the symmetry of stored adapters and a released one.

    What was measured of a released adapter is kept in results/published, so that the page needs its file only once.
    """
    own = [cell.runs for cell in report.chosen.values() if len(cell.runs)]  # as in the tables: a grid's other runs not
    frame, bad, without = symmetry_of_runs(pd.concat(own) if own else report.collected.runs[:0], report.criteria.seed)
    measured = PUBLISHED / RELEASED
    if checkpoint is not None:
        write_text(measured, symmetry_of_checkpoint(checkpoint, seed=report.criteria.seed).to_csv(index=False))
    if measured.is_file():
        frames = [each for each in (frame, pd.read_csv(measured)) if len(each)]  # an empty one has no types
        frame = pd.concat(frames, ignore_index=True)
    return [write_text(out / "symmetry.md", symmetry_markdown(frame, bad, without))], bad


def write_report(report: Report, out: Path, as_paper: bool = False, checkpoint: Path | None = None) -> Files:
    """Write all of these, and the page that holds them: <out>/report.html."""
    written = write_tables(report, out)
    figures, bad_norms = write_figures(report, out, as_paper)
    symmetry, bad_adapters = write_symmetry(report, out, checkpoint)
    audit = write_audit(out)
    problems = (*bad_norms, *bad_adapters)
    below = [*report.tables[0].footers, *(f"Left out: {problem}" for problem in problems)]
    html = report_page(report, out, symmetry[0].read_text(encoding="utf-8"), below)
    return [*written, *figures, *symmetry, *audit, write_text(out / "report.html", html)], problems


def summary(report: Report) -> str:
    """Say the counts and each section's verdicts, a line each."""
    return "\n".join([report.tally.counts, *(answer(report, *place) for place in places(report))])


def write_text(path: Path, text: str) -> Path:
    """Write a file atomically.

    Raises:
        SymloraError: It cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path


def command(chosen: argparse.Namespace) -> int:
    """Run `symlora report`: write the files, and print which.

    Raises:
        SymloraError: With `strict`, something is missing, failed or left out; the files are written.
    """
    if chosen.what == "audit":
        print(*write_audit(chosen.out), sep="\n")
        return 0
    problems: tuple[str, ...] = ()
    report = build(chosen.results_dir, chosen.tasks.split(",") if chosen.tasks else tuple(TASKS))
    if chosen.what == "table1":
        files = write_tables(report, chosen.out)
    elif chosen.what == "figure1":
        files, problems = write_figures(report, chosen.out, chosen.as_paper)
    else:
        files, problems = write_report(report, chosen.out, chosen.as_paper, chosen.checkpoint)
    print(*files, summary(report), sep="\n")
    for problem in (*report.tally.bad, *problems):
        print(f"left out: {problem}")
    if chosen.strict and (problems or not report.tally.complete):
        raise SymloraError("--strict: something is missing, failed or left out; the footer of every table names it.")
    return 0
