"""Counts the runs of a study: finished, running, failed and missing, with an estimate of the time left."""

import sys
from pathlib import Path

from symlora.config.compose import compose
from symlora.errors import SymloraError
from symlora.store.folder import scan
from symlora.sweep import options
from symlora.sweep.launchers import cores
from symlora.sweep.status import Costs, table


def main() -> None:
    """Prints a table."""
    parser = options.parser(__doc__)
    parser.add_argument(
        "--workers", type=int, default=cores(), help="runs at a time (default: one a core, %(default)s)"
    )
    arguments = parser.parse_args()
    study = options.study(arguments)
    config = compose(f"task={study.tasks[0]}", *study.common)
    folder = Path(config.results_dir) / config.protocol.name / config.model.name
    costs = Costs.of(record for _, record in scan(folder))
    print(table(study.runs(), costs, max(1, arguments.workers)))


if __name__ == "__main__":
    try:
        main()
    except SymloraError as error:
        sys.exit(f"error: {error}")
