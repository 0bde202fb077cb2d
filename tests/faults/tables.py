"""Made-up data files: one thing is wrong with each, and the message must name the file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import Phase, given, settings

from faults.judge import Verdicts
from faults.places import Place

RTE = ("task=rte", "data.source=glue", "data.train_limit=64", "train.epochs=1")
ROWS = {"train": 2490, "validation": 277}  # of RTE, as published
NO_TEXTS = ("lists", "bytes", "floats", "numbers", "nothing", "dates", "categories")
NO_NUMBERS = ("lists", "floats", "texts", "truths", "nothing", "dates")
COLUMNS = ("sentence1", "sentence2", "label", "idx")


def _whole(split: str) -> dict[str, Any]:
    """RTE's columns, with sentences of a few words."""
    rows = ROWS[split]
    generator = np.random.default_rng(0)
    words = np.array(["actor", "artist", "helped", "doctor", "guard", "happy"])
    texts = [[" ".join(row) for row in words[generator.integers(len(words), size=(rows, 4))]] for _ in range(2)]
    return {
        "sentence1": texts[0],
        "sentence2": texts[1],
        "label": generator.integers(2, size=rows),
        "idx": np.arange(rows),
    }


def write_glue(folder: Path, split: str = "", change: Callable[[Any], Any] | None = None) -> None:
    """Writes both splits of RTE as the hub lays them out, one of them changed; for a child, as it starts threads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "rte").mkdir(parents=True, exist_ok=True)
    for name in ROWS:
        table = pa.table(_whole(name))
        if name == split and change is not None:
            table = change(table)
        pq.write_table(table, folder / "rte" / f"{name}-00000-of-00001.parquet")


# --- one thing wrong -------------------------------------------------------------------------------------------------


def without(column: str, table: Any) -> Any:
    """A missing column."""
    return table.drop_columns([column])


def renamed(column: str, name: str, table: Any) -> Any:
    """A column of another name."""
    return table.rename_columns([name if found == column else found for found in table.column_names])


def other_type(column: str, kind: str, table: Any) -> Any:
    """A column of another type."""
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
    """One cell of another value."""
    import pyarrow as pa

    position = table.column_names.index(column)
    cells = table[column].to_pylist()
    cells[row] = value
    return table.set_column(position, column, pa.array(cells, None if value is None else table.schema[position].type))


def of_rows(count: int, table: Any) -> Any:
    """Another number of rows: cut, or begun again."""
    import pyarrow as pa

    whole = pa.concat_tables([table] * (1 + count // table.num_rows))
    return whole.slice(0, count)


def class_names(names: tuple[str, ...], table: Any) -> Any:
    """`datasets` writes the classes of a label beside it."""
    import json

    said = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(said)})


def _wrong(split: str) -> st.SearchStrategy[partial[Any]]:
    rows = ROWS[split]
    some_row = st.integers(0, rows - 1)
    texts, numbers = st.sampled_from(COLUMNS[:2]), st.sampled_from(COLUMNS[2:])
    names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
        lambda name: name not in COLUMNS
    )
    bad_labels = st.one_of(st.integers(2, 2**62), st.integers(-(2**62), -1))
    return st.one_of(
        st.builds(partial, st.just(without), st.sampled_from(COLUMNS)),
        st.builds(partial, st.just(renamed), st.sampled_from(COLUMNS), names),
        st.builds(partial, st.just(other_type), texts, st.sampled_from(NO_TEXTS)),
        st.builds(partial, st.just(other_type), numbers, st.sampled_from(NO_NUMBERS)),
        st.builds(partial, st.just(with_value), st.sampled_from(COLUMNS), some_row, st.none()),
        st.builds(partial, st.just(with_value), st.just("label"), some_row, bad_labels),
        st.builds(partial, st.just(with_value), st.just("idx"), st.integers(1, rows - 1), st.just(0)),
        st.builds(partial, st.just(of_rows), st.integers(0, 2 * rows).filter(lambda count: count != rows)),
        st.builds(partial, st.just(class_names), st.tuples(names, names)),
    )  # fmt: skip


def made_up_tables(place: Place, count: int, verdicts: Verdicts, tried: Callable[[], object]) -> None:
    """Trains on `count` data folders of which one file is wrong."""

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(st.sampled_from(list(ROWS)).flatmap(lambda split: st.tuples(st.just(split), _wrong(split))))
    def one(wrong: tuple[str, partial[Any]]) -> None:
        split, change = wrong
        here = place.below("table")
        plant = partial(write_glue, here.folder / "glue", split, change)
        overrides = (
            "task=rte",
            "data.source=glue",
            f"data.dir={here.folder}/glue",
            "data.train_limit=64",
            "train.epochs=1",
        )
        ended = here.train(*overrides, plant=plant).wait()
        said = f"data file, {split} {change.func.__name__} {change.args}"
        verdicts.enter("data files", said, ended, [f"rte/{split}-00000-of-00001.parquet"], same=False)
        here.clear()
        tried()

    one()
