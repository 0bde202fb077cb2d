"""Read the numbers that papers printed: results/published/*.yaml.

Each number is typed once, there, with its source and its certainty: read, computed or from memory.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from symlora.errors import SymloraError


@dataclass
class Origin:
    """Where numbers come from, and how sure they are: "read", "computed" or "from memory"."""

    source: str
    certainty: str


@dataclass
class Value(Origin):
    """One number with its source."""

    value: float


@dataclass
class Task:
    """A GLUE task's metric and rows; MNLI's two splits are matched, then mismatched."""

    metric: str
    classes: int
    train: int
    validation: list[int]
    test: list[int]


@dataclass
class Glue(Origin):
    """glue.yaml: the tasks."""

    reference: str
    tasks: dict[str, Task]


@dataclass
class Cell:
    """A cell of the SymLoRA paper's Table 1: a score in fractions, ± in points if one is known.

    source and certainty are given where they are not the column's.
    """

    score: float
    half_width: float | None = None
    source: str | None = None
    certainty: str | None = None


@dataclass
class Column(Origin):
    """A column of Table 1."""

    tasks: dict[str, Cell]


@dataclass
class Reruns(Origin):
    """The SymLoRA authors' own LoRA runs, in points."""

    tasks: dict[str, float]


@dataclass
class Paper:
    """symlora.yaml: Table 1 (columns validation, test, lora), LoRA runs, and numbers in the prose."""

    reference: str
    cells: dict[str, Column]
    reruns: Reruns
    claims: dict[str, Value]


@dataclass
class LoraScore:
    """A score of LoRA's own table, in points; start is "mnli" where its adapter began from MNLI's."""

    score: float
    half_width: float
    start: str


@dataclass
class LoraScores(Origin):
    """LoRA's own table."""

    tasks: dict[str, LoraScore]


@dataclass
class Recipe:
    """How LoRA's scripts train a task: batch is per device, devices is how many the script starts."""

    lr: float
    batch: int
    epochs: int
    devices: int
    start: str


@dataclass
class Recipes(Origin):
    """LoRA's recipes."""

    tasks: dict[str, Recipe]


@dataclass
class Lora:
    """lora.yaml: LoRA's scores and recipes, and single facts about it and RoBERTa-base."""

    reference: str
    scores: LoraScores
    recipe: Recipes
    facts: dict[str, Value]


@dataclass
class OtherRow(Origin):
    """A method's row in another paper, in points; start is "none", "mnli" or "unknown"."""

    method: str
    start: str
    tasks: dict[str, float]


@dataclass
class Others:
    """others.yaml: rows of other papers."""

    rows: list[OtherRow]


@dataclass(frozen=True)
class Published:
    """Everything in results/published, one attribute per file."""

    glue: Glue
    symlora: Paper
    lora: Lora
    others: Others


def read_published(folder: Path) -> Published:
    """Read glue.yaml, symlora.yaml, lora.yaml and others.yaml.

    Raises:
        SymloraError: A file or a value is missing, or has the wrong type. The message names file and key.
    """
    files: dict[str, Any] = {}
    for field in fields(Published):
        path = folder / f"{field.name}.yaml"
        try:
            files[field.name] = OmegaConf.to_object(OmegaConf.merge(field.type, OmegaConf.load(path)))
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
            raise SymloraError(f"{path} cannot be read, restore it: {' '.join(str(error).split())}") from error
    return Published(**files)
