"""Read one GLUE split from any common file layout.

    <task>/<split>-00000-of-00001.parquet     the hub's own (nyu-mll/glue), a download or a snapshot of it
    <task>/<split>/0000.parquet, ...          other Parquet layouts: see `_PARQUET`
    <task>/<split>/state.json                 what `save_to_disk` of datasets writes (Arrow)
    RTE/train.tsv, MRPC/msr_paraphrase_*.txt  GLUE's own zip, as it unpacks

All give the same rows, labels and row numbers, so that the content hash of a split does not tell them apart.
"""

from __future__ import annotations

import base64
import csv
import re
import zlib
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symlora.config.schema import DataConfig, TaskConfig
from symlora.errors import OFFLINE_HELP, SymloraError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

# Of a split called {split} of the hub's config {config}; the first that matches any file is read.
_PARQUET = (
    "{config}/{split}-*.parquet",
    "{config}/{split}/*.parquet",
    "{config}/{split}.parquet",
    "{config}/*-{split}.parquet",
    "{config}/*-{split}-*-of-*.parquet",
    "{config}[-_]{split}.parquet",
    "{config}[-_]{split}-*-of-*.parquet",
)
# Folders of GLUE's own zip; the others are their tasks' names in capitals.
_ZIP = {"cola": "CoLA", "sst2": "SST-2", "stsb": "STS-B", "ax": "diagnostic"}
# Columns of the TSV files whose names are not the hub's.
_TEXTS = {"mnli": ["sentence1", "sentence2"], "ax": ["sentence1", "sentence2"], "mrpc": ["#1 String", "#2 String"]}
_LABEL = {"mnli": "gold_label", "stsb": "score", "mrpc": "Quality", "qqp": "is_duplicate"}
_COLA = ["source", "label", "mark", "sentence"]  # its train.tsv and dev.tsv have no header
# MRPC comes in one file for training and validation: the distances between the validation rows.
_MRPC_ROWS = 4076
_MRPC_VALIDATION = (
    "c-jrmOKuZE6h>j)|Gw+hRh@Qw;3NVk5Qr2pWIybG5qNfn-zn)%OK2BJmMbt`QOYgCKVG`>p{`6A#MvnG8;P{6<zyA>y$FW@d@Dw!!ALPj-mS"
    "`{*tzth-9BNW-Z2)}1!3VD3NwD%NzQF6L%s$bLsUWx$k)`kJ3H#HVy3OjlvaJnn>=kn@LK_-nY81*hdRYuvNV8lyUHy0jvts??$HD^SjPitm"
    "yHE^Q~(QA{K05^`hJ8gQMK&rH2O`O1ruS-fafzQk^0$a;^$va=lDme1srIP=UjGq#1U6wmS>G-#lcRsMAdG-Yt!%*ElA6}u!x80EVd<6xMC+"
    "_Rr&K072iL`2%5&)QvL&xUJus"
)


def read_folder(root: Path, config: str, split: str, task: TaskConfig) -> tuple[str, pa.Table] | None:
    """Read a split from a folder of tasks: place and table.

    None if there is no such split. The place is for messages; `config` is the hub's name of the task (`ax` for MNLI's
    diagnostic set).

    Raises:
        SymloraError: The files are damaged, incomplete or of another kind.
    """
    for pattern in _PARQUET:
        if files := sorted(root.glob(pattern.format(config=config, split=split))):
            return _read_parquet(files, split)
    if (root / config / split / "state.json").exists():
        return _read_arrow(root / config / split)
    names = [f"{split.replace('validation', 'dev')}.tsv", f"{split}.tsv"]
    if config == "mrpc":
        names.insert(0, f"msr_paraphrase_{'test' if split == 'test' else 'train'}.txt")
    if config == "ax":
        names = ["diagnostic.tsv", "AX.tsv"]
    for folder in (_ZIP.get(config, config.upper()), config.upper(), config):
        for name in names:
            if (path := root / folder / name).is_file():
                return str(path), _read_tsv(path, config, split, task)
    return None


