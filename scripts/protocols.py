"""Prints what each protocol sets, as the Markdown tables of docs/protocols.md."""

import argparse


def main() -> None:
    """Prints the tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    from symlora.protocols import markdown

    print(markdown())


if __name__ == "__main__":
    main()
