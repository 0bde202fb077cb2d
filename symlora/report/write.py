"""Write the files of `symlora report` from a results folder."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from symlora.audit import audit_markdown, read_published
from symlora.config.compose import CONFIG_DIR
from symlora.errors import SymloraError
from symlora.report import html
from symlora.report.choice import Chosen, Key, choose, read_best
from symlora.report.collect import Collected, Problem, collect
from symlora.report.comparison import Paired, compare_all
from symlora.report.footers import Tally, footers, tally
from symlora.report.formats import FORMATS, to_html
from symlora.report.leaderboard import load_leaderboard, unshown
from symlora.report.names import CLAIMED, REFERENCE, TASKS, section_name
from symlora.report.pages import markdown_page
from symlora.report.settings import Settings, load_settings
from symlora.report.table import Table
from symlora.report.tables import table1, table2, table3, table4
from symlora.store.files import atomic_write

ROOT = CONFIG_DIR.parent
PUBLISHED, LEADERBOARD, BEST = ROOT / "results" / "published", ROOT / "results" / "leaderboard", CONFIG_DIR / "best"
FIGURES = {
    "figure1-query": "Figure 1, query: norms per task and layer",
    "figure1-value": "Figure 1, value: norms per task and layer",
    "figure1-query-as-paper": "Figure 1 as the paper computes it, query: sums of absolute values, one common scale",
    "figure1-value-as-paper": "Figure 1 as the paper computes it, value: sums of absolute values, one common scale",
    "companion": "λ, and the size of the update relative to the pre-trained weight",
    "differences": "SymLoRA less LoRA per task, with the margin",
    "grid": "Learning rate and batch size",
}
Files = tuple[list[Path], tuple[Problem, ...]]
"""What was written, and what was left out."""


@dataclass(frozen=True)
class Sources:
    """Where everything but the runs is read from."""

    published: Path = PUBLISHED
    leaderboard: Path = LEADERBOARD
    best: Path = BEST
    settings: Path = CONFIG_DIR / "report.yaml"


@dataclass(frozen=True)
class Report:
    """The tables of a results folder, and what they were made from."""

    collected: Collected
    chosen: dict[Key, Chosen]
    pairs: dict[Key, Paired]
    settings: Settings
    tally: Tally
    tables: tuple[Table, ...]
    sources: Sources

    def at_chance(self, key: Key) -> bool:
        """Whether a seed of the method, or of LoRA beside it, is not above chance."""
        sides = (self.chosen[key], self.chosen[(*key[:3], REFERENCE)])
        return any(bool(side.finished["at_chance"].any()) for side in sides)


def build(results_dir: Path, tasks: Sequence[str] = tuple(TASKS), sources: Sources | None = None) -> Report:
    """Reads the runs and makes the tables; writes nothing.

    Args:
        results_dir: Run folders are found below it.
        tasks: Of Table 1's eight, those that are expected in our sections.
        sources: Of everything else.

    Raises:
        SymloraError: There is no run folder; or a file of the project's own (published numbers, settings) is wrong.
    """
    places = sources or Sources()
    if unknown := set(tasks) - set(TASKS):
        raise SymloraError(f"--tasks: {', '.join(sorted(unknown))} unknown. Table 1 has {', '.join(TASKS)}.")
    settings = load_settings(places.settings)
    published = read_published(places.published)
    collected = collect(results_dir)
    test, problems = load_leaderboard(places.leaderboard)
    chosen = choose(collected.runs, read_best(places.best), tuple(tasks))
    pairs = compare_all(chosen, settings)
    counted = tally(collected, chosen, (*problems, *unshown(test, chosen, tasks)))
    below = footers(counted, collected.runs, settings)
    made = (
        table1(published, chosen, test, settings),
        table2(chosen, pairs, settings),
        table3(chosen),
        table4(chosen, settings),
    )
    return Report(
        collected, chosen, pairs, settings, counted, tuple(table.with_footers(below) for table in made), places
    )


def write_tables(report: Report, out: Path) -> list[Path]:
    """Every table as Markdown, LaTeX, CSV and a page, in <out>/tables."""
    written = []
    for table in report.tables:
        for suffix, convert in FORMATS.items():
            written.append(write_text(out / "tables" / f"{table.name}.{suffix}", convert(table)))
        written.append(write_text(out / "tables" / f"{table.name}.html", html.table_page(table)))
    return written


def write_audit(out: Path, published: Path = PUBLISHED) -> list[Path]:
    """Write the audit of the paper's printed numbers to <out>/audit.md and audit.html; it needs no run."""
    text = audit_markdown(read_published(published))
    return [
        write_text(out / "audit.md", text),
        write_text(out / "audit.html", markdown_page("What the paper printed", text)),
    ]


def write_figures(report: Report, out: Path, as_paper: bool = False) -> Files:
    """Figure 1 and its companions in <out>/figures/<protocol>-<model>: PNG, PDF and the CSV that each is drawn from."""
    from symlora.report.figures import draw_all  # matplotlib takes a second to import

    best = read_best(report.sources.best)
    return draw_all(report.collected, out / "figures", best=best, settings=report.settings, as_paper=as_paper)


