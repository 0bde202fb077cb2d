"""Chooses the best grid point of each method and task, and writes it to configs/best for the seeds.

Prints what was chosen and whether it lies on the grid's edge. Trains nothing, unless --widen --run.
"""

import sys

from symlora.errors import SymloraError
from symlora.sweep import options
from symlora.sweep.select import AXES, GridSearch, table, unequal, write
from symlora.sweep.study import Study, multirun


def tried(study: Study) -> list[GridSearch]:
    """The choices among at least one grid point; a warning where there is none."""
    choices = study.chosen()
    for choice in choices:
        if not choice.points:
            other = f" ({choice.others} runs have other settings: give the same ARGS)" if choice.others else ""
            print(f"WARNING: {choice.task}, {choice.method}: no grid points{other}", file=sys.stderr)
    if not any(choice.points for choice in choices):
        raise SymloraError("no grid to choose from: run `make sweep TASK=<task>` with the same MODEL and PROTOCOL.")
    return [choice for choice in choices if choice.points]


def main() -> int:
    """The exit status."""
    parser = options.parser(__doc__, seeds=False)
    parser.add_argument(
        "--widen",
        action="store_true",
        help="print the commands that add a value beyond each edge of the grid on which a best point lies",
    )
    parser.add_argument("--axis", choices=[*AXES, "both"], default="lr", help="what to widen (default: %(default)s)")
    parser.add_argument("--run", action="store_true", help="with --widen: run these commands, and select again")
    arguments = parser.parse_args()
    if arguments.run and not arguments.widen:
        parser.error("--run goes with --widen")
    study = options.study(arguments)
    found = tried(study)
    if arguments.widen:
        axes = AXES if arguments.axis == "both" else (arguments.axis,)
        commands = study.widened(found, axes)
        if not commands:
            print(f"No best point lies on an edge of {' or '.join(axes)}: nothing to widen.")
        for command in commands:
            print("python scripts/train.py -m " + " ".join(command), flush=True)
            if arguments.run:
                multirun(command)
        if not arguments.run:
            return 0
        found = tried(study)
    print(table(found))
    for warning in unequal(found):
        print(warning, file=sys.stderr)
    for choice in found:
        write(choice, study.best_file(choice))
    print(f"Written to {study.best_file(found[0]).parent}. Next: make seeds")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SymloraError as error:
        sys.exit(f"error: {error}")
