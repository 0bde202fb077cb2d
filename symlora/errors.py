"""Define the user-facing error, the offline hint and an exit status."""

import textwrap

OFFLINE_HELP = (
    "Without the hub you can run `make demo`, or train from local files: GLUE_DIR=<folder> make glue TASK=... "
    'with MODEL=minilm (an encoder in a Python package) or ARGS="model.path=<folder>".'
)
PARTIAL = 3  # exit status of a submission in which files are missing; 2 is argparse's


class SymloraError(Exception):
    """Bad input or environment: what is wrong, where, what to do.

    The command line prints the message alone (no traceback) and exits non-zero. Whatever reads settings, files or the
    hub may raise it.
    """


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, cut at 200 characters."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return textwrap.shorten(first, 200, placeholder=" …")
