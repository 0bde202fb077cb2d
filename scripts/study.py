"""The whole study: the grid of every task, the selection, then the seeds of each winner. Resumable."""

import sys

from symlora.training.interrupt import Stopped, stop_at_once

if __name__ == "__main__":
    stop_at_once()  # before the other imports, which take a second or more

from symlora.errors import SymloraError
from symlora.sweep import options
from symlora.sweep.select import table, unequal, write
from symlora.sweep.study import multirun, require_grid


def main() -> int:
    """The exit status: 1 where a run of the seeds failed."""
    study = options.study(options.parser(__doc__).parse_args())
    print(f"1 of 3: grid of {', '.join(study.tasks)}", flush=True)
    status = multirun(study.grid())
    if status not in (0, 1):  # 1: a run failed; a point that diverged is a point that was tried
        return status
    require_grid(study)
    print("2 of 3: selection", flush=True)
    choices = study.chosen()
    print(table(choices))
    for warning in unequal(choices):
        print(warning, file=sys.stderr)
    for choice in choices:
        write(choice, study.best_file(choice))
    print(f"3 of 3: {study.seeds} seeds of each", flush=True)
    return multirun(study.repeats())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SymloraError as error:
        sys.exit(f"error: {error}")
    except Stopped:
        print("\nStopped. Finished runs are kept; the same command goes on with the others.", file=sys.stderr)
        raise
