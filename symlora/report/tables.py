"""Make the tables from checked runs and published numbers.

Scores are in points, rounded by symlora.stats.round_points alone. Every encoder and protocol is a section of its own: a
score on another encoder than the paper's never stands in the paper's rows.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, median

import numpy as np

from symlora import stats
from symlora.audit.names import CLAIMED, METHODS, REFERENCE, TASKS, section_name
from symlora.audit.published import Published
from symlora.config.formatting import format_rate
from symlora.report.captions import table_caption
from symlora.report.choice import Chosen, Key, grid_edge, unlike
from symlora.report.collect import RULES
from symlora.report.comparison import Criteria, Paired, unpaired
from symlora.report.cost import cell_pscp, mean_costs
from symlora.report.leaderboard import Scores
from symlora.report.paper_sections import paper_sections, row_names
from symlora.report.predictions import load_predictions
from symlora.report.table import EMPTY, NOTHING, Cell, Section, Table, bounds, count, gap, number, point, probability

OURS = "Ours: "
_NO_RUN = "no run"
_EVALUATED = (REFERENCE, CLAIMED)
Cells = dict[Key, Chosen]
Row = tuple[Cell, ...]


def table1(published: Published, chosen: Mapping[Key, Chosen], test: Scores, criteria: Criteria) -> Table:
    """Make the paper's table: as printed, without truncation, and ours."""
    sections = list(paper_sections(published))
    for cells in _sections(chosen):
        rows = []
        model, protocol = next(iter(cells))[:2]
        for task in dict.fromkeys(key[2] for key in cells):
            pair = [cells[(model, protocol, task, method)] for method in _EVALUATED]
            facts = published.glue.tasks.get(task)
            metrics = [*(cell.runs["metric"].iloc[0] for cell in pair if len(cell.runs)), facts.metric if facts else ""]
            means = [_mean(cell, criteria) for cell in pair]
            scores = [test.get((protocol, model, method, task)) for method in _EVALUATED]
            tests = [point(each.score, f" ({each.date})") if each else gap("no score") for each in scores]
            rows.append((*row_names(task, metrics[0]), *means, *tests))
        others = sorted({METHODS.get(key[3], key[3]) for key in cells} - {METHODS[name] for name in _EVALUATED})
        more = (f"Also run: {', '.join(others)} (tables 2 to 4).",) if others else ()
        sections.append(Section(ours(model, protocol), (*_notes(cells), *more), tuple(rows)))
    return Table("table1", *table_caption("table1", criteria), tuple(sections))


def tables_by_method(
    chosen: Mapping[Key, Chosen], pairs: Mapping[Key, Paired], criteria: Criteria
) -> tuple[Table, ...]:
    """Make tables 2 to 4: the comparison with LoRA, costs, and epochs."""

    def compared(cell: Chosen) -> Row:
        reference = chosen[(*cell.key[:3], REFERENCE)]
        return (*_seeds(cell, criteria), *_place(cell), *_compared(cell, reference, pairs.get(cell.key)))

    return (
        _by_method("table2", criteria, 9, chosen, compared),
        _by_method("table3", criteria, 8, chosen, lambda cell: _cost(cell, chosen)),
        _by_method("table4", criteria, 13, chosen, lambda cell: _epochs(cell, criteria)),
    )


def ours(model: str, protocol: str) -> str:
    """Return the title of our section of these runs."""
    return f"{OURS}{section_name(model, protocol)}"


def _by_method(
    name: str, criteria: Criteria, split: int, chosen: Mapping[Key, Chosen], row: Callable[[Chosen], Row]
) -> Table:
    """Make a row per task and method, or per task without runs.

    Rows begin with task and method, and are filled up with empty cells. A page splits the table before column `split`.
    """
    caption = table_caption(name, criteria)
    sections, width = [], len(caption[-1])
    for cells in _sections(chosen):
        if not _any_run(cells.values()):
            continue
        rows: list[Row] = []
        for task, group in itertools.groupby(cells.values(), lambda cell: cell.key[2]):
            own, label = list(group), Cell(TASKS.get(task, task.upper()))
            if _any_run(own):
                rows += [(label, Cell(METHODS.get(cell.key[3], cell.key[3])), *row(cell)) for cell in own]
            else:
                rows.append((label, gap(_NO_RUN)))
        filled = tuple((*cells_of, *[EMPTY] * (width - len(cells_of))) for cells_of in rows)
        remarks = unlike(cells) if name == "table2" else []
        sections.append(Section(ours(*next(iter(cells))[:2]), (*_notes(cells), *remarks), filled))
    return Table(name, *caption, tuple(sections), breaks=(split,))


def _sections(chosen: Mapping[Key, Chosen]) -> list[Cells]:
    """Group by model and protocol."""
    return [dict(items) for _, items in itertools.groupby(chosen.items(), lambda item: item[0][:2])]


def _any_run(cells: Iterable[Chosen]) -> bool:
    return any(len(cell.runs) for cell in cells)


def _notes(cells: Cells) -> list[str]:
    notes = sorted({note for cell in cells.values() for note in cell.runs["note"] if note})
    return notes if _any_run(cells.values()) else ["No run yet: `make glue TASK=... METHOD=...` makes one."]


