"""Tables of the user's own as tasks: what is inferred, what is refused, and that CoLA as a CSV is CoLA."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_run import train

from symlora.config.compose import compose
from symlora.config.identity import config_hash
from symlora.config.own_task import read_own, read_rows
from symlora.config.schema import Config
from symlora.config.tables import find_tables
from symlora.data.splits import load_splits
from symlora.errors import SymloraError
from symlora.runner.scoring import evaluate, predict
from symlora.runner.trained import of_run, open_trained

ROWS = [{"text": f'a film, "number" {n}\nof many', "label": ("neg", "neutral", "pos")[n % 3]} for n in range(60)]
OWN = ("task=custom", "model=minilm", "protocol=short")


def own(place: Path | str, *overrides: str, columns: str = "text") -> Config:
    return compose(*OWN, f"data.dir={place}", f"task.columns=[{columns}]", *overrides)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a table as its name's ending says."""
    if path.suffix in (".csv", ".tsv"):
        separator = "\t" if path.suffix == ".tsv" else ","
        pd.DataFrame(rows).to_csv(path, index=False, sep=separator, lineterminator="\r\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        datasets.Dataset.from_list(rows).class_encode_column("label").save_to_disk(str(path))
    return path


def test_every_kind_of_file_gives_the_same_task(tmp_path: Path) -> None:
    found = []
    for kind in ("csv", "tsv", "jsonl", "json", "parquet", "arrow"):
        config = own(write(tmp_path / f"reviews.{kind}", ROWS), "task.shares.test=0.2")
        splits = load_splits(config.task, config.data, ["train", "validation", "test"])
        found.append((vars(config.task), {name: split.sha256 for name, split in splits.items()}))
    assert all(entry == found[0] for entry in found)
    task, splits = config.task, load_splits(config.task, config.data, ["train", "validation", "test"])
    assert (task.labels, task.regression, task.score) == (["neg", "neutral", "pos"], False, "accuracy")
    assert task.metrics == ["accuracy", "macro_f1", "balanced_accuracy", "matthews_correlation"]
    assert task.splits == {"train": 42, "validation": 6, "test": 12} and task.test == ["test"]
    assert sorted(row for split in splits.values() for row in split.idx) == list(range(60))
    for split in splits.values():  # in proportion, and each row with its own label and text
        assert len(set(np.bincount(split.labels))) == 1
        assert [task.labels[label] for label in split.labels] == [ROWS[row]["label"] for row in split.idx]
        assert list(split.texts[0]) == [ROWS[row]["text"] for row in split.idx]


@pytest.mark.parametrize(
    ("values", "labels", "score"),
    [
        (["2", "10", "2", "10"], ["2", "10"], "accuracy"),
        ([True, False, True, False], ["False", "True"], "accuracy"),
        (["1", "--1", "1", "--1"], ["--1", "1"], "accuracy"),
        (["1_0", "2", "1_0", "2"], ["1_0", "2"], "accuracy"),
        (["1", "+1", "01", "2"], ["+1", "01", "1", "2"], "accuracy"),
        ([0.5, 1.0, 3.0, 2.25], [], "pearson"),
        (["1e3", "-2.5", "3", "4"], [], "pearson"),
    ],
)
def test_kinds_of_labels(tmp_path: Path, values: list[Any], labels: list[str], score: str) -> None:
    rows = [{"text": "a", "label": value} for value in values * 5]
    config = own(write(tmp_path / "t.jsonl", rows))
    assert (config.task.labels, config.task.score, config.task.regression) == (labels, score, not labels)
    split = read_own(config.task, config.data)["train"]
    expected = [labels.index(str(rows[row]["label"])) if labels else float(rows[row]["label"]) for row in split.idx]
    np.testing.assert_allclose(split.labels, expected)


def test_files_of_splits_pairs_and_hidden_test_labels(tmp_path: Path) -> None:
    pairs = [{"a": f"x {n}", "b": f"y {n}", "gold": n % 2} for n in range(8)]
    for name, rows in (("train-1.csv", pairs[:4]), ("train-2.csv", pairs[4:]), ("dev.csv", pairs[:2])):
        write(tmp_path / name, rows)
    write(tmp_path / "test.csv", [{"a": "x", "b": "y"}])
    (tmp_path / "trained.csv").write_text("no split")
    config = own(tmp_path, "task.label=gold", "task.labels=[no,yes]", columns="a,b")  # numbers stand for classes
    assert config.task.splits == {"train": 8, "validation": 2, "test": 1}
    splits = read_own(config.task, config.data)
    assert splits["train"].labels.tolist() == [0, 1] * 4 and splits["test"].labels.tolist() == [-1]
    assert splits["train"].texts[1][5] == "y 5"


def test_parts_of_a_table_are_all_there_and_files_of_other_words_are_none(tmp_path: Path) -> None:
    write(tmp_path / "train-00001-of-00002-f2.csv", ROWS[:30])
    with pytest.raises(SymloraError, match=r"holds 1 of 2 parts of train"):
        find_tables(tmp_path)
    write(tmp_path / "train-00000-of-00002-0ab1.csv", ROWS[:30])
    assert len(find_tables(tmp_path)["train"]) == 2
    write(tmp_path / "train_r2-00000-of-00001.csv", ROWS[:30])  # another table's, as in ANLI: all its parts are there
    with pytest.raises(SymloraError, match="several tables"):
        find_tables(tmp_path)
    (tmp_path / "train_r2-00000-of-00001.csv").unlink()
    write(tmp_path / "dev-best-of-10.csv", ROWS[:30])
    assert len(find_tables(tmp_path)["validation"]) == 1
    write(tmp_path / "train_old.csv", ROWS[:30])
    with pytest.raises(SymloraError, match=r"several tables for train \(train-00000.*train_old\.csv\): keep one"):
        find_tables(tmp_path)


def test_parquet_files_keep_the_hubs_class_names(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS).class_encode_column("label")
    rows.to_parquet(tmp_path / "t.parquet")
    assert own(tmp_path / "t.parquet").task.labels == ["neg", "neutral", "pos"]


def test_minus_one_may_be_a_class(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        write(
            tmp_path / f"{name}.csv",
            [{"text": f"x {n}", "label": -1 if n % 2 or name == "test" else 1} for n in range(8)],
        )
    config = own(tmp_path)
    assert config.task.labels == ["-1", "1"] and not read_own(config.task, config.data)["test"].labels.any()


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    rows = [["a", "b"], [0, 1], [1, 0]]
    pq.write_table(
        pa.Table.from_arrays([pa.array(row) for row in rows], ["text", "label", "label"]), tmp_path / "t.parquet"
    )
    with pytest.raises(SymloraError, match=r"t\.parquet has the column label twice"):
        own(tmp_path / "t.parquet")


def test_the_name_of_a_run_is_of_what_the_table_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    (tmp_path / "b").mkdir()
    moved = write(tmp_path / "b" / "other.csv", ROWS)
    first = config_hash(own(path))
    assert first == config_hash(own(moved))
    filled = own(path)  # as config.yaml has it
    assert first == config_hash(own(path, f"task.labels=[{','.join(filled.task.labels)}]", "task.score=accuracy"))
    other = write(tmp_path / "c.csv", [*ROWS[1:], ROWS[0]])
    different = [own(other), own(path, "task.labels=[pos,neg,neutral]"), own(path, "task.shares.validation=0.2")]
    assert len({first, *map(config_hash, different)}) == 4


PAIR = [{"text": f"a film {n}", "label": n % 2} for n in range(20)]


def test_splits_that_a_run_may_have_trained_on_are_not_scored(minilm_dir: Path, tmp_path: Path) -> None:
    """One row more, and all are drawn anew."""
    table = write(tmp_path / "t.csv", ROWS)
    folder, _ = train(own(table, "train.epochs=1", f"results_dir={tmp_path / 'runs'}", "device=cpu", "precision=fp32"))
    cut = own(table, "train.epochs=1", f"results_dir={tmp_path / 'runs'}", "device=cpu", "data.train_limit=20")
    models = [of_run(place, str(minilm_dir)) for place in (folder, train(cut)[0])]
    for model in models:
        model.config.data.dir = str(table)
    assert len(evaluate(models, ["validation"], None, "cpu")) == 8  # each against its own training rows
    for rows, names in ((ROWS, ["validation"]), ([*ROWS, ROWS[0]], ["validation"]), ([*ROWS, ROWS[0]], ["train"])):
        with open_trained(folder, data=str(write(table, rows))) as model:
            if rows is ROWS:
                assert evaluate([model], names, None, "cpu")[0]["value"] is not None
                continue
            for score in (lambda m, n: evaluate([m], n, None, "cpu"), lambda m, n: predict(m, n, None, [], "cpu")):
                with pytest.raises(SymloraError, match=r"has other rows in these data.*Give the run's own data"):
                    score(model, names)


def changed(row: int, **values: Any) -> list[dict[str, Any]]:
    return [*ROWS[: row - 1], {**ROWS[row - 1], **values}, *ROWS[row:]]


@pytest.mark.parametrize(
    ("rows", "overrides", "says"),
    [
        (changed(5, text=" "), [], r"t.jsonl: row 5, column text holds ' '"),
        (changed(5, text=None), [], "row 5, column text is empty"),
        (changed(7, text=12), [], "row 7, column text holds 12, which is not text"),
        (changed(9, label=None), [], "row 9, column label is empty or NaN"),
        (changed(9, label="NaN"), [], "row 9, column label is empty or NaN"),
        (changed(9, label=["pos"]), [], r"row 9, column label holds \['pos'\]: give one text"),
        (changed(9, label="once"), [], r"t\.jsonl: row 9 alone is of class 'once' \(column label\)"),
        (changed(9, label=float("nan")), ["task.regression=true"], "row 9, column label is empty or NaN"),
        (changed(9, label="bad"), ["task.labels=[neg,neutral,pos]"], "row 9, column label holds 'bad'; expected"),
        ([{**row, "label": "x"} for row in ROWS], [], "column label holds one class, 'x'"),
        ([{**row, "label": f"x{n}"} for n, row in enumerate(ROWS)], [], "60 different labels in 60 rows"),
        (changed(3, extra=1), [], "row 3 does not have the columns of row 1"),
        (ROWS, ["task.regression=true"], "row 1, column label holds 'neg'; expected a number"),
        (ROWS, ["task.columns=[body]"], "lacks the column body. It has: 'text', 'label'"),
        (ROWS, ["task.labels=[neg,pos,pos]"], "two or more different classes"),
        (ROWS, ["task.label=text"], "one of task.columns"),
        (ROWS, ["task.columns=[]"], "name one or two columns"),
        (ROWS, ["task.columns=[text,text]"], "two different columns"),
        (changed(9, label="${x"), [], r"column label: '\$\{x' cannot be the name of a class"),
        (ROWS, ["task.metrics=[accuracy,auroc]"], "auroc does not fit classes. Choose among: accuracy, macro_f1"),
        (PAIR, ["task.score=auroc", "task.metrics=[accuracy,auroc]"], "task.score=auroc"),
        (PAIR, ["task.metrics=[mae]"], "mae does not fit two classes.*f1"),
        (PAIR, ["task.labels=[0,1]", "task.regression=true"], "regression=true goes without task.labels"),
        ([{"text": "a", "label": n + 0.5} for n in range(10)], [], "validation has one row"),
        (changed(7, text="cut \ud83d"), [], "row 7, column text holds half a character"),
        (ROWS, ["task.shares.validation=0"], "no validation file"),
        (ROWS, ["task.shares.validation=1.5"], "sum to less than 1"),
        (ROWS, ["task.name=rte"], "cannot have a GLUE task's name"),
        (ROWS, ["data.dir=null"], "needs its table"),
        (ROWS, ["predict_test=true"], "there is no test split"),
        (ROWS, ["data.dir=nowhere.csv"], "nowhere.csv does not exist"),
    ],
)
def test_a_bad_table_is_one_message(tmp_path: Path, rows: Any, overrides: list[str], says: str) -> None:
    path = write(tmp_path / "t.jsonl", rows)
    with pytest.raises(SymloraError, match=says):
        own(path, *overrides)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"text,label\na,x\nb\n", "row 2 has 1 fields, the first line 2"),
        ("t.csv", b"text,label\na,x,y\n", "row 1 has 3 fields"),
        ("t.csv", b"text,text\na,x\n", "names a column twice"),
        ("t.csv", b"", "has no rows"),
        ("t.csv", b'text,label\n"Nice" he said,x\n', r"row 1: ',' expected after '\"'. Put a text"),
        ("t.tsv", b'text\tlabel\n"Not closed\tx\nb\ty\n', "row 1: unexpected end of data"),
        ("t.tsv", b'text\tlabel\n"Begins\tx\nends"\ty\n', "row 1 has a text with a tab and a line break"),
        ("t.csv", b"\n\ntext\na\n", "lacks the column label. It has: 'text'"),
        ("t.csv", b"text;label\na, b;x\n", "separated by semicolons"),
        ("t.json", b'[{"text": "a"},', r"t\.json is not valid JSON"),
        ("t.csv", b"text,label\n\xff\xfe,x\n", "UTF-8"),
        ("t.jsonl", b'{"text": "a"}\n{"text"\n', "row 2 is not valid JSON"),
        ("t.json", b"[]", "t.json has no rows"),
        ("t.json", b'[["a", "b"], ["c", "d"]]', "row 1 is not an object"),
        ("t.jsonl", b"1\n2\n", "row 1 is not an object"),
        ("t.parquet", b"PAR1", "cannot be read"),
        ("t.xlsx", b"PK", "unknown file type"),
    ],
)
def test_a_damaged_file_is_one_message(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SymloraError, match=says):
        own(tmp_path / name)


