"""Turn the user's own table into a task.

    task=custom data.dir=my.csv task.columns=[text]

Labels that are text or whole numbers are classes, in sorted order; numbers with a decimal point are scores.
"""

import math
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symlora.config.rows import Split, choose_rows
from symlora.config.schema import Config, DataConfig, TaskConfig
from symlora.config.tables import Columns, find_tables, read_hub_tables, read_tables
from symlora.errors import SymloraError

_HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate, which has no UTF-8
METRICS = {  # the first is the score
    "scores": ["pearson", "spearmanr", "mae"],
    "two classes": ["accuracy", "macro_f1", "balanced_accuracy", "matthews_correlation", "auroc"],
    "classes": ["accuracy", "macro_f1", "balanced_accuracy", "matthews_correlation"],
}


def complete(config: Config) -> None:
    """Read classes, metrics and rows of each split from the table.

    Raises:
        SymloraError: The table cannot be used; the message names file, row and column.
    """
    task, data = config.task, config.data
    if not 1 <= len(task.columns) <= 2:
        raise SymloraError("task.columns: name one or two columns of text, such as task.columns=[text].")
    if len({*task.columns}) < len(task.columns):
        raise SymloraError(f"task.columns={task.columns}: a pair is two different columns.")
    if len({*task.labels}) < len(task.labels) or len(task.labels) == 1:
        raise SymloraError(f"task.labels={task.labels}: name two or more different classes.")
    if task.label in task.columns:
        raise SymloraError(f"task.label={task.label} is one of task.columns: name the column that holds the labels.")
    if data.dir == os.path.expanduser(os.environ.get("GLUE_DIR", "")):  # which is for GLUE's tasks
        data.dir = None
    raw = _read(task, data)
    if task.regression is None:
        task.regression = not task.labels and _are_scores(raw["train"][1][task.label])
    if not task.regression and not task.labels:
        task.labels = _classes(raw, task)
    kind = "scores" if task.regression else "two classes" if len(task.labels) == 2 else "classes"
    if task.regression and task.labels:
        raise SymloraError("task.regression=true goes without task.labels: scores have no classes.")
    fitting = [*METRICS[kind], *["f1"] * (kind == "two classes")]
    if odd := [name for name in task.metrics if name not in fitting]:
        raise SymloraError(f"task.metrics: {odd[0]} does not fit {kind}. Choose among: {', '.join(fitting)}.")
    task.metrics = task.metrics or METRICS[kind]
    task.score = task.metrics[0] if task.score in ("", "???") else task.score
    splits = read_own(task, data)
    if task.regression and len(splits["validation"]) < 2:
        raise SymloraError("validation has one row, and a correlation needs two: add rows, or raise its share.")
    task.splits = {name: len(split) for name, split in splits.items()}
    task.validation, task.test = ["validation"], [name for name in ("test",) if name in splits]
    if config.predict_test and not task.test:
        raise SymloraError("predict_test=true: there is no test split. Add a test file, or set task.shares.test.")


def read_own(task: TaskConfig, data: DataConfig) -> dict[str, Split]:
    """Read, check and cut the user's table.

    Splits that have no file are drawn from the training rows, `task.shares` of them, classes in proportion.
    """
    raw = _read(task, data)
    splits = {name: _parsed(columns, where, name, task) for name, (where, columns) in raw.items()}
    drawn = {name: share for name, share in task.shares.items() if name not in splits and share}
    if "validation" not in splits and "validation" not in drawn:
        raise SymloraError("there is no validation file: give task.shares.validation, such as 0.1.")
    total, left = len(splits["train"]), splits["train"]
    if task.labels and drawn and len(alone := np.flatnonzero(np.bincount(left.labels) == 1)):
        row = int(np.flatnonzero(left.labels == alone[0])[0]) + 1
        raise SymloraError(
            f"{raw['train'][0]}: row {row} alone is of class {task.labels[alone[0]]!r} (column {task.label}): "
            "too few to put one into each split. Add rows of that class, or correct or remove this row."
        )
    for name, share in drawn.items():
        if name not in ("validation", "test") or not 0 < share < 1 or sum(drawn.values()) >= 1:
            raise SymloraError(
                f"task.shares={task.shares}: give shares of validation and test that sum to less than 1."
            )
        left, splits[name] = left.cut(choose_rows(left.labels, max(1, round(share * total)), 1), name)
    if task.labels and len(present := np.unique(left.labels)) < len(task.labels):
        absent = next(name for number, name in enumerate(task.labels) if number not in present)
        raise SymloraError(f"column {task.label}: no training row is of class {absent!r}.")
    splits["train"] = left
    return {name: splits[name] for name in ("train", "validation", "test") if name in splits}


def read_rows(files: Sequence[Path], task: TaskConfig) -> Split:
    """Read further rows for a trained task, with or without labels."""
    columns = read_tables(files, [*task.columns, task.label], optional=task.label)
    return _parsed(columns, str(files[0]), "test", task)


