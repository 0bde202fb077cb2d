"""Make the paper's own rows of Table 1."""

from symlora import stats
from symlora.audit.names import METRICS, TASKS
from symlora.audit.published import Cell as Printed
from symlora.audit.published import Published
from symlora.report import captions
from symlora.report.table import Cell, Section, gap


def paper_sections(published: Published) -> tuple[Section, Section]:
    """Make the rows as printed, and those without truncation."""
    printed, exact = [], []
    for task, facts in published.glue.tasks.items():
        names = row_names(task, facts.metric)
        lora, ours, test = (published.symlora.cells[column].tasks[task] for column in ("lora", "validation", "test"))
        printed.append((*names, _as_printed(lora), _as_printed(ours), gap("not printed"), _as_printed(test)))
        score = published.lora.scores.tasks[task]
        start = " (from MNLI)" if score.start == "mnli" else ""
        text = f"{stats.round_points(score.score)} ± {stats.round_points(score.half_width)}{start}"
        both = [_untruncated(cell, facts.metric, sum(n)) for cell, n in ((ours, facts.validation), (test, facts.test))]
        exact.append((*names, Cell(text, score.score, score.half_width), both[0], gap("not printed"), both[1]))
    return (
        Section("The paper, RoBERTa-base: as printed (arXiv 2504.03719, table 1)", captions.PRINTED, tuple(printed)),
        Section("The same, from published numbers without truncation, in points", captions.EXACT, tuple(exact)),
    )


def row_names(task: str, metric: str) -> tuple[Cell, Cell]:
    """Make the two cells that begin a row of Table 1."""
    return Cell(TASKS.get(task, task.upper())), Cell(METRICS.get(metric, metric))


def _as_printed(cell: Printed) -> Cell:
    mark = "*" if cell.certainty == "computed" else ""
    width = "" if cell.half_width is None else f" ± {cell.half_width:.1f}"
    return Cell(f"{cell.score:.2f}{width}{mark}", cell.score, cell.half_width)


def _untruncated(cell: Printed, metric: str, rows: int) -> Cell:
    low = 100 * cell.score
    middle = (low + 0.5) / 100
    text = f"{stats.round_points(low)} to {stats.round_points(low + 1)}"
    if metric == "accuracy":
        half = 100 * stats.wilson(round(middle * rows), rows).half_width
    elif metric == "pearson":
        half = 100 * stats.fisher_z(middle, rows).half_width
    else:
        return Cell(text, 100 * middle)
    return Cell(f"{text}, ± {stats.round_points(half)}", 100 * middle, half)