def test_no_row_of_a_file_is_lost(tmp_path: Path) -> None:
    """An empty line of one column is a row without text; JSON may hold other line breaks than a newline."""
    path, whole = tmp_path / "new.csv", own(write(tmp_path / "whole.csv", ROWS)).task
    path.write_text("text\nfirst\n\nthird\n\n")
    with pytest.raises(SymloraError, match="row 2, column text is empty"):
        read_rows([path], whole)
    path.write_text("text,label\nfirst,pos\n\nthird,neg\n")
    assert read_rows([path], whole).texts == (["first", "third"],)
    lines = tmp_path / "new.jsonl"
    lines.write_text("".join(json.dumps({"text": f"a\u2028b\x85{n}"}, ensure_ascii=False) + "\n" for n in range(3)))
    assert read_rows([lines], whole).texts[0][2] == "a\u2028b\x852"
    with pytest.raises(SymloraError, match=r"none.csv cannot be read: No such file"):
        read_rows([tmp_path / "none.csv"], whole)


def test_a_further_file_of_a_glue_regression_is_read(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": 4.5}, {"sentence1": "c", "sentence2": "d", "label": 1}]
    stsb = compose("task=stsb", "model=minilm").task
    assert read_rows([write(tmp_path / "new.csv", rows)], stsb).labels.tolist() == [4.5, 1.0]


def test_splits_of_a_hub_data_set_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train_r1": ROWS[:6], "train_r2": ROWS[6:30], "validation_matched": ROWS[:9], "trained": ROWS[:3]}
    loaded = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: loaded)
    monkeypatch.setenv("GLUE_DIR", str(tmp_path))  # is for GLUE's tasks
    config = compose(*OWN, "data.dataset=some/set", "data.revision=1234abcd", "task.columns=[text]")
    assert config.task.splits == {"train": 30, "validation": 9}


