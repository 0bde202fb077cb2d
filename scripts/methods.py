"""Lists the methods of configs/method: equation, trained parameters on RoBERTa-base, mergeable, packable, source."""

import argparse
import sys

from symlora.errors import SymloraError


def main() -> None:
    """Prints the table, or one method in detail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="as a table of Markdown")
    parser.add_argument("--method", metavar="NAME", help="one method in detail, with its settings")
    arguments = parser.parse_args()
    from symlora.model.catalog import details, examine, load, names, table  # torch, transformers and peft take seconds

    methods = [examine(method) for method in load([arguments.method] if arguments.method else names())]
    print(details(methods[0]) if arguments.method else table(methods, markdown=arguments.markdown))


if __name__ == "__main__":
    try:
        main()
    except SymloraError as error:
        sys.exit(f"error: {error}")
