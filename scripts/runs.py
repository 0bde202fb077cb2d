"""Lists the run folders: one line per configuration, mean and spread of the score over its seeds."""

import argparse
import sys
from pathlib import Path

from symlora.store.folder import scan
from symlora.store.listing import table


def main() -> None:
    """Prints the table, or says which command makes some runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results_dir", nargs="?", type=Path, default=Path("results/runs"), help="default: results/runs")
    folder = parser.parse_args().results_dir
    records = [record for _, record in scan(folder)]
    if not records:
        sys.exit(
            f"error: no run folders in {folder}. `make glue TASK=rte` writes one; `make demo` writes to results/demo."
        )
    print(table(records))


if __name__ == "__main__":
    main()
