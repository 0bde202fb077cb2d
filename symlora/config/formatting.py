"""Format learning rates and plain-text tables."""

from collections.abc import Iterable, Sequence


def format_rate(rate: float) -> str:
    """Format a learning rate as run folders name it: 4e-3."""
    mantissa, exponent = f"{rate:.5e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def text_table(header: Sequence[str], rows: Iterable[Sequence[object]], align: str) -> str:
    """Format a table for a terminal.

    Args:
        header: One name per column.
        rows: Cells, converted by `str`.
        align: One letter per column: `l` (left) or `r` (right).
    """
    from tabulate import tabulate  # not part of a bare installation, which imports this module too

    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    sides = [{"l": "left", "r": "right"}[letter] for letter in align]
    text = tabulate(cells, tablefmt="plain", colalign=sides, disable_numparse=True)
    return "\n".join(line.rstrip() for line in text.splitlines())
