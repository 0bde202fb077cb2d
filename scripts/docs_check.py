"""Runs or checks every block of code and every command in README.md and docs/, and every link between files.

What can be run in seconds is run, in a copy of the project. Of the rest, and of commands in the running text, it is
checked that targets, scripts, options, values and Hydra overrides are right. symlora/docs_check/rules.py says which.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """One line a block, a summary; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="Markdown files (default: README.md, docs/*.md, results/)")
    parser.add_argument("--quick", action="store_true", help="run no command, check all (of a multirun its first job)")
    given = parser.parse_args()
    from symlora.docs_check.check import FAILED, check_pages, pages, summary

    found = []
    for item in check_pages([path.resolve() for path in given.pages] or pages(), running=not given.quick):
        found.append(item)
        print(f"{item.how:8} {item.place:34} {item.what}", flush=True)
    print(summary(found))
    return int(any(item.how == FAILED for item in found))


if __name__ == "__main__":
    sys.exit(main())
