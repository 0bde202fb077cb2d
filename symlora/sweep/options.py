"""The command line that select_best.py, study.py and status.py share."""

import argparse

from symlora.sweep.grid import tasks_of
from symlora.sweep.study import METHODS, Study


def parser(description: str | None, *, seeds: bool = True) -> argparse.ArgumentParser:
    """Tasks, model, protocol, seeds and overrides."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--tasks", default="", help="names, with commas or spaces; all of the protocol's recipe if not given"
    )
    made.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    made.add_argument("--model", default="roberta-base", help="default: %(default)s")
    made.add_argument("--protocol", default="paper", help="default: %(default)s")
    if seeds:
        made.add_argument("--seeds", type=_positive, default=5, help="seeds of each winner (default: %(default)s)")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="as given to scripts/train.py in the sweep")
    return made


def study(arguments: argparse.Namespace) -> Study:
    """What was asked for.

    Raises:
        SymloraError: There is no such protocol.
    """
    return Study(
        tasks=arguments.tasks.replace(",", " ").split() or tasks_of(arguments.protocol),
        model=arguments.model,
        protocol=arguments.protocol,
        seeds=getattr(arguments, "seeds", 1),
        methods=arguments.methods.replace(",", " ").split(),
        args=arguments.overrides,
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of at least 1")
    return int(text)
