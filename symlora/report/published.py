"""Numbers as others printed them: results/published/*.yaml, read and checked.

Each number is typed once, there, with its source and how it is known (certainty: read, computed, from memory).
Scores of the SymLoRA paper are fractions with two decimals, as it prints them; everything else is in points.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from symlora.errors import SymloraError
from symlora.report import names

TASKS = tuple(names.TASKS)
CERTAINTIES = ("read", "computed", "from memory")
STARTS = ("none", "mnli", "unknown")


@dataclass(frozen=True)
class Task:
    """Rows of a GLUE task's splits; MNLI has two validation and two test splits (matched, mismatched)."""

    name: str
    metric: str
    classes: int
    train: int
    validation: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """One number with its source."""

    value: float
    certainty: str
    source: str


@dataclass(frozen=True)
class Cell:
    """A cell of the SymLoRA paper's Table 1: score a fraction, half_width (after ±) in points.

    half_width is None both where the paper prints none and where it is not known whether it does; known tells which.
    """

    score: float
    half_width: float | None
    known: bool
    certainty: str
    source: str


@dataclass(frozen=True)
class LoraScore:
    """A score of LoRA's own table, in points; start: "mnli" where its adapter began from an MNLI one."""

    score: float
    half_width: float
    start: str
    certainty: str
    source: str


@dataclass(frozen=True)
class Recipe:
    """How LoRA's scripts train a task: batch is per device, devices is how many the script starts."""

    lr: float
    batch: int
    epochs: int
    devices: int
    start: str


@dataclass(frozen=True)
class OtherRow:
    """A method's row in another paper: points per task."""

    method: str
    start: str
    scores: Mapping[str, float]
    certainty: str
    source: str


@dataclass(frozen=True)
class Published:
    """Everything under results/published.

    cells["validation" | "test" | "lora"][task] is Table 1 of the SymLoRA paper; claims are its prose's numbers, reruns
    its authors' own LoRA runs. lora, recipe and facts are LoRA's.
    """

    tasks: Mapping[str, Task]
    cells: Mapping[str, Mapping[str, Cell]]
    reruns: Mapping[str, Value]
    claims: Mapping[str, Value]
    lora: Mapping[str, LoraScore]
    recipe: Mapping[str, Recipe]
    recipe_source: str
    facts: Mapping[str, Value]
    others: tuple[OtherRow, ...]


def read_published(folder: Path) -> Published:
    """Reads glue.yaml, symlora.yaml, lora.yaml and others.yaml.

    Raises:
        SymloraError: A file is missing or no YAML, or a value is missing, of the wrong kind or out of range; the
            message names file and key.
    """
    glue, paper, lora, others = (_open(folder / f"{name}.yaml") for name in ("glue", "symlora", "lora", "others"))
    cells = paper["cells"]
    return Published(
        tasks={name: _task(name, node) for name, node in glue["tasks"].per_task()},
        cells={
            column: {name: _cell(node, cells[column]) for name, node in cells[column]["tasks"].per_task()}
            for column in ("validation", "test", "lora")
        },
        reruns={
            name: Value(node.number(0, 100), *_origin(paper["reruns"]))
            for name, node in paper["reruns"]["tasks"].items()
        },
        claims={name: Value(node["value"].number(), *_origin(node)) for name, node in paper["claims"].items()},
        lora={
            name: LoraScore(
                node["score"].number(0, 100),
                node["half_width"].number(0, 100),
                node["start"].choice(STARTS),
                *_origin(lora["scores"]),
            )
            for name, node in lora["scores"]["tasks"].per_task()
        },
        recipe={name: _recipe(node) for name, node in lora["recipe"]["tasks"].per_task()},
        recipe_source=lora["recipe"]["source"].text(),
        facts={name: Value(node["value"].number(), *_origin(node)) for name, node in lora["facts"].items()},
        others=tuple(_other(node) for node in others["rows"].elements()),
    )


