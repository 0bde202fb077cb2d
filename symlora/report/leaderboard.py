"""Test scores from the GLUE site, typed by hand: the test labels are hidden, so no run can know its own.

A file results/leaderboard/<any name>.yaml is a list; each entry has exactly these keys:

    - protocol: paper             # of the runs that were submitted
      model: roberta-base
      method: symlora
      task: rte
      score: 78.1                 # points, of the metric that Table 1 reports, as the site prints it
      date: 2026-12-01            # of the submission
      url: https://...            # where the score can be seen

One score for each (protocol, model, method, task).
"""

import datetime
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from symlora.config.compose import CONFIG_DIR
from symlora.report.choice import Key
from symlora.report.collect import Problem
from symlora.report.names import CLAIMED, REFERENCE, TASKS

KEYS = ("protocol", "model", "method", "task", "score", "date", "url")
Scores = dict[tuple[str, str, str, str], "TestScore"]


@dataclass(frozen=True)
class TestScore:
    """A score in points, with when and where it was given."""

    __test__ = False  # not a test of pytest's

    score: float
    date: datetime.date
    url: str


def load_leaderboard(folder: Path) -> tuple[Scores, tuple[Problem, ...]]:
    """Scores by (protocol, model, method, task), and the files and entries that were left out and why."""
    scores: Scores = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.yaml")):
        for place, entry in _entries(path):
            reason = entry if isinstance(entry, str) else _wrong(entry, scores)
            if reason:
                problems.append(Problem(place, reason))
            else:
                key = (entry["protocol"], entry["model"], entry["method"], entry["task"])
                scores[key] = TestScore(float(entry["score"]), entry["date"], entry["url"])
    return scores, tuple(problems)


def unshown(scores: Scores, chosen: Container[Key], tasks: Container[str]) -> Iterator[Problem]:
    """Scores that no cell of Table 1 has room for: a name that is misspelt, or runs that are not there."""
    for protocol, model, method, task in scores:
        room = method in (REFERENCE, CLAIMED) and (model, protocol, task, method) in chosen
        if not room and (task in tasks or task not in TASKS):
            place = f"leaderboard: {protocol}, {model}, {method}, {task}"
            yield Problem(place, "a test score that no row of table 1 belongs to")


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Each entry with the place that names it; a string instead of one says what is wrong with the file."""
    place = f"{path.parent.name}/{path.name}"
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        yield place, f"cannot be read as YAML ({str(error).splitlines()[0]})"
        return
    if not isinstance(content, list):
        yield place, "is no list of entries (symlora/report/leaderboard.py shows one)"
        return
    for number, entry in enumerate(content, 1):
        yield f"{place}, entry {number}", entry


def _wrong(entry: Any, scores: Scores) -> str:
    if not isinstance(entry, dict) or set(entry) != set(KEYS):
        return f"an entry has exactly the keys {', '.join(KEYS)}"
    for key in ("protocol", "model", "method", "task", "url"):
        if not isinstance(entry[key], str):
            return f"{key}={entry[key]!r} is no text"
    if not (CONFIG_DIR / "task" / f"{entry['task']}.yaml").is_file():
        return f"task={entry['task']!r} is no task of GLUE's"
    if isinstance(entry["score"], bool) or not isinstance(entry["score"], (int, float)):
        return f"score={entry['score']!r} is no number"
    if not -100.0 <= entry["score"] <= 100.0:
        return f"score={entry['score']!r} is not in points"
    if type(entry["date"]) is not datetime.date:
        return f"date={entry['date']!r} is no date like 2026-12-01"
    if not entry["url"].startswith(("https://", "http://")):
        return f"url={entry['url']!r} is no address"
    if (entry["protocol"], entry["model"], entry["method"], entry["task"]) in scores:
        return "the same protocol, model, method and task has a score already"
    return ""
