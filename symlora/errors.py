"""The one error that a user is meant to read, and the advice that several of them share."""

OFFLINE_HELP = (
    "Two things work without a hub: `make demo`, and GLUE's files in a folder with an encoder in a package or a "
    'folder: GLUE_DIR=<folder> make glue TASK=... with MODEL=minilm or ARGS="model.path=<folder>".'
)


class SymloraError(Exception):
    """Bad input or a bad environment: the message says what is wrong, where, and what to do.

    The command line prints the message alone (no traceback) and exits non-zero.
    """
