"""Read the user's tables: CSV, TSV, JSON lines, Parquet, Arrow, hub.

Rows count from 1 in messages, without the header.
"""

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from symlora.errors import OFFLINE_HELP, SymloraError, first_line

Columns = dict[str, list[Any]]

MAX_BYTES = 4 * 2**30  # a table is held in memory
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*_DELIMITERS, ".jsonl", ".json", ".parquet")
_SPLIT = re.compile(r"(?:(?P<train>train)|(?P<validation>validation|valid|val|dev)|(?P<test>test))(?![a-z0-9])", re.I)
QUOTES = 'Put a text that holds a quote into quotes, and double the quote: "a ""word""".'
ADVICE = "Give a .csv, .tsv, .jsonl or .parquet file, or a folder with train, validation and test files of these kinds."


def find_tables(place: Path) -> dict[str, list[Path]]:
    """Find the files of each split; a lone table is `train`.

    Raises:
        SymloraError: There is no table, or a folder has none for training.
    """
    if place.is_file():
        return {"train": [place]}
    if not place.is_dir():
        raise SymloraError(f"{place} does not exist (data.dir). {ADVICE}")
    if (place / "state.json").is_file():  # `save_to_disk` of datasets
        return {"train": [place]}
    found: dict[str, list[Path]] = {}
    for path in sorted(place.iterdir()):
        match = _SPLIT.match(path.name)  # not of "trained.csv"
        if match and (path.suffix.lower() in SUFFIXES or (path / "state.json").is_file()):
            found.setdefault(str(match.lastgroup), []).append(path)
    if "train" not in found:
        raise SymloraError(f"{place} holds no table for training (train.csv, train.jsonl, ...). {ADVICE}")
    for split, files in found.items():
        # The parts of one table differ in numbers (and in the hub's random end), not in words.
        kinds = {(re.sub(r"\d+", "0", re.sub(r"(-of-\d+)-\w+", r"\1", path.stem)), path.suffix) for path in files}
        if len(kinds) > 1:
            names = ", ".join(path.name for path in files[:5])
            raise SymloraError(f"{place} holds several tables for {split} ({names}): keep one, or number its parts.")
        parts = Counter(part.groups() for path in files if (part := re.match(r"(.*?)\d+-of-(\d+)", path.stem)))
        for (_, of), number in parts.items():
            if number != int(of):
                raise SymloraError(f"{place} holds {number} of {int(of)} parts of {split}. Add the missing ones.")
    return found


def read_tables(files: Sequence[Path], wanted: Sequence[str], optional: str | None = None) -> Columns:
    """Read columns of one table's files; `optional` may be missing.

    Raises:
        SymloraError: A file cannot be read, is too large, or lacks a column.
    """
    columns: Columns = {}
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise SymloraError(f"{path} cannot be read: {error.strerror}.") from error
        found = _read(path, stat.st_mtime_ns, stat.st_size)
        names = [name for name in wanted if name != optional or name in found]
        if missing := [name for name in names if name not in found]:
            raise SymloraError(f"{path} lacks the column {missing[0]}. It has: {', '.join(map(repr, found))[:300]}.")
        for name in names:
            columns.setdefault(name, []).extend(found[name])
    if len({len(values) for values in columns.values()}) > 1:
        raise SymloraError(f"{files[0]} and the files next to it have different columns.")
    if not columns[wanted[0]]:
        raise SymloraError(f"{files[0]} has no rows.")
    return columns