def _task(name: str, node: "_Node") -> Task:
    return Task(
        name=name,
        metric=node["metric"].choice(("accuracy", "matthews_correlation", "pearson")),
        classes=node["classes"].atomic_write(),
        train=node["train"].atomic_write(),
        validation=tuple(rows.atomic_write() for rows in node["validation"].elements()),
        test=tuple(rows.atomic_write() for rows in node["test"].elements()),
    )


def _cell(node: "_Node", column: "_Node") -> Cell:
    known = "half_width" in node
    width = node["half_width"].number(0, 100) if known and node["half_width"].content is not None else None
    return Cell(node["score"].number(-1, 1), width, known, *_origin(node, column))


def _recipe(node: "_Node") -> Recipe:
    return Recipe(
        lr=node["lr"].number(0, 1),
        batch=node["batch"].atomic_write(),
        epochs=node["epochs"].atomic_write(),
        devices=node["devices"].atomic_write(),
        start=node["start"].choice(STARTS),
    )


def _other(node: "_Node") -> OtherRow:
    scores = {name: score.number(0, 100) for name, score in node["tasks"].items()}
    return OtherRow(node["method"].text(), node["start"].choice(STARTS), scores, *_origin(node))


def _origin(node: "_Node", fallback: "_Node | None" = None) -> tuple[str, str]:
    """certainty and source: the number's own, else those of the group it stands in."""
    of = {key: node if fallback is None or key in node else fallback for key in ("certainty", "source")}
    return of["certainty"]["certainty"].choice(CERTAINTIES), of["source"]["source"].text()


def _open(path: Path) -> "_Node":
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SymloraError(
            f"{path} is missing: the audit and the tables need it. It belongs to the project."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SymloraError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    return _Node(path, "", content)


@dataclass(frozen=True)
class _Node:
    """A place in a YAML file, which knows its file and key for messages."""

    file: Path
    key: str
    content: Any

    def __contains__(self, name: str) -> bool:
        return name in self._mapping()

    def __getitem__(self, name: str) -> "_Node":
        content = self._mapping()
        if name not in content:
            raise SymloraError(f"{self.file}: {self._below(name)} is missing.")
        return _Node(self.file, self._below(name), content[name])

    def items(self) -> Iterator[tuple[str, "_Node"]]:
        for name in self._mapping():
            yield str(name), self[name]

    def per_task(self) -> Iterator[tuple[str, "_Node"]]:
        """The eight tasks in Table 1's order: none missing, none else."""
        unknown = set(self._mapping()) - set(TASKS)
        if unknown:
            raise SymloraError(f"{self.file}: {self.key} names {', '.join(map(repr, unknown))}; tasks are {TASKS}.")
        for name in TASKS:
            yield name, self[name]

    def elements(self) -> Iterator["_Node"]:
        if not isinstance(self.content, list) or not self.content:
            raise self._wrong("a list with at least one element")
        for index, element in enumerate(self.content):
            yield _Node(self.file, f"{self.key}[{index}]", element)

    def number(self, low: float = float("-inf"), high: float = float("inf")) -> float:
        if isinstance(self.content, bool) or not isinstance(self.content, (int, float)):
            raise self._wrong("a number")
        if not low <= self.content <= high:  # NaN too
            raise self._wrong(f"a number from {low:g} to {high:g}")
        return float(self.content)

    def atomic_write(self) -> int:
        if isinstance(self.content, bool) or not isinstance(self.content, int) or self.content < 1:
            raise self._wrong("a whole number above 0")
        return self.content

    def text(self) -> str:
        if not isinstance(self.content, str) or not self.content.strip():
            raise self._wrong("text")
        return self.content

    def choice(self, allowed: tuple[str, ...]) -> str:
        if self.content not in allowed:
            raise self._wrong("one of " + ", ".join(allowed))
        return str(self.content)

    def _mapping(self) -> dict[str, Any]:
        if not isinstance(self.content, dict):
            raise self._wrong("a mapping")
        return self.content

    def _below(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name

    def _wrong(self, wanted: str) -> SymloraError:
        return SymloraError(f"{self.file}: {self.key or 'the file'} is {self.content!r:.80}, not {wanted}.")