def read_hub(data: DataConfig, config: str, split: str, task: TaskConfig) -> tuple[str, pa.Table]:
    """Read a split from the hub's dataset, cached or downloaded.

    Raises:
        SymloraError: It is not there, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    where = f"{data.dataset} at {data.revision}, {config}/{split}"
    error: Exception | None = None
    for cached in (True, False):
        try:
            folder = snapshot_download(
                data.dataset,
                repo_type="dataset",
                revision=data.revision,
                allow_patterns=[f"{config}/*{split}*", f"{config}[-_]{split}*"],
                local_files_only=cached,
            )
        except Exception as failure:  # network, HTTP and cache errors share no base class
            error = failure
            continue
        error = None
        if (found := read_folder(Path(folder), config, split, task)) is not None:
            return where, found[1]
    reason = "no such file in it" if error is None else f"{type(error).__name__}: {first_line(error)}"
    raise SymloraError(f"{where}: could not be loaded from the hub ({reason}). {OFFLINE_HELP}") from error


def _read_parquet(files: list[Path], split: str) -> tuple[str, pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = files[0].parent
    parts = {int(match[1]) for file in files if (match := re.search(r"-of-(\d+)\.parquet$", file.name))}
    if parts - {len(files)}:
        raise SymloraError(
            f"{folder}: the files of split {split} are not one complete set: {', '.join(f.name for f in files)}. "
            "Keep all files from the first (-00000-of-N) to the last, and no others."
        )
    tables = []
    for file in files:
        if not file.is_file():
            raise SymloraError(f"{file} is not a file. Put the hub's Parquet file of that name in its place.")
        try:
            table = pq.ParquetFile(file).read()  # not read_table: that adds columns for folders named "key=value"
            table.validate(full=True)  # among others, that strings are UTF-8
        except (pa.ArrowException, OSError) as error:
            raise SymloraError(
                f"{file} cannot be read as Parquet ({first_line(error)}). It is truncated, damaged or another kind "
                "of file: copy it again."
            ) from error
        tables.append(table)
    where = str(files[0]) if len(files) == 1 else f"{folder}/{split}-*.parquet ({len(files)} files)"
    try:
        return where, pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise SymloraError(f"{where}: the files' columns differ ({first_line(error)}).") from error


def _read_arrow(folder: Path) -> tuple[str, pa.Table]:
    from datasets import load_from_disk  # 2 s

    try:
        loaded: Any = load_from_disk(str(folder))
        table = loaded.with_format("arrow")[:]
        table.validate(full=True)
    except Exception as error:  # pyarrow's, OSError, KeyError of a damaged state.json
        raise SymloraError(
            f"{folder} cannot be read as save_to_disk writes it ({first_line(error)}). Write it again."
        ) from error
    return str(folder), table.replace_schema_metadata(loaded.features.arrow_schema.metadata)


def _read_tsv(path: Path, config: str, split: str, task: TaskConfig) -> pa.Table:
    """Read a file of GLUE's zip: tabs, no quoting, a header.

    Rows that lack a field, and in QQP those whose label cannot be read (tabs in its text), are left out, as in the
    script that made the hub's dataset, and keep their number.
    """
    import pyarrow as pa

    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SymloraError(f"{path} cannot be read as tab-separated UTF-8 ({first_line(error)}).") from error
    headless = not rows or (config == "cola" and "sentence" not in rows[0])
    header = _COLA if headless else rows.pop(0)
    texts, label = _TEXTS.get(config, task.columns), _LABEL.get(config, "label")
    missing = [name for name in texts if name not in header]
    if missing:
        raise SymloraError(f"{path} lacks the column {missing[0]}; its first line is {' | '.join(header)[:200]}.")
    places = [header.index(name) for name in texts]
    labels = header.index(label) if label in header else None
    read = [
        (number, row, _label(row[labels], task) if labels is not None else -1)
        for number, row in _numbered(rows, config, split, path.stem)
        if len(row) > max(*places, labels or 0)
    ]
    bad = next((row for _, row, found in read if found is None), None)
    if bad is not None and config != "qqp":
        place = next(number for number, row in enumerate(rows, 1) if row is bad)
        raise SymloraError(f"{path}, row {place}: the label {bad[labels or 0]!r} is none of {task.name}'s.")
    kept = [entry for entry in read if entry[2] is not None]
    columns: dict[str, Any] = {
        name: [row[place] for _, row, _ in kept] for place, name in zip(places, task.columns, strict=True)
    }
    columns["label"] = pa.array([row[2] for row in kept], pa.int64() if task.labels else pa.float32())
    return pa.table(columns | {"idx": pa.array([row[0] for row in kept], pa.int32())})


def _label(text: str, task: TaskConfig) -> float | None:
    """Return a class's number or a score; None for what is neither."""
    if text in task.labels:
        return task.labels.index(text)
    try:
        return int(text) if task.labels else float(text)
    except ValueError:
        return None


def _numbered(rows: list[list[str]], config: str, split: str, name: str) -> list[tuple[int, list[str]]]:
    """Number the split's rows as the hub does."""
    if config == "mrpc" and split != "test":
        gaps = zlib.decompress(base64.b85decode(_MRPC_VALIDATION))
        validation = {place - 1 for place in accumulate(gaps)}
        wanted = [row for row in range(_MRPC_ROWS) if (row in validation) == (split == "validation")]
        if len(rows) == _MRPC_ROWS:
            return [(row, rows[row]) for row in wanted]
        if len(rows) == len(wanted) and not name.startswith("msr"):
            return list(zip(wanted, rows, strict=True))
    return list(enumerate(rows))
