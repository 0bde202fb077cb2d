"""Write the files of `symlora report` from a results folder."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from symlora.audit import audit_markdown, read_published
from symlora.audit.names import CLAIMED, REFERENCE, TASKS, section_name
from symlora.config.compose import BEST_DIR, CONFIG_DIR
from symlora.config.typed import read_yaml
from symlora.errors import SymloraError
from symlora.report.captions import FIGURES
from symlora.report.choice import Chosen, Key, choose, read_best
from symlora.report.collect import Collected, Problem, collect
from symlora.report.comparison import Paired, compare_all
from symlora.report.criteria import Criteria
from symlora.report.footers import Tally, footers, tally
from symlora.report.formats import FORMATS, escape, to_markdown
from symlora.report.leaderboard import load_leaderboard, unshown
from symlora.report.pages import markdown_page
from symlora.report.symmetry import RELEASED, symmetry_markdown, symmetry_of_checkpoint, symmetry_of_runs
from symlora.report.table import Table
from symlora.report.tables import table1, table2, table3, table4
from symlora.store.files import atomic_write, unwritable

ROOT = CONFIG_DIR.parent
PUBLISHED = ROOT / "results" / "published"
Files = tuple[list[Path], tuple[Problem, ...]]
"""What was written, and what was left out."""


@dataclass(frozen=True)
class Report:
    """The tables of a results folder, and what they were made from."""

    collected: Collected
    chosen: dict[Key, Chosen]
    pairs: dict[Key, Paired]
    criteria: Criteria
    tally: Tally
    tables: tuple[Table, ...]


def build(
    results_dir: Path,
    tasks: Sequence[str] = tuple(TASKS),
    *,
    leaderboard: Path = ROOT / "results" / "leaderboard",
    best: Path = BEST_DIR,
    criteria_file: Path = CONFIG_DIR / "report.yaml",
) -> Report:
    """Read the runs and make the tables; write nothing.

    Run folders are found below `results_dir`. Of Table 1's eight tasks, `tasks` are expected in our sections.

    Raises:
        SymloraError: There is no run folder; or a file of the project's own (published numbers, criteria) is wrong.
    """
    if unknown := set(tasks) - set(TASKS):
        raise SymloraError(f"--tasks: {', '.join(sorted(unknown))} unknown. Table 1 has {', '.join(TASKS)}.")
    criteria = read_yaml(criteria_file, Criteria)
    collected = collect(results_dir)
    test, problems = load_leaderboard(leaderboard)
    chosen = choose(collected.runs, read_best(best), tuple(tasks))
    pairs = compare_all(chosen, criteria)
    counted = tally(collected, chosen, (*problems, *unshown(test, chosen, tasks)))
    below = footers(counted, collected.runs, criteria)
    made = (
        table1(read_published(PUBLISHED), chosen, test, criteria),
        table2(chosen, pairs, criteria),
        table3(chosen),
        table4(chosen, criteria),
    )
    tables = tuple(replace(table, footers=below) for table in made)
    return Report(collected, chosen, pairs, criteria, counted, tables)


def write_tables(report: Report, out: Path) -> list[Path]:
    """Write every table as Markdown, LaTeX, CSV and a page, in <out>/tables."""
    written = []
    for table in report.tables:
        for suffix, convert in FORMATS.items():
            written.append(write_text(out / "tables" / f"{table.name}.{suffix}", convert(table)))
        page = markdown_page(table.title, to_markdown(table).removeprefix("#"))
        written.append(write_text(out / "tables" / f"{table.name}.html", page))
    return written


def write_audit(out: Path) -> list[Path]:
    """Write <out>/audit.md and audit.html; they need no run."""
    text = audit_markdown(read_published(PUBLISHED))
    page = markdown_page("What the paper printed", text)
    return [write_text(out / "audit.md", text), write_text(out / "audit.html", page)]


def write_figures(report: Report, out: Path, as_paper: bool = False) -> Files:
    """Write the figures in <out>/figures/<protocol>-<model>: PNG, PDF and CSV."""
    from symlora.report.figures.draw import draw_all  # matplotlib takes a second to import

    runs = report.collected.runs
    return draw_all(runs, report.chosen, report.pairs, report.criteria, out / "figures", as_paper)


def write_symmetry(report: Report, out: Path, checkpoint: Path | None = None) -> Files:
    """Write <out>/symmetry.md: the symmetry of stored adapters and a released one.

    What was measured of a released adapter is kept in results/published, so that the page needs its file only once.
    """
    own = [cell.runs for cell in report.chosen.values() if len(cell.runs)]  # as in the tables: a grid's other runs not
    found = symmetry_of_runs(pd.concat(own) if own else report.collected.runs, report.criteria.seed)
    measured = PUBLISHED / RELEASED
    if checkpoint is not None:
        write_text(measured, symmetry_of_checkpoint(checkpoint, seed=report.criteria.seed).to_csv(index=False))
    if measured.is_file():
        frames = [frame for frame in (found.frame, pd.read_csv(measured)) if len(frame)]  # an empty one has no types
        found = replace(found, frame=pd.concat(frames, ignore_index=True))
    return [write_text(out / "symmetry.md", symmetry_markdown(found))], found.bad


def write_report(report: Report, out: Path, as_paper: bool = False, checkpoint: Path | None = None) -> Files:
    """Write all of these, and the page that holds them: <out>/report.html."""
    written = write_tables(report, out)
    figures, bad_norms = write_figures(report, out, as_paper)
    symmetry, bad_adapters = write_symmetry(report, out, checkpoint)
    audit = write_audit(out)
    problems = (*bad_norms, *bad_adapters)
    sections = {table.name: to_markdown(replace(table, footers=())) for table in report.tables}  # footers: once, below
    pictures = [_picture(png, out) for png in figures if png.suffix == ".png"]
    sections["figures"] = "\n\n".join(["## Figures", *pictures])
    sections["symmetry"] = f"#{symmetry[0].read_text(encoding='utf-8')}"
    below = [*report.tables[0].footers, *(f"Left out: {problem.place}: {problem.reason}" for problem in problems)]
    sections["made-from"] = "\n".join(["## What this was made from", "", *(f"- {escape(line)}" for line in below)])
    title = "SymLoRA and LoRA on GLUE, from logged runs"
    contents = [f"- [{text.splitlines()[0].strip('# ')}](#{name})" for name, text in sections.items()]
    parts = [f"# {title}", escape(summary_line(report)), "\n".join([*contents, "- [Audit](audit.html)"])]
    parts += [f'<a id="{name}"></a>\n\n{text}' for name, text in sections.items()]
    page = markdown_page(title, "\n\n".join(parts), out)
    return [*written, *figures, *symmetry, *audit, write_text(out / "report.html", page)], problems


def summary_line(report: Report) -> str:
    """Say the verdicts on the paper's claim in one sentence."""
    verdicts = []
    for key, pair in report.pairs.items():
        if pair.decision is not None and key[3] == CLAIMED:
            sides = (report.chosen[key], report.chosen[(*key[:3], REFERENCE)])
            chance = ", at chance" if any(side.finished["at_chance"].any() for side in sides) else ""
            verdicts.append(f"{TASKS.get(key[2], key[2])} {pair.decision.verdict} ({section_name(*key[:2])}{chance})")
    said = "; ".join(verdicts) or "no task has two seeds of both"
    return f"{report.tally.counts} SymLoRA against LoRA, margin ±{report.criteria.margin:g} points: {said}."


def write_text(path: Path, text: str) -> Path:
    """Write a file atomically.

    Raises:
        SymloraError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def _picture(png: Path, out: Path) -> str:
    """Show a figure, with links to its other files."""
    csv = png.with_name("figure1.csv") if png.stem.startswith("figure1") else png.with_suffix(".csv")
    caption = escape(f"{FIGURES.get(png.stem, png.stem)} ({png.parent.name}).")
    below = [path.relative_to(out).as_posix() for path in (png, png.with_suffix(".pdf"), csv)]
    return f"![{caption}](<{below[0]}>)\n\n{caption} [PDF](<{below[1]}>) · [CSV](<{below[2]}>)"


def command(chosen: argparse.Namespace) -> int:
    """Run `symlora report`: write the files, and print which.

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