def _read(task: TaskConfig, data: DataConfig) -> dict[str, tuple[str, Columns]]:
    """Return where each split's table is, and its columns."""
    wanted = [*task.columns, task.label]
    if data.dir is None:
        if data.dataset == DataConfig.dataset:
            raise SymloraError(
                f"task={task.name} needs its table: data.dir=<file or folder>, or data.dataset=<name on the hub> "
                "data.revision=<commit> (evaluate and predict: --data)."
            )
        tables = read_hub_tables(data.dataset, data.revision)
        for split, columns in tables.items():
            if missing := [name for name in wanted if name not in columns]:
                raise SymloraError(
                    f"{data.dataset}, {split}: lacks the column {missing[0]}; it has {', '.join(columns)}."
                )
            if not columns[wanted[0]]:
                raise SymloraError(f"{data.dataset}, {split}: has no rows.")
        return {split: (f"{data.dataset}, {split}", columns) for split, columns in tables.items()}
    return {
        split: (str(files[0]), read_tables(files, wanted, optional=task.label if split == "test" else None))
        for split, files in find_tables(Path(data.dir)).items()
    }


def _classes(raw: dict[str, tuple[str, Columns]], task: TaskConfig) -> list[str]:
    """List the different labels: whole numbers by size, others by name."""
    where, columns = raw["train"]
    values = columns[task.label]
    _refuse_empty(values, where, task.label)
    names = {str(value).strip() for value in values}
    for split, (other, more) in raw.items():
        if split != "train" and task.label in more:
            for number, value in enumerate(more[task.label], 1):
                if value is not None and str(value).strip() not in names and not _hidden(value, split, names):
                    raise SymloraError(
                        f"{other}: row {number}, column {task.label}: no training row is of class {value!r}."
                    )
    if len(names) < 2:
        raise SymloraError(f"{where}: column {task.label} holds one class, {next(iter(names))!r}, in every row.")
    if len(names) > max(len(values) // 2, 2):
        raise SymloraError(
            f"{where}: column {task.label} holds {len(names):,} different labels in {len(values):,} rows. Name the "
            "column of the labels (task.label=<column>), or set task.regression=true if they are scores."
        )
    whole = all(_whole(name) for name in names)
    if odd := [name for name in names if "${" in name or name == "???"]:
        raise SymloraError(
            f"{where}: column {task.label}: {odd[0]!r} cannot be the name of a class (OmegaConf reads it)."
        )
    return sorted(names, key=lambda name: (int(name) if whole else 0, name))


def _parsed(columns: Columns, where: str, split: str, task: TaskConfig) -> Split:
    texts = tuple(columns[name] for name in task.columns)
    for name, column in zip(task.columns, texts, strict=True):
        for number, text in enumerate(column, 1):
            if not isinstance(text, str) or not text.strip():
                found = f"holds {text!r}, which is not text" if text not in (None, "") else "is empty"
                raise SymloraError(f"{where}: row {number}, column {name} {found}. Correct or remove that row.")
            if not text.isascii() and _HALF.search(text):
                raise SymloraError(f"{where}: row {number}, column {name} holds half a character. Correct that row.")
    values = columns.get(task.label)
    rows = np.arange(len(texts[0]))
    scores = not task.labels  # a GLUE task does not say whether it is a regression
    kind: Any = np.float32 if scores else np.int64
    if values is None or all(_hidden(value, split, task.labels) for value in values):
        return Split(split, texts, np.full(len(rows), -1, kind), rows)
    _refuse_empty(values, where, task.label)
    numbers = {name: number for number, name in enumerate(task.labels)}
    if not any(map(_whole, task.labels)):  # then a number stands for a class
        numbers |= {str(number): number for number in range(len(task.labels))}
    parse = _score if scores else numbers.get
    labels = [parse(str(value).strip()) for value in values]
    if None in labels:
        row = labels.index(None)
        expected = "a number" if scores else f"one of {', '.join(task.labels[:20])}"
        raise SymloraError(f"{where}: row {row + 1}, column {task.label} holds {values[row]!r}; expected {expected}.")
    return Split(split, texts, np.array(labels, kind), rows)


def _refuse_empty(values: list[Any], where: str, column: str) -> None:
    for number, value in enumerate(values, 1):
        if value is None or str(value).strip().lower() in ("", "nan"):
            raise SymloraError(f"{where}: row {number}, column {column} is empty or NaN. Correct or remove that row.")
        if isinstance(value, (list, dict, bytes)):
            raise SymloraError(f"{where}: row {number}, column {column} holds {value!r}: give one text or number.")


def _hidden(value: Any, split: str, classes: Collection[str]) -> bool:
    """Tell whether a test label is empty or GLUE's -1."""
    return split == "test" and (value is None or str(value).strip() in {"", "-1"}.difference(classes))


def _are_scores(values: list[Any]) -> bool:
    """Tell whether labels are numbers, some with a decimal point."""
    texts = [str(value).strip() for value in values]
    return all(_score(text) is not None for text in texts) and not all(_whole(text) for text in texts)


def _whole(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", text) is not None


def _score(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None  # 1_0 is Python's, not a number in a table
