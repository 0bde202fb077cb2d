"""Read test scores that were typed by hand from the GLUE site.

The test labels are hidden, so no run knows its own score. A file results/leaderboard/<any name>.yaml is a list of
`TestScore`s, one for each (protocol, model, method, task); README.md there has a template.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from symlora.audit.names import CLAIMED, REFERENCE, TASKS
from symlora.report.choice import Key

Scores = dict[tuple[str, str, str, str], "TestScore"]
"""By protocol, model, method and task."""


@dataclass(frozen=True)
class TestScore:
    """An entry of the leaderboard."""

    __test__ = False  # not a test of pytest's

    protocol: str  # of the runs that were submitted
    model: str
    method: str
    task: str
    score: float  # points, of the metric that Table 1 reports, as the site prints it
    date: str  # of the submission
    url: str  # where the score can be seen


def load_leaderboard(folder: Path) -> tuple[Scores, tuple[str, ...]]:
    """Read scores, and list the entries that were left out."""
    scores: Scores = {}
    problems: list[str] = []
    schema = OmegaConf.structured(TestScore)
    for path in sorted(folder.glob("*.yaml")):
        place = f"{path.parent.name}/{path.name}"
        try:
            entries = list(OmegaConf.load(path))
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            problems.append(f"{place}: cannot be read ({str(error).splitlines()[0]})")
            continue
        for number, entry in enumerate(entries, 1):
            try:
                found: Any = OmegaConf.to_object(OmegaConf.merge(schema, entry))
                key = (found.protocol, found.model, found.method, found.task)
                if not -100 <= found.score <= 100:
                    raise ValueError(f"score is {found.score}; points from -100 to 100 are expected")
                if key in scores:
                    raise ValueError("the same protocol, model, method and task has a score already")
                scores[key] = found
            except (TypeError, ValueError, OmegaConfBaseException) as error:
                problems.append(f"{place}, entry {number}: {str(error).splitlines()[0]}")
    return scores, tuple(problems)


def unshown(scores: Scores, chosen: Container[Key], tasks: Container[str]) -> Iterator[str]:
    """Yield scores that no cell of Table 1 shows."""
    for protocol, model, method, task in scores:
        shown = method in (REFERENCE, CLAIMED) and (model, protocol, task, method) in chosen
        if not shown and (task in tasks or task not in TASKS):  # a misspelt name, or runs that are not there
            place = f"leaderboard: {protocol}, {model}, {method}, {task}"
            yield f"{place}: a test score that no row of table 1 belongs to"
