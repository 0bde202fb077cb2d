"""Make up data files: one thing is wrong with each, and the message must name the file."""

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from faults.places import Place
from faults.session import Session

ROWS = {"train": 2490, "validation": 277}  # of RTE, as published
COLUMNS = ("sentence1", "sentence2", "label", "idx")
NO_TEXTS = ("lists", "bytes", "floats", "numbers", "nothing", "dates", "categories")
NO_NUMBERS = ("lists", "floats", "texts", "truths", "nothing", "dates")
NAMES = ("x", "Label", "label ", "sentence", "a/b", "名前", "é\u0301", "\u200b", "entailment", "0")


def write_glue(folder: Path, split: str = "", change: Callable[[Any], Any] = lambda table: table) -> None:
    """Write both splits of RTE as the hub lays them out, one of them changed; for a child, as it starts threads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "rte").mkdir(parents=True, exist_ok=True)
    words = np.array(["actor", "artist", "helped", "doctor", "guard", "happy"])
    for name, rows in ROWS.items():
        generator = np.random.default_rng(0)
        texts = [[" ".join(row) for row in words[generator.integers(len(words), size=(rows, 4))]] for _ in range(2)]
        columns = [*texts, generator.integers(2, size=rows), np.arange(rows)]
        table = pa.table(dict(zip(COLUMNS, columns, strict=True)))
        pq.write_table(change(table) if name == split else table, folder / "rte" / f"{name}-00000-of-00001.parquet")


# --- one thing wrong -------------------------------------------------------------------------------------------------


def without(column: str, table: Any) -> Any:
    """Leave a column out."""
    return table.drop_columns([column])


def renamed(column: str, name: str, table: Any) -> Any:
    """Give a column another name."""
    return table.rename_columns([name if found == column else found for found in table.column_names])


def other_type(column: str, kind: str, table: Any) -> Any:
    """Give a column another type."""
    import pyarrow as pa

    rows = table.num_rows
    made: dict[str, Any] = {
        "lists": pa.array([["a"]] * rows),
        "bytes": pa.array([b"a\xff"] * rows, pa.binary()),
        "floats": pa.array(np.linspace(0.0, 1.0, rows)),
        "numbers": pa.array(np.zeros(rows, np.int64)),
        "texts": pa.array([str(row) for row in range(rows)]),
        "truths": pa.array([True] * rows),
        "dates": pa.array(np.zeros(rows, "datetime64[s]")),
        "nothing": pa.nulls(rows),
        "categories": pa.array(["a"] * rows).dictionary_encode(),
    }
    return table.set_column(table.column_names.index(column), column, made[kind])


def with_value(column: str, row: int, value: Any, table: Any) -> Any:
    """Put another value into a cell."""
    import pyarrow as pa

    cells = table[column].to_pylist()
    cells[row] = value
    array = pa.array(cells, None if value is None else table.schema.field(column).type)
    return table.set_column(table.column_names.index(column), column, array)


def of_rows(count: int, table: Any) -> Any:
    """Cut the rows, or begin them again."""
    import pyarrow as pa

    return pa.concat_tables([table] * (1 + count // table.num_rows)).slice(0, count)


def class_names(names: list[str], table: Any) -> Any:
    """Name the classes of the label otherwise, as `datasets` writes them beside it."""
    said = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(said)})


def wrong(rng: random.Random, split: str) -> partial[Any]:
    """Draw one thing that is wrong with a split."""
    rows, row, column = ROWS[split], rng.randrange(ROWS[split]), rng.choice(COLUMNS)
    label = rng.choice((rng.randint(2, 2**62), -rng.randint(1, 2**62)))
    return rng.choice(
        (
            partial(without, column),
            partial(renamed, column, rng.choice(NAMES)),
            partial(other_type, rng.choice(COLUMNS[:2]), rng.choice(NO_TEXTS)),
            partial(other_type, rng.choice(COLUMNS[2:]), rng.choice(NO_NUMBERS)),
            partial(with_value, column, row, None),
            partial(with_value, "label", row, label),
            partial(with_value, "idx", max(1, row), 0),
            partial(of_rows, rng.choice((rng.randrange(rows), rng.randint(rows + 1, 2 * rows)))),
            partial(class_names, rng.sample(NAMES, 2)),
        )
    )


def made_up_tables(place: Place, session: Session, count: int) -> None:
    """Train on `count` data folders of which one file is wrong."""
    for _ in range(count):
        split = session.rng.choice(list(ROWS))
        change = wrong(session.rng, split)
        here = place.below("table")
        source = ("data.source=glue", f"data.dir={here.folder}/glue", "data.train_limit=64")
        plant = partial(write_glue, here.folder / "glue", split, change)
        ended = here.train("task=rte", *source, "train.epochs=1", plant=plant).wait()
        said = f"data file, {split} {change.func.__name__} {change.args}"
        session.judge("data files", said, ended, [f"rte/{split}-00000-of-00001.parquet"], right=False)
        here.clear()
