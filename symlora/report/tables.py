"""Make the tables from checked runs and published numbers; write no files.

    table1  the paper's eight rows and columns: as printed, recomputed from published numbers, and ours
    table2  is a method tied with LoRA? one row a task and method
    table3  what it costs
    table4  which epoch is looked at, and what the rows of the split alone leave open

Scores are in points, rounded by symlora.stats.round_points alone. Every encoder and protocol is a section of its own: a
score on another encoder than the paper's never stands in the paper's rows.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from statistics import fmean, median

import numpy as np

from symlora import stats
from symlora.audit.names import CLAIMED, METHODS, REFERENCE, TASKS, section_name
from symlora.audit.published import Published
from symlora.config.formatting import format_rate
from symlora.report import captions
from symlora.report.choice import Chosen, Key, grid_edge, unequal_grids
from symlora.report.collect import RULES
from symlora.report.comparison import Paired
from symlora.report.criteria import Criteria
from symlora.report.leaderboard import Scores, TestScore
from symlora.report.paper_sections import paper_sections, row_names
from symlora.report.predictions import load_predictions
from symlora.report.table import (
    EMPTY,
    NOTHING,
    Cell,
    Section,
    Table,
    bounds,
    gap,
    interval,
    number,
    point,
    probability,
    words,
)

_NO_RUN = "no run"
_EVALUATED = (REFERENCE, CLAIMED)


def table1(published: Published, chosen: Mapping[Key, Chosen], test: Scores, criteria: Criteria) -> Table:
    """Make the paper's table three times over: as printed, without truncation, and ours."""
    sections = list(paper_sections(published))
    for (model, protocol), cells in _sections(chosen):
        rows, tasks = [], dict.fromkeys(key[2] for key in cells)
        for task in tasks:
            pair = [cells[(model, protocol, task, method)] for method in _EVALUATED]
            metric = next((cell.runs["metric"].iloc[0] for cell in pair if len(cell.runs)), _metric(published, task))
            ours = [_mean(cell, criteria) for cell in pair]
            tests = [_tested(test.get((protocol, model, method, task))) for method in _EVALUATED]
            rows.append((*row_names(task, metric), *ours, *tests))
        others = sorted({METHODS.get(key[3], key[3]) for key in cells} - {METHODS[name] for name in _EVALUATED})
        more = (f"Also run: {', '.join(others)} (tables 2 to 4).",) if others else ()
        sections.append(Section(_title(cells), (*_notes(cells), *more), tuple(rows)))
    return Table("table1", *captions.table1(criteria), sections=tuple(sections))


def table2(chosen: Mapping[Key, Chosen], pairs: dict[Key, Paired], criteria: Criteria) -> Table:
    """Compare methods with LoRA: one row per task and method, LoRA's first."""
    sections = [
        Section(
            _title(cells),
            (*_notes(cells), *unequal_grids(cells)),
            _rows(
                cells,
                lambda key, cell: (
                    *_seeds(cell, criteria),
                    *_place(cell),
                    *_compared(cell, chosen[(*key[:3], REFERENCE)], pairs.get(key)),
                ),
            ),
        )
        for _, cells in _sections(chosen, with_runs=True)
    ]
    return Table("table2", *captions.table2(criteria), sections=tuple(sections))


def table3(chosen: Mapping[Key, Chosen]) -> Table:
    """Average the cost of the chosen configurations over their finished runs."""
    sections = [
        Section(_title(cells), _notes(cells), _rows(cells, _cost)) for _, cells in _sections(chosen, with_runs=True)
    ]
    return Table("table3", *captions.table3(), sections=tuple(sections))


def table4(chosen: Mapping[Key, Chosen], criteria: Criteria) -> Table:
    """Set best, last and held-out epoch side by side: what looking at validation adds."""
    sections = [
        Section(_title(cells), _notes(cells), _rows(cells, lambda key, cell: _epochs(key, cell, criteria)))
        for _, cells in _sections(chosen, with_runs=True)
    ]
    return Table("table4", *captions.table4(criteria), sections=tuple(sections))