def test_a_split_that_the_data_lack_is_one_message(tmp_path: Path) -> None:
    config = own(write(tmp_path / "whole.csv", ROWS), "task.shares.test=0.2")
    config.task.shares = {"validation": 0.1}
    with pytest.raises(SymloraError, match=r"whole.csv has no split 'test': give a folder that has it"):
        load_splits(config.task, config.data, ["test"])


def test_a_table_without_rows_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame(ROWS[:0]).reindex(columns=["text", "label"]).to_parquet(path)
    for more in ([], ["task.regression=true"], ["task.labels=[neg,pos]"]):
        with pytest.raises(SymloraError, match=r"t\.parquet has no rows"):
            own(path, *more)
    with pytest.raises(SymloraError, match=r"t\.parquet has no rows"):  # evaluate --file
        read_rows([path], own(write(tmp_path / "whole.csv", ROWS)).task)


def test_a_file_that_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "t.csv", "wb") as file:
        os.truncate(file.fileno(), 10 * 2**30)  # sparse
    with pytest.raises(SymloraError, match=r"t.csv has 10.0 GiB"):
        own(tmp_path / "t.csv")


def test_cola_as_a_csv_with_names_is_cola(minilm_dir: Path, glue_dir: Path, tmp_path: Path) -> None:
    """Seed for seed: losses, scores, predictions and weights."""
    (tmp_path / "cola").mkdir()
    (tmp_path / "mine").mkdir()
    for split, rows in (("train", 48), ("validation", 40)):
        [file] = glue_dir.glob(f"cola/{split}-*.parquet")
        table = pq.read_table(file).slice(0, rows)
        pq.write_table(table, tmp_path / "cola" / f"{split}-00000-of-00001.parquet")
        named = [{"says": row["sentence"], "verdict": ("bad", "good")[row["label"]]} for row in table.to_pylist()]
        write(tmp_path / "mine" / f"{split}.csv", named)
    common = ["model=minilm", "protocol=short", "train.epochs=2", "device=cpu", "precision=fp32", "seed=3",
              f"results_dir={tmp_path / 'runs'}", f"data.cache_dir={tmp_path / 'tokens'}"]  # fmt: skip
    glue, record = train(compose("task=cola", f"data.dir={tmp_path}", "data.allow_subset=true", *common))
    metrics = "task.metrics=[matthews_correlation,accuracy]"
    named_so = ["task.label=verdict", metrics, "task.name=mine"]
    mine, again = train(own(tmp_path / "mine", *named_so, *common, columns="says"))
    for name in ("predictions.parquet", "norms.parquet", "adapter/adapter_model.safetensors"):
        assert (glue / name).read_bytes() == (mine / name).read_bytes(), name
    assert [epoch["train_loss"] for epoch in record["epochs"]] == [epoch["train_loss"] for epoch in again["epochs"]]
    assert record["selections"] == again["selections"] and again["score"]["metric"] == "matthews_correlation"
    assert again["config"]["task"]["labels"] == ["bad", "good"]
    assert sum(again["data"]["train"]["classes"].values()) == 48
    assert str(tmp_path) not in (mine / "run.json").read_text()
