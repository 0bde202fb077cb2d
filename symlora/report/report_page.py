"""Compose the report's page."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from symlora.audit.names import CLAIMED, METHODS, PAPER, REFERENCE, TASKS, section_folder, section_name
from symlora.report.build import Report
from symlora.report.captions import FIGURES
from symlora.report.comparison import unpaired
from symlora.report.pages import PAGES, figure_html, markdown_html, section_html
from symlora.report.tables import OURS, ours

LEADING = "study"  # the protocol whose runs answer the question; study_20 and study_3 vary it, others explored it
TITLE = "SymLoRA and LoRA on GLUE, from logged runs"
VERDICTS = {name: name for name in ("equivalent", "better", "worse", "inconclusive")} | {"none": "no verdict"}
Place = tuple[str, str]
"""model, protocol"""


def report_page(report: Report, out: Path, symmetry: str, below: Sequence[str]) -> str:
    """Write the page; figures are read from <out>/figures.

    `symmetry` is Markdown on the symmetry of the updates, `below` are lines on what all this was made from.
    """
    found = places(report)
    sections = [_section(report, place, out) for place in found]
    paper = {
        table.name: [section_html(table, part) for part in table.sections if not part.title.startswith(OURS)]
        for table in report.tables
    }
    return PAGES.get_template("report.html.j2").render(
        title=TITLE,
        absent="" if PAPER in found else section_name(*PAPER),
        lead=sections[0] if sections else None,
        others=sections[1:],
        tables=report.tables,
        paper=paper,
        symmetry=markdown_html(symmetry.partition("\n\n")[2]),
        below=below,
    )


def answer(report: Report, model: str, protocol: str) -> str:
    """Say the verdicts of one section in a sentence or two."""
    tasks: dict[str, list[str]] = {}
    seeds, absent = set(), list[str]()
    family = report.criteria.families.get(protocol, {}).get(model, [])
    for key, cell in report.chosen.items():
        if key[:2] != (model, protocol) or key[3] != CLAIMED:
            continue
        name, pair = TASKS.get(key[2], key[2]), report.pairs.get(key)
        if cell.runs.empty:
            absent += [name] * (key[2] in family)
        elif pair and pair.decision:
            remark = pair.obstacle or "no spread" * (pair.difference.half_width == 0)
            tasks.setdefault(pair.decision.verdict, []).append(name + f" ({remark})" * bool(remark))
            seeds.add(len(pair.seeds))
        else:
            reference = report.chosen[(*key[:3], REFERENCE)]
            why = (pair.obstacle or "one seed") if pair else unpaired(cell, reference) or "no run to compare with"
            tasks.setdefault("none", []).append(f"{name} ({why})")
    what = f"{METHODS[CLAIMED]} against {METHODS[REFERENCE]} on {section_name(model, protocol)}"
    if not seeds:
        reasons = f" ({', '.join(tasks['none'])})" if tasks else ""
        return f"{what}: no answer yet, as no task has two seeds of both{reasons}."
    clauses = [f"{said} on {_join(tasks[verdict])}" for verdict, said in VERDICTS.items() if verdict in tasks]
    if absent:
        clauses.append(f"not yet trained on {_join(absent)}")
    span = " to ".join(str(count) for count in sorted({min(seeds), max(seeds)}))
    margin = f"equivalent means within ±{report.criteria.margin:g} points"
    return f"{what}: {'; '.join(clauses)} ({span} paired seeds; {margin})."


def places(report: Report) -> list[Place]:
    """List sections with runs: the study, its variants, then most verdicts first."""
    found = list(dict.fromkeys(key[:2] for key, cell in report.chosen.items() if len(cell.runs)))
    judged = Counter(key[:2] for key, pair in report.pairs.items() if key[3] == CLAIMED and pair.decision is not None)
    return sorted(found, key=lambda place: (place[1] != LEADING, not place[1].startswith(LEADING), -judged[place]))


def _section(report: Report, place: Place, out: Path) -> dict[str, Any]:
    folder = out / "figures" / section_folder(*place)
    figures = {stem: figure_html(folder, stem, out) for stem in FIGURES if (folder / f"{stem}.svg").is_file()}
    return {
        "name": section_name(*place),
        "answer": answer(report, *place),
        "varies": place[1].startswith(LEADING),
        "differences": figures.pop("differences", None),
        "figures": list(figures.values()),
        "tables": {
            table.name: "".join(section_html(table, part) for part in table.sections if part.title == ours(*place))
            for table in report.tables
        },
    }


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
