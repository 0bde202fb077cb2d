"""What is done with each command: the one place that decides what is run, what is only checked, and what cannot be.

A command that fits no rule is a fault of the page.
"""

import re
from dataclasses import dataclass

RUN, CHECK, SKIP = "ran", "checked", "skipped"


@dataclass(frozen=True)
class Rule:
    """Commands that begin like `pattern`: what is done with them, and why no more is.

    Run: in a copy of the project, to the end. Checked: `make` knows the target and heeds the variables, the script is
    there, its parser takes the words, what they name is in configs/, Hydra composes the overrides.
    """

    pattern: str
    how: str
    why: str


EXAMPLES = ("gatedlora",)
"""In names of files that a reader is told to make, and that are not there."""
COMMANDS = (
    Rule(rf".*\b({'|'.join(EXAMPLES)})\b", SKIP, "its files are the reader's to make"),
    Rule(r"make (help|runs|table1|audit|config|status|methods)\b", RUN, "seconds"),
    Rule(r"make (setup|lock)\b", CHECK, "needs a package index"),
    Rule(r"make (test|lint|format|docs-check|demo|bench|report|figure1|faults|verify-results)\b", CHECK, "minutes"),
    Rule(r"make (glue|sweep|select|seeds|study|submission)\b", CHECK, "needs data, weights or runs"),
    Rule(r"(\.venv/bin/)?python scripts/\S+\.py .*--help", RUN, "seconds"),
    Rule(r"(\.venv/bin/)?python scripts/protocols\.py", RUN, "seconds"),
    Rule(r"(\.venv/bin/)?python -m pytest ", CHECK, "minutes"),
    Rule(r"(\.venv/bin/)?python (-m symlora|scripts/\S+\.py)\b", CHECK, "needs data, weights or runs"),
    Rule(r"(torchrun|accelerate launch) ", CHECK, "needs several devices"),
    Rule(r"symlora ", CHECK, "needs a run or an adapter"),
    Rule(r"(uv )?pip install ", SKIP, "needs a package index"),
    Rule(r"git clone ", SKIP, "needs a network"),
)
OUTPUT = ("", "text")
"""Languages of a block that is output, an equation or a tree of folders."""
HUB = r"""from_pretrained\(\s*["'](?!/|\.|adapter)|load_dataset\(|push_to_hub"""
"""Python that needs a hub: a model by its name there."""


def rule(command: list[str]) -> Rule | None:
    """The first that fits; variables set before the program are no part of it."""
    words = list(command)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    line = " ".join(words) + " "
    return next((known for known in COMMANDS if re.match(known.pattern, line)), None)
