"""The one error that a user is meant to read."""


class SymloraError(Exception):
    """Bad input or a bad environment: the message says what is wrong, where, and what to do.

    The command line prints the message alone (no traceback) and exits non-zero.
    """
