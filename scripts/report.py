"""Tables, figures and the audit of the paper, from run folders: nothing trains, nothing needs a network."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from symlora.errors import SymloraError

if TYPE_CHECKING:
    from symlora.report.collect import Problem

COMMANDS = {
    "table1": "Table 1 and its companions 2 to 4: <out>/tables/*.md, .tex, .csv, .html",
    "figure1": "Figure 1 and its companions: <out>/figures/*/*.png, .pdf, .csv",
    "audit": "what the paper's printed numbers imply: <out>/audit.md and audit.html (needs no run)",
    "report": "all of these, the symmetry of the updates, and the page that holds them: <out>/report.html",
}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="commands:\n" + "\n".join(f"  {name:8} {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help=" | ".join(COMMANDS))
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results/runs"), help="run folders below it (default: results/runs)"
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="where files go (default: results)")
    parser.add_argument(
        "--tasks", help="those of Table 1's eight that are expected, for example cola,rte (default: all eight)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 when a run is missing, failed or left out; files are written"
    )
    parser.add_argument(
        "--as-paper", action="store_true", help="Figure 1 with the paper's norm (entry-wise L1) and one common scale"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="a released LoRA adapter (folder or safetensors) beside ours in the symmetry table",
    )
    return parser.parse_args()


def main() -> None:
    """Writes the files and says which."""
    given = arguments()
    from symlora.report import write
    from symlora.report.names import TASKS

    if given.command == "audit":
        print_files(write.write_audit(given.out))
        return
    problems: tuple[Problem, ...] = ()
    report = write.build(given.results_dir, given.tasks.split(",") if given.tasks else tuple(TASKS))
    if given.command == "table1":
        files = write.write_tables(report, given.out)
    elif given.command == "figure1":
        files, problems = write.write_figures(report, given.out, given.as_paper)
    else:
        files, problems = write.write_report(report, given.out, given.as_paper, given.checkpoint)
    print_files(files)
    print(write.summary_line(report))
    for problem in (*report.tally.bad, *problems):
        print(f"left out: {problem.place}: {problem.reason}")
    if given.strict and (problems or not report.tally.complete):
        sys.exit("error: --strict: something is missing, failed or left out; the footer of every table names it.")


def print_files(paths: list[Path]) -> None:
    """One line a file."""
    for path in paths:
        print(path)


if __name__ == "__main__":
    try:
        main()
    except SymloraError as error:
        sys.exit(f"error: {error}")