def read_hub_tables(dataset: str, revision: str) -> dict[str, Columns]:
    """Read every split of a hub dataset at a pinned revision."""
    from datasets import load_dataset

    try:
        loaded: Any = load_dataset(dataset, revision=revision)
    except Exception as error:  # network, HTTP, cache and format errors share no base class
        raise SymloraError(f"{dataset} at {revision} cannot be loaded ({first_line(error)}). {OFFLINE_HELP}") from error
    splits: dict[str, Columns] = {}
    for name in loaded:
        if match := _SPLIT.match(name):  # train_r1 and train_r2 are joined, as files are
            columns = splits.setdefault(str(match.lastgroup), {})
            for column, values in _of_dataset(loaded[name]).items():
                columns.setdefault(column, []).extend(values)
    if "train" not in splits:
        raise SymloraError(f"{dataset} has no training split. It has: {', '.join(loaded)}.")
    return splits


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> Columns:
    """Read all columns of one file, once while it is unchanged."""
    if size > MAX_BYTES:
        raise SymloraError(
            f"{path} has {size / 2**30:.1f} GiB; a table is held in memory, and {MAX_BYTES / 2**30:.0f} GiB is the "
            "limit. Take a part of its rows."
        )
    kind = path.suffix.lower()
    try:
        if path.is_dir():
            from datasets import load_from_disk

            return _of_dataset(load_from_disk(str(path)))
        if kind in _DELIMITERS:
            return _read_delimited(path, _DELIMITERS[kind])
        if kind == ".parquet":
            return _read_parquet(path)
        if kind in (".jsonl", ".json"):
            return _read_json(path)
    except SymloraError:
        raise
    except Exception as error:  # OSError, UnicodeDecodeError, csv's, pyarrow's and datasets' own
        raise SymloraError(f"{path} cannot be read ({first_line(error)}). Text is expected in UTF-8.") from error
    raise SymloraError(f"{path} has an unknown file type. {ADVICE}")


def _of_dataset(dataset: Any) -> Columns:
    """Return the columns of a table of `datasets`."""
    columns: Columns = dataset.with_format(None)[:]
    classes = {name: feature.names for name, feature in dataset.features.items() if hasattr(feature, "int2str")}
    return _with_names(columns, classes)


def _with_names(columns: Columns, classes: Mapping[str, Sequence[str]]) -> Columns:
    """Replace the numbers of classes by their names, by column."""
    for name in classes.keys() & columns.keys():
        columns[name] = [None if label in (None, -1) else classes[name][label] for label in columns[name]]
    return columns


def _read_parquet(path: Path) -> Columns:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    if twice := [name for name, times in Counter(table.column_names).items() if times > 1]:
        raise SymloraError(f"{path} has the column {twice[0]} twice.")
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    classes = {name: of["names"] for name, of in features.items() if isinstance(of, dict) and "names" in of}
    return _with_names(dict(table.to_pydict()), classes)


def _read_delimited(path: Path, delimiter: str) -> Columns:
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines: list[list[str]] = []
        try:
            lines.extend(csv.reader(file, delimiter=delimiter, strict=True))
        except csv.Error as error:  # a quote that is not closed would take in the rows after it
            raise SymloraError(f"{path}: row {len(lines)}: {error}. {QUOTES}") from None
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    if len(lines) < 2:
        raise SymloraError(f"{path} has no rows: expected a header line and one line per row.")
    header = lines.pop(0)
    rows = [line or [""] for line in lines if line or len(header) == 1]  # an empty line may be an empty text
    if len(header) == 1 and ";" in header[0]:
        raise SymloraError(f"{path}: its fields are separated by semicolons. Save it with {delimiter!r} between them.")
    if len(set(header)) < len(header):
        raise SymloraError(f"{path}: its first line names a column twice: {', '.join(header)[:300]}.")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise SymloraError(
                f"{path}: row {number} has {len(row)} fields, the first line {len(header)}. Quote a text that holds "
                f"{delimiter!r}."
            )
        if delimiter == "\t" and any("\t" in field and "\n" in field for field in row):
            raise SymloraError(
                f"{path}: row {number} has a text with a tab and a line break, as if a quote were not closed. Close "
                "it, or save the table as .csv or .jsonl."
            )
    return {name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}


def _read_json(path: Path) -> Columns:
    text = path.read_text(encoding="utf-8-sig")
    whole = text.lstrip().startswith("[")
    try:
        rows = json.loads(text) if whole else []
    except ValueError as error:
        raise SymloraError(f"{path} is not valid JSON ({error}).") from None
    for number, line in enumerate([] if whole else filter(str.strip, text.split("\n")), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise SymloraError(f"{path}: row {number} is not valid JSON ({error}).") from None
    if rows and not isinstance(rows[0], dict):
        raise SymloraError(f'{path}: row 1 is not an object, such as {{"text": "...", "label": 0}}.')
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or row.keys() != rows[0].keys():
            raise SymloraError(
                f"{path}: row {number} does not have the columns of row 1; expected: {', '.join(rows[0])}."
            )
    if not rows:
        raise SymloraError(f"{path} has no rows.")
    return {name: [row[name] for row in rows] for name in rows[0]}
