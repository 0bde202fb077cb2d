"""Hashes every file of every run again, and compares with what run.json says of it."""

import argparse
import sys
from pathlib import Path

from symlora.store.verify import verify


def main() -> None:
    """Prints what is not as it was written; the exit status is 1 if anything is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results_dir", nargs="?", type=Path, default=Path("results/runs"), help="default: results/runs")
    parser.add_argument(
        "--seal", action="store_true", help="give runs from before checksums were written theirs, as they stand now"
    )
    arguments = parser.parse_args()
    found = verify(arguments.results_dir, seal_old=arguments.seal)
    if not found.runs and not found.problems:
        sys.exit(f"error: no run folders in {arguments.results_dir}.")
    print("\n".join([*found.problems, found.summary()]))
    sys.exit(bool(found.problems))


if __name__ == "__main__":
    main()
