"""Load and check GLUE splits as plain arrays, and cut them.

Sources: a folder, the hub at a pinned revision (symlora.data.readers), or the demo grammar. Any problem with the
data raises a SymloraError: where, what was found and expected, what to do. Empty sentences are accepted: they tokenize
to their special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from symlora.config.own_task import read_own
from symlora.config.rows import Labels, Split, choose_rows
from symlora.config.schema import HELD_OUT, DataConfig, TaskConfig
from symlora.data.readers import read_folder, read_hub
from symlora.errors import SymloraError

if TYPE_CHECKING:
    import pyarrow as pa

SCORE_RANGE = (0.0, 5.0)  # STS-B, GLUE's one regression task
# AX, the diagnostic set that GLUE wants an MNLI model's predictions of, is a config of its own on the hub.
PLACES = {("mnli", "ax"): ("ax", "test")}
DEMO_PLACES = {("mnli", "ax"): "test_matched"}  # the demo has no such set: the same sentences again


def load_splits(task: TaskConfig, data: DataConfig, names: Iterable[str]) -> dict[str, Split]:
    """Read and check the named splits.

    `train` is cut to `data.train_limit` rows. Which ones depends on the data and the limit alone; they hold classes in
    proportion, and stay in order.

    Raises:
        SymloraError: A file is missing, broken or not the official one, or the hub cannot be reached.
    """
    own = read_own(task, data) if data.source == "own" else {}
    splits = {}
    for name in names:
        if name not in task.splits:
            raise SymloraError(f"{task.name} has no split {name!r}. Choose among: {', '.join(task.splits)}.")
        if own and name not in own:
            place = data.dir or data.dataset
            raise SymloraError(
                f"{place} has no split {name!r}: give a folder that has it (--data), or its file (--file)."
            )
        split = own[name] if own else _checked(*_read(task, data, name), task, data, name)
        if name == "train" and data.train_limit is not None:
            split = split.take(choose_rows(split.labels, min(data.train_limit, len(split)), 0))
        splits[name] = split
    return splits


def holdout(split: Split, fraction: float) -> tuple[Split, Split]:
    """Cut a split in two, both in file order: (rest, held_out).

    Classes are in proportion, with at least one row of each on both sides; regression rows are drawn uniformly. All
    runs must be selected on the same rows, whatever their seed.

    Raises:
        SymloraError: A class has a single row.
    """
    return split.cut(choose_rows(split.labels, round(fraction * len(split)), 1), HELD_OUT)


def _read(task: TaskConfig, data: DataConfig, split: str) -> tuple[str, pa.Table]:
    """Read a split; return its place (for messages) and the table."""
    if data.source == "demo":
        import pyarrow as pa

        from symlora.data.demo import demo_split

        split = DEMO_PLACES.get((task.name, split), split)
        rows = data.demo_rows.get(split, data.demo_rows.get(split.split("_")[0]))  # validation_matched: validation
        if rows is None:
            raise SymloraError(f"data.demo_rows has no entry for {split!r}. Add one: its number of rows.")
        return f"demo {task.name}/{split}", pa.table(demo_split(task.name, split, rows))
    rows, (config, split) = task.splits[split], PLACES.get((task.name, split), (task.name, split))
    if not data.dir:
        return read_hub(data, config, split, task)
    root = Path(data.dir)
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise SymloraError(
            f"{root} {state} (from GLUE_DIR or data.dir). Expected one folder per task in it. Correct the path, or "
            "leave it unset to use the hub."
        )
    found = read_folder(root, config, split, task)
    if found is None:
        name = f"{config}/{split}-00000-of-00001.parquet"
        raise SymloraError(
            f"{root / name} is missing from this folder ({rows:,} rows expected), and no other shape of this split is "
            "there, such as the .tsv file of GLUE's zip in the task's own folder. The hub has it in dataset "
            f"{data.dataset}, revision {data.revision[:8]}, as {name}: put that file there, or leave GLUE_DIR and "
            "data.dir unset to use the hub."
        )
    return found


def _checked(where: str, table: pa.Table, task: TaskConfig, data: DataConfig, name: str) -> Split:
    """Turn a table into a Split; further columns are left out."""
    import pyarrow.types as types

    official = task.splits[name] if data.source == "glue" else None
    advice = f"Use the hub's own file for {'/'.join(PLACES.get((task.name, name), (task.name, name)))}."
    expected = [*task.columns, "label", "idx"]
    wrong = [column for column in expected if table.column_names.count(column) != 1]
    if wrong:
        says = f"repeats {wrong[0]}" if wrong[0] in table.column_names else f"lacks {', '.join(wrong)}"
        raise SymloraError(f"{where}: {says}; expected the columns {', '.join(expected)}. {advice}")
    if official not in (None, table.num_rows) and not data.allow_subset:
        raise SymloraError(
            f"{where}: {table.num_rows:,} rows, the official split has {official:,}. {advice} To use it anyway, set "
            "data.allow_subset=true, which marks the run."
        )
    if not table.num_rows:
        raise SymloraError(f"{where}: no rows. {advice}")
    class_names = _class_names(table)
    if class_names is not None and class_names != task.labels:
        raise SymloraError(f"{where}: the file names its classes {class_names}, the task {task.labels}. {advice}")
    label_kind = types.is_integer if task.labels else types.is_floating
    for column in expected:
        kind = table.schema.field(column).type
        text = types.is_string(kind) or types.is_large_string(kind)
        if not (text if column in task.columns else label_kind(kind) if column == "label" else types.is_integer(kind)):
            raise SymloraError(f"{where}: column {column} has the type {kind}. {advice}")
        if table[column].null_count:
            raise SymloraError(f"{where}: column {column} has {table[column].null_count:,} null cells. {advice}")
    labels = table["label"].to_numpy().astype(np.int64 if task.labels else np.float32)
    _check_labels(labels, f"{where}: column label", task, hidden=name in task.test, advice=advice)
    idx = table["idx"].to_numpy().astype(np.int64)
    if len(np.unique(idx)) != len(idx):
        raise SymloraError(f"{where}: column idx numbers some rows twice. {advice}")
    split = Split(name, tuple(table[column].to_pylist() for column in task.columns), labels, idx)
    if official and not data.allow_subset and not split.sha256.startswith(task.sha256.get(name, "")):
        raise SymloraError(
            f"{where} has as many rows as GLUE's {name} split, but not its content: some text or label differs. "
            f"{advice} To use it anyway, set data.allow_subset=true, which marks the run."
        )
    return split


def _check_labels(labels: Labels, where: str, task: TaskConfig, *, hidden: bool, advice: str) -> None:
    if hidden and np.all(labels == -1):
        return
    low, high = (0, len(task.labels) - 1) if task.labels else SCORE_RANGE
    allowed = f"{low:g} to {high:g}" + (f" ({', '.join(task.labels)})" if task.labels else "")
    good = (labels >= low) & (labels <= high)  # false for NaN
    bad = np.flatnonzero(~good)
    if len(bad):
        allowed += ", or -1 in every row" * hidden
        count = f"{len(bad):,} such rows"
        raise SymloraError(f"{where} holds {labels[bad[0]]} in row {bad[0]} ({count}); expected {allowed}. {advice}")


def _class_names(table: pa.Table) -> list[str] | None:
    """Return the class names that `datasets` stores with a ClassLabel column."""
    try:
        features: Any = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None
