"""Makes the zip that the GLUE server takes, or checks one.

From the runs of one protocol, model and method, one run a task: of the configuration that the report shows (what
`make select` chose, else the one with the most seeds), the seed with the best score on the held-out slice where the
protocol has one, else on validation. Runs need predict_test=true. WNLI gets the majority class of its training rows, AX
is predicted by the MNLI run. Exit status: 0 it can be uploaded; 3 files are missing, the zip is named ...-partial.zip
and is for looking only; 1 something is wrong, nothing was written.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from symlora.errors import SymloraError

if TYPE_CHECKING:
    from symlora.submission.check import Checked

PARTIAL = 3  # not 2, which argparse takes


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", default="paper", help="of the runs (default: %(default)s)")
    parser.add_argument("--model", default="roberta-base", help="of the runs (default: %(default)s)")
    parser.add_argument("--method", default="symlora", help="of the runs (default: %(default)s)")
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results/runs"), help="run folders below it (default: results/runs)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/submission"), help="where the zip goes (default: results/submission)"
    )
    parser.add_argument("--check", type=Path, metavar="FILE.zip", help="check this zip, and make none")
    return parser.parse_args()


def main() -> int:
    """The exit status."""
    given = arguments()
    from symlora.submission.check import check
    from symlora.submission.gather import gather
    from symlora.submission.write import write

    if given.check is not None:
        return verdict(given.check, check(given.check))
    parts = gather(given.results_dir, given.protocol, given.model, given.method)
    for part in parts:
        print(f"{part.file.name:12} {len(part.predictions):>7,} of {part.file.rows:>7,} rows  {part.source}")
    path, checked = write(parts, given.out, f"{given.protocol}-{given.model}-{given.method}")
    print(path)
    whole = given.out / f"{given.protocol}-{given.model}-{given.method}.zip"
    if path != whole and whole.exists():
        print(f"{whole.name} beside it is an older one: it was not made from these runs.")
    return verdict(path, checked)


def verdict(path: Path, checked: "Checked") -> int:
    """Says what a check found; the exit status."""
    from symlora.submission.files import LINES, files

    for sentence in checked.wrong:
        print(f"wrong: {sentence}")
    print(f"{len(checked.good)} of {len(files())} files are valid, {checked.lines:,} of {LINES:,} lines.")
    if checked.missing:
        print(f"missing: {', '.join(checked.missing)}")
    if checked.complete:
        print(
            f"{path.name} can be uploaded. Returned scores go into results/leaderboard (its README.md has a template)."
        )
        return 0
    print(f"{path.name} CANNOT be uploaded: the server refuses a zip that is not whole and right.", file=sys.stderr)
    return 1 if checked.wrong else PARTIAL


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SymloraError as error:
        sys.exit(f"error: {error}")
