"""Read the numbers that papers printed, from results/published/*.yaml.

Each number is typed once, there, with its source and its certainty: read, computed or from memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symlora.config.typed import read_yaml


@dataclass
class Origin:
    """Where numbers come from, and how sure they are."""

    source: str
    certainty: str  # "read", "computed" or "from memory"


@dataclass
class Value(Origin):
    """One number with its source."""

    value: float


@dataclass
class Task:
    """A GLUE task's metric and rows."""

    metric: str
    classes: int
    train: int  # rows
    validation: list[int]  # rows; for MNLI matched, then mismatched
    test: list[int]


@dataclass
class Glue(Origin):
    """glue.yaml: the tasks."""

    reference: str
    tasks: dict[str, Task]


@dataclass
class Cell:
    """A cell of the SymLoRA paper's Table 1."""

    score: float  # a fraction
    half_width: float | None = None  # what follows the ±, in points, if one is known
    source: str | None = None  # where it is not the column's, as for certainty
    certainty: str | None = None


@dataclass
class Column(Origin):  # of Table 1
    tasks: dict[str, Cell]


@dataclass
class Reruns(Origin):  # the SymLoRA authors' own LoRA runs, in points
    tasks: dict[str, float]


@dataclass
class Paper:
    """symlora.yaml: the SymLoRA paper."""

    reference: str
    cells: dict[str, Column]  # of Table 1: validation, test, lora
    reruns: Reruns
    claims: dict[str, Value]  # numbers in the prose


@dataclass
class LoraScore:
    """A score of LoRA's own table, in points."""

    score: float
    half_width: float
    start: str  # "mnli" where the adapter began from MNLI's


@dataclass
class LoraScores(Origin):
    tasks: dict[str, LoraScore]


@dataclass
class Recipe:
    """How LoRA's scripts train a task."""

    lr: float
    batch: int  # per device
    epochs: int
    devices: int  # that the script starts
    start: str


@dataclass
class Recipes(Origin):
    tasks: dict[str, Recipe]


@dataclass
class Lora:
    """lora.yaml: LoRA's scores and recipes, and single facts about it and RoBERTa-base."""

    reference: str
    scores: LoraScores
    recipe: Recipes
    facts: dict[str, Value]  # about LoRA and RoBERTa-base


@dataclass
class OtherRow(Origin):
    """A method's row in another paper, in points."""

    method: str
    start: str  # "none", "mnli" or "unknown"
    tasks: dict[str, float]


@dataclass
class Others:
    """others.yaml: rows of other papers."""

    rows: list[OtherRow]


@dataclass(frozen=True)
class Published:
    """Everything in results/published, one attribute per file."""

    glue: Glue
    symlora: Paper  # the SymLoRA paper
    lora: Lora
    others: Others


def read_published(folder: Path) -> Published:
    """Read glue.yaml, symlora.yaml, lora.yaml and others.yaml."""
    schemas: dict[str, Any] = Published.__annotations__
    return Published(**{name: read_yaml(folder / f"{name}.yaml", schema) for name, schema in schemas.items()})
