"""Make the paper's own rows of Table 1."""

from symlora import stats
from symlora.audit.names import METRICS, TASKS
from symlora.audit.published import Cell as Printed
from symlora.audit.published import Published
from symlora.report.table import Cell, Section, gap


def paper_sections(published: Published) -> tuple[Section, Section]:
    """Make the rows as printed, and from published numbers without truncation."""
    return _printed(published), _recomputed(published)


def row_names(task: str, metric: str) -> tuple[Cell, Cell]:
    """Make the two cells that begin a row of Table 1."""
    return Cell(TASKS.get(task, task.upper())), Cell(METRICS.get(metric, metric))


def _printed(published: Published) -> Section:
    rows = []
    for task, facts in published.glue.tasks.items():
        lora, ours, test = (published.symlora.cells[column].tasks[task] for column in ("lora", "validation", "test"))
        cells = [_as_printed(lora), _as_printed(ours), gap("not printed"), _as_printed(test)]
        rows.append((*row_names(task, facts.metric), *cells))
    return Section(
        "The paper, RoBERTa-base: as printed (arXiv 2504.03719, table 1)",
        (
            "Scores are fractions, ± is in points, as printed; the paper says 95 % and no number of seeds. What "
            "each ± was made by, and is over, is in the audit: the paper's text and its numbers disagree.",
            "*: not read from the table, but computed from a loss that was noted from it.",
            "LoRA's column is what the paper copies from LoRA's own table, cut off after two decimals.",
        ),
        tuple(rows),
    )


def _as_printed(cell: Printed) -> Cell:
    mark = "*" if cell.certainty == "computed" else ""
    width = "" if cell.half_width is None else f" ± {cell.half_width:.1f}"
    return Cell(f"{cell.score:.2f}{width}{mark}", cell.score, cell.half_width)


def _recomputed(published: Published) -> Section:
    rows = []
    for task, facts in published.glue.tasks.items():
        lora = published.lora.scores.tasks[task]
        start = " (from MNLI)" if lora.start == "mnli" else ""
        text = f"{stats.round_points(lora.score)} ± {stats.round_points(lora.half_width)}{start}"
        validation, test = (
            _untruncated(published.symlora.cells[column].tasks[task], facts.metric, sum(rows_of))
            for column, rows_of in (("validation", facts.validation), ("test", facts.test))
        )
        cells = (Cell(text, lora.score, lora.half_width), validation, gap("not printed"), test)
        rows.append((*row_names(task, facts.metric), *cells))
    return Section(
        "The same, from published numbers without truncation, in points",
        (
            "LoRA: as LoRA's paper prints it; ± is its spread over five seeds, “from MNLI” its start from an MNLI "
            "adapter on three tasks.",
            "SymLoRA: two decimals that were cut off leave a range of one point; ± is over the rows of the split "
            "(both MNLI splits), Wilson's for accuracy and Fisher's z for Pearson, at the middle of the range. "
            "Matthews correlation has none without the predictions.",
        ),
        tuple(rows),
    )


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