Cells = dict[Key, Chosen]
Row = tuple[Cell, ...]


def _sections(chosen: Mapping[Key, Chosen], with_runs: bool = False) -> list[tuple[tuple[str, str], Cells]]:
    """Group by (model, protocol); keep only those that have any run, if asked."""
    grouped = itertools.groupby(chosen.items(), lambda item: item[0][:2])
    found = [((pair[0], pair[1]), dict(items)) for pair, items in grouped]
    return [entry for entry in found if not with_runs or any(len(cell.runs) for cell in entry[1].values())]


def _rows(cells: Cells, row: Callable[[Key, Chosen], Row]) -> tuple[Row, ...]:
    """Make a row per task and method, of one width; a task without any run is one row that says so."""
    made: list[Row] = []
    empty: list[tuple[int, Cell]] = []
    for task, group in itertools.groupby(cells.items(), lambda item: item[0][2]):
        own = list(group)
        if any(len(cell.runs) for _, cell in own):
            made += [row(key, cell) for key, cell in own]
        else:
            empty.append((len(made) + len(empty), _method_names((*own[0][0][:2], task, ""))[0]))
    for place, name in empty:
        made.insert(place, (name, gap(_NO_RUN), *[EMPTY] * (len(made[0]) - 2)))
    return tuple(made)


def _title(cells: Mapping[Key, Chosen]) -> str:
    model, protocol = next(iter(cells))[:2]
    return f"Ours: {section_name(model, protocol)}"


def _notes(cells: Mapping[Key, Chosen]) -> tuple[str, ...]:
    notes = {note for cell in cells.values() for note in cell.runs["note"] if note}
    if not any(len(cell.runs) for cell in cells.values()):
        notes.add("No run yet: `make glue TASK=... METHOD=...` makes one.")
    return tuple(sorted(notes))


def _method_names(key: Key) -> tuple[Cell, Cell]:
    return words(TASKS.get(key[2], key[2].upper())), words(METHODS.get(key[3], key[3]))


def _metric(published: Published, task: str) -> str:
    return published.glue.tasks[task].metric if task in published.glue.tasks else ""


def _mean(cell: Chosen, criteria: Criteria) -> Cell:
    if cell.runs.empty:
        return gap(_NO_RUN)
    runs = cell.finished
    chance = int(runs["at_chance"].sum())
    counts = [(len(runs), "n = {}"), (chance, "{} at chance"), (cell.failed, "{} failed")]
    counts.append((len(cell.missing), "{} missing"))
    suffix = f" ({', '.join(text.format(count) for count, text in counts if count)})"
    if runs.empty:
        return gap(f"{NOTHING}{suffix}")
    found = stats.t_interval(100 * runs["score"].to_numpy(np.float64), criteria.level)
    return interval(found, suffix, "flag" if chance or cell.failed or cell.missing else "")


def _tested(found: TestScore | None) -> Cell:
    return gap("no score") if found is None else Cell(f"{stats.round_points(found.score)} ({found.date})", found.score)


def _seeds(cell: Chosen, criteria: Criteria) -> Row:
    names = _method_names(cell.key)
    if cell.finished.empty:
        return (*names, gap(_NO_RUN if cell.runs.empty else f"0 ({cell.failed} failed)"), EMPTY, EMPTY, EMPTY)
    scores = 100 * cell.finished["score"].to_numpy(np.float64)
    found = stats.t_interval(scores, criteria.level)
    lost = [f"{cell.failed} failed"] * bool(cell.failed) + [f"{len(cell.missing)} missing"] * bool(cell.missing)
    n = f"{len(scores)} ({', '.join(lost)})" if lost else str(len(scores))
    spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan
    chance = bool(cell.finished["at_chance"].any())
    mean = point(found.estimate, "flag" if chance else "")
    return (
        *names,
        Cell(n, float(len(scores)), kind="flag" if lost else ""),
        mean if not chance else Cell(f"{mean.text} (chance)", mean.value, kind="flag"),
        point(spread),
        bounds(found),
    )