def write_symmetry(report: Report, out: Path, checkpoint: Path | None = None) -> tuple[Files, str]:
    """<out>/symmetry.md: how symmetric the stored adapters are, and a released one beside them if it is given.

    Returns:
        The files and what was left out; and the table as HTML.
    """
    from symlora.report.symmetry import summary, symmetry_markdown, symmetry_of_checkpoint, symmetry_of_runs

    own = [cell.runs for cell in report.chosen.values() if len(cell.runs)]  # as in the tables: a grid's other runs not
    found = symmetry_of_runs(pd.concat(own) if own else report.collected.runs, report.settings.seed)
    if checkpoint is not None:
        released = symmetry_of_checkpoint(checkpoint, seed=report.settings.seed)
        found = replace(found, frame=pd.concat([found.frame, released], ignore_index=True))
    text = symmetry_markdown(found)
    files = [write_text(out / "symmetry.md", text)]
    explained = "\n".join(line for line in text.splitlines()[2:] if not line.startswith("|")).strip()
    parts = [html.paragraph(explained)]
    if len(found.frame):
        parts.append(html.grid_html(summary(found.frame), "Symmetry of the updates"))
    return (files, found.bad), "\n".join(parts)


def write_report(
    report: Report, out: Path, as_paper: bool = False, checkpoint: Path | None = None
) -> tuple[list[Path], tuple[Problem, ...]]:
    """Tables, figures, symmetry and audit, and the page that holds them: <out>/report.html."""
    written = write_tables(report, out)
    figures, bad_norms = write_figures(report, out, as_paper)
    (symmetry, bad_adapters), symmetric = write_symmetry(report, out, checkpoint)
    audit = write_audit(out, report.sources.published)
    problems = (*bad_norms, *bad_adapters)
    parts = [html.paragraph(summary_line(report)), html.contents(_entries(report))]
    parts += [to_html(table.with_footers(())) for table in report.tables]  # once, below, for all
    parts.append(html.heading("Figures", "figures"))
    parts += [_picture(png, out) for png in figures if png.suffix == ".png"]
    parts += [html.heading("How symmetric are the updates?", "symmetry"), symmetric]
    below = [f"Left out: {problem.place}: {problem.reason}" for problem in problems]
    parts += [html.heading("What this was made from", "made-from")]
    parts.append(html.footer_list([*report.tables[0].footers, *below]))
    page = html.page("SymLoRA and LoRA on GLUE, from logged runs", parts)
    return [*written, *figures, *symmetry, *audit, write_text(out / "report.html", page)], problems


def summary_line(report: Report) -> str:
    """The verdicts on the paper's claim in one sentence."""
    verdicts = []
    for key, pair in report.pairs.items():
        if pair.decision is not None and key[3] == CLAIMED:
            chance = ", at chance" if report.at_chance(key) else ""
            verdicts.append(f"{TASKS.get(key[2], key[2])} {pair.decision.verdict} ({section_name(*key[:2])}{chance})")
    said = "; ".join(verdicts) or "no task has two seeds of both"
    return f"{report.tally.counts} SymLoRA against LoRA, margin ±{report.settings.margin:g} points: {said}."


def write_text(path: Path, text: str) -> Path:
    """Writes a file whole or not at all.

    Raises:
        SymloraError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SymloraError(f"{path} cannot be written: {error.strerror}. Set --out to a writable folder.") from error
    return path


def _entries(report: Report) -> list[tuple[str, str]]:
    entries = [(f"#{table.name}", table.title) for table in report.tables]
    entries += [("#figures", "Figures"), ("#symmetry", "How symmetric are the updates?")]
    entries.append(("#made-from", "What this was made from: runs, gaps, commits, versions"))
    return [*entries, ("audit.html", "Audit of what the paper printed")]


def _picture(png: Path, out: Path) -> str:
    others = [png.with_suffix(suffix) for suffix in (".pdf", ".csv")]
    if png.stem.startswith("figure1"):  # query and value are drawn from one file
        others[1] = png.with_name("figure1.csv")
    links = [(path.relative_to(out).as_posix(), path.suffix[1:].upper()) for path in others if path.is_file()]
    caption = f"{FIGURES.get(png.stem, png.stem)} ({png.parent.name})."
    return html.picture(png, caption, links)


def command(chosen: argparse.Namespace) -> int:
    """Run `symlora report`: write the files, and print which. Arguments as its parser (symlora.cli) has them.

    Raises:
        SymloraError: With `strict`, something is missing, failed or left out; the files are written.
    """
    if chosen.what == "audit":
        print(*write_audit(chosen.out), sep="\n")
        return 0
    problems: tuple[Problem, ...] = ()
    report = build(chosen.results_dir, chosen.tasks.split(",") if chosen.tasks else tuple(TASKS))
    if chosen.what == "table1":
        files = write_tables(report, chosen.out)
    elif chosen.what == "figure1":
        files, problems = write_figures(report, chosen.out, chosen.as_paper)
    else:
        files, problems = write_report(report, chosen.out, chosen.as_paper, chosen.checkpoint)
    print(*files, summary_line(report), sep="\n")
    for problem in (*report.tally.bad, *problems):
        print(f"left out: {problem.place}: {problem.reason}")
    if chosen.strict and (problems or not report.tally.complete):
        raise SymloraError("--strict: something is missing, failed or left out; the footer of every table names it.")
    return 0