def _mean(cell: Chosen, criteria: Criteria) -> Cell:
    if cell.runs.empty:
        return gap(_NO_RUN)
    runs = cell.finished
    chance, missing = int(runs["at_chance"].sum()), len(cell.missing)
    counts = {f"n = {len(runs)}": len(runs), f"{chance} at chance": chance, **_lost(cell)}
    suffix = f" ({', '.join(text for text, number in counts.items() if number)})"
    if runs.empty:
        return gap(f"{NOTHING}{suffix}")
    found = stats.t_interval(100 * runs["score"].to_numpy(np.float64), criteria.level)
    half = None if math.isnan(found.low) else found.half_width  # one seed has none
    text = f"{stats.round_points(found.estimate)}{'' if half is None else f' ± {stats.round_points(half)}'}{suffix}"
    return Cell(text, found.estimate, half, "flag" if chance or cell.failed or missing else "")


def _lost(cell: Chosen) -> dict[str, int]:
    return {f"{cell.failed} failed": cell.failed, f"{len(cell.missing)} missing": len(cell.missing)}


def _seeds(cell: Chosen, criteria: Criteria) -> Row:
    if cell.finished.empty:
        return (gap(_NO_RUN if cell.runs.empty else f"0 ({cell.failed} failed)"), EMPTY, EMPTY, EMPTY)
    scores = 100 * cell.finished["score"].to_numpy(np.float64)
    found = stats.t_interval(scores, criteria.level)
    lost = ", ".join(text for text, number in _lost(cell).items() if number)
    chance = bool(cell.finished["at_chance"].any())
    return (
        Cell(f"{len(scores)} ({lost})" if lost else str(len(scores)), len(scores), kind="flag" if lost else ""),
        point(found.estimate, " (chance)" * chance, "flag" if chance else ""),
        point(float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan),
        bounds(found),
    )


def _place(cell: Chosen) -> Row:
    if cell.runs.empty:
        return EMPTY, EMPTY, EMPTY
    run, where = cell.runs.iloc[0], grid_edge(cell)
    return (
        Cell(format_rate(run["lr"]), float(run["lr"])),
        number(int(run["batch_size"])),
        Cell(where, kind="flag" if where.startswith("edge") else ""),
    )


def _compared(cell: Chosen, reference: Chosen, pair: Paired | None) -> Row:
    if cell is reference:
        return (Cell("reference"),)
    if pair is None:
        why = unpaired(cell, reference)
        return (gap("no pair"), EMPTY, gap(f"none ({why})")) if why else (gap("no pair"),)
    found = pair.decision
    verdict = Cell(found.verdict) if found else gap(f"none ({pair.obstacle})" if pair.obstacle else "one seed")
    needed = Cell(NOTHING)
    if found and found.verdict == "inconclusive":
        needed = Cell(">10,000") if pair.needed is None else number(pair.needed)  # where seeds_needed stops looking
    if found and pair.obstacle:
        verdict = Cell(f"{found.verdict} ({pair.obstacle})", kind="flag")  # two methods that learned nothing are no tie
    elif found and pair.difference.half_width == 0:
        verdict = Cell(f"{found.verdict} (no spread)", kind="flag")
    return (
        point(pair.difference.estimate),
        bounds(pair.difference),
        verdict,
        probability(pair.p_difference),
        probability(found.p_difference if found else None),
        probability(pair.p_equivalence),
        probability(found.p_equivalence if found else None),
        probability(pair.flip),
        probability(pair.mcnemar),
        bounds(pair.both),
        needed,
    )


def _cost(cell: Chosen, chosen: Mapping[Key, Chosen]) -> Row:
    runs = cell.finished
    if runs.empty:
        return (gap(_NO_RUN if cell.runs.empty else "failed"),)
    costs, (pscp, lacking) = mean_costs(runs), cell_pscp(cell, chosen)
    return (
        number(len(runs)),
        point(100 * fmean(runs["score"])),
        *(number(int(runs[name].iloc[0])) for name in ("adapter", "head", "total")),
        number(float(runs["adapter_bytes"].mean()) / 1024),
        number(costs["peak_memory_bytes"] / 2**30, ".2f"),
        number(float(runs["seconds"].mean())),
        number(costs["train_seconds"]),
        number(1000 * costs["inference_seconds"], ".2f"),
        number(float(runs["energy_kwh"].mean(skipna=False)), ".3f"),
        gap(f"{NOTHING} ({lacking})") if lacking else point(pscp),
        Cell(", ".join(sorted(set(runs["device"])))),
    )


def _epochs(cell: Chosen, criteria: Criteria) -> Row:
    runs = cell.finished
    if cell.runs.empty:
        return (gap(_NO_RUN),)
    if runs.empty:
        return (gap("0"), number(cell.failed), number(len(cell.missing)))
    means = {rule: 100 * float(runs[rule].mean(skipna=False)) for rule in RULES}  # of the same seeds
    return (
        number(len(runs)),
        count(cell.failed),
        count(len(cell.missing)),
        count(int(runs["at_chance"].sum())),
        point(100 * fmean(runs["chance"])),
        point(100 * median(runs["score"])),
        *(point(means[rule]) for rule in RULES),
        point(means["best"] - means["last"]),
        point(means["best"] - means["held_out"]),
        bounds(_over_rows(cell, criteria)),
        Cell(str(runs["configuration"].iloc[0])),
        Cell(cell.why),
    )


def _over_rows(cell: Chosen, criteria: Criteria) -> stats.Interval | None:
    """Compute the interval over rows of the lowest seed's model, in points.

    None for too few rows.
    """
    run = cell.finished.iloc[0]
    table = load_predictions(run["folder"], run["selection"], run["split"])
    predictions, labels = table["prediction"].to_numpy(), table["label"].to_numpy()
    settings = criteria.level, criteria.resamples, criteria.seed
    try:
        return stats.row_interval(run["metric"], predictions, labels, *settings).times(100)
    except ValueError:
        return None