def _place(cell: Chosen) -> tuple[Cell, Cell, Cell]:
    if cell.runs.empty:
        return EMPTY, EMPTY, EMPTY
    run, where = cell.runs.iloc[0], grid_edge(cell)
    return (
        Cell(format_rate(run["lr"]), float(run["lr"])),
        number(int(run["batch_size"])),
        Cell(where, kind="flag" if where.startswith("edge") else ""),
    )


def _compared(cell: Chosen, reference: Chosen, pair: Paired | None) -> Row:
    if cell.key[3] == REFERENCE:
        return (words("reference"), *[EMPTY] * 10)
    if pair is None:
        return (gap("no pair"), *[EMPTY] * 10)
    found = pair.decision
    verdict = words(found.verdict) if found else gap("one seed")
    needed = number(None)
    if found and found.verdict == "inconclusive":
        needed = words(">10,000") if pair.needed is None else number(pair.needed)  # where seeds_needed stops looking
    if found and any(side.finished["at_chance"].any() for side in (cell, reference)):
        verdict = Cell(f"{found.verdict} (chance)", kind="flag")  # two methods that learned nothing are no tie
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


def _cost(key: Key, cell: Chosen) -> Row:
    runs = cell.finished
    if runs.empty:
        return (*_method_names(key), gap(_NO_RUN if cell.runs.empty else "failed"), *[EMPTY] * 8)
    return (
        *_method_names(key),
        number(len(runs)),
        *(number(int(runs[name].iloc[0])) for name in ("adapter", "head", "total")),
        number(float(runs["adapter_bytes"].mean()) / 1024),
        number(float(runs["peak_memory_bytes"].mean()) / 2**30, ".2f"),
        number(float(runs["seconds"].mean())),
        number(float(runs["energy_kwh"].mean()), ".3f"),
        words(", ".join(sorted(set(runs["device"])))),
    )


def _epochs(key: Key, cell: Chosen, criteria: Criteria) -> Row:
    runs = cell.finished
    if runs.empty:
        counts = (EMPTY, EMPTY) if cell.runs.empty else (number(cell.failed), number(len(cell.missing)))
        return (*_method_names(key), gap(_NO_RUN if cell.runs.empty else "0"), *counts, *[EMPTY] * 11)
    means = {rule: 100 * float(runs[rule].mean()) for rule in RULES}
    chance = int(runs["at_chance"].sum())
    run = runs.iloc[0]
    return (
        *_method_names(key),
        number(len(runs)),
        Cell(str(cell.failed), cell.failed, kind="flag" if cell.failed else ""),
        Cell(str(len(cell.missing)), len(cell.missing), kind="flag" if cell.missing else ""),
        Cell(str(chance), chance, kind="flag" if chance else ""),
        point(100 * fmean(runs["chance"])),
        point(100 * median(runs["score"])),
        *(point(means[rule]) for rule in RULES),
        point(means["best"] - means["last"]),
        point(means["best"] - means["held_out"]),
        bounds(_over_rows(cell, criteria)),
        words(str(run["configuration"])),
        words(cell.why),
    )


def _over_rows(cell: Chosen, criteria: Criteria) -> stats.Interval:
    """Compute the interval over rows of the lowest seed's model, in points."""
    run = cell.finished.iloc[0]
    table = load_predictions(run["folder"], run["selection"], run["split"])
    predictions, labels, level = table["prediction"].to_numpy(), table["label"].to_numpy(), criteria.level
    if run["metric"] == "accuracy":
        found = stats.wilson(int(np.sum(predictions == labels)), len(labels), level)
    elif run["metric"] == "pearson":
        found = stats.fisher_z(float(run["score"]), len(labels), level)
    else:
        found = stats.bootstrap_interval(
            run["metric"], predictions, labels, level=level, resamples=criteria.resamples, seed=criteria.seed
        )
    return found.times(100)
