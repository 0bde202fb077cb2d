"""Read the runs, and make the tables and verdicts of a report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from symlora.audit import read_published
from symlora.audit.names import TASKS
from symlora.config.compose import BEST_DIR, CONFIG_DIR
from symlora.config.typed import read_yaml
from symlora.errors import SymloraError
from symlora.report.choice import Chosen, Key, choose, read_best
from symlora.report.collect import Collected, collect
from symlora.report.comparison import Criteria, Paired, compare_all
from symlora.report.footers import Tally, footers, tally
from symlora.report.leaderboard import load_leaderboard, unshown
from symlora.report.table import Table
from symlora.report.tables import table1, tables_by_method

ROOT = CONFIG_DIR.parent
PUBLISHED = ROOT / "results" / "published"


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
    if not 0 < criteria.level < 1 or not 0 < criteria.alpha < 1:
        raise SymloraError(f"{criteria_file}: level and alpha lie between 0 and 1 (95 % is 0.95).")
    collected = collect(results_dir)
    test, problems = load_leaderboard(leaderboard)
    chosen = choose(collected.runs, read_best(best), tuple(tasks))
    pairs = compare_all(chosen, criteria)
    counted = tally(collected, chosen, (*problems, *unshown(test, chosen, tasks)))
    below = footers(counted, collected.runs, criteria)
    made = (table1(read_published(PUBLISHED), chosen, test, criteria), *tables_by_method(chosen, pairs, criteria))
    tables = tuple(replace(table, footers=below) for table in made)
    return Report(collected, chosen, pairs, criteria, counted, tables)
