"""Check the pages' tables against configuration, code and committed runs."""

import copy
import json
import math
import re
from dataclasses import fields, is_dataclass

import hydra
import pyarrow.parquet as pq
from conftest import ROOT
from omegaconf import OmegaConf

from symlora.config.compose import CONFIG_DIR, compose
from symlora.config.identity import pack_key
from symlora.store.folder import run_folder
from symlora.store.listing import HEADER
from symlora.submission.files import LINES, files
from symlora.sweep.grid import expand

DOCS = ROOT / "docs"
PROTOCOLS = {
    "epoch by": "protocol.selection", "held out": "protocol.held_out", "lr": "train.lr", "head_lr": "train.head_lr",
    "batch": "train.batch_size", "epochs": "train.epochs", "warm-up": "train.warmup_ratio",
    "decay": "train.weight_decay", "clip": "train.max_grad_norm", "dropout": "train.model_dropout",
    "length": "data.max_length", "rows": "data.train_limit",
}  # fmt: skip
UNSET = {"head_lr": "as lr", "dropout": "the model's", "rows": "all"}


def table(page: str, head: str) -> list[dict[str, str]]:
    """Read the table of a page whose head begins with `head`."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head} |"))
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[start:]]
    end = next((number for number, line in enumerate(lines[start:]) if not line.startswith("|")), len(cells))
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:end]]


def test_protocols_have_these_values() -> None:
    common = {row.pop("protocol"): row for row in table("protocols.md", "protocol | epoch by")}
    recipes = {row.pop("task: lr, batch, epochs"): row for row in table("protocols.md", "task: lr, batch, epochs")}
    assert set(recipes) == names("task") - {"custom"} and set(common) == set(recipes["rte"]) == names("protocol")
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        composed = {name: hydra.compose("config", [f"protocol={name}", "method=symlora"]) for name in common}
    for name, config in composed.items():
        for task, row in recipes.items():
            config.task.name = task  # all that a protocol asks of its task
            train = config.train
            assert [float(cell) for cell in row[name].split(", ")] == [train.lr, train.batch_size, train.epochs]
            for column, cell in common[name].items():
                value = OmegaConf.select(config, PROTOCOLS[column])
                if value is None or isinstance(value, str):
                    assert cell == (value or UNSET[column]), (name, column)
                elif cell != "by task" or column not in ("lr", "batch", "epochs"):  # these are in the other table
                    assert float(cell) == value, (name, column)


def names(group: str) -> set[str]:
    return {path.stem for path in (CONFIG_DIR / group).glob("*.yaml")}


def test_the_demos_columns_and_configurations_are_shown() -> None:
    page = (DOCS / "get-started.md").read_text()
    (block,) = re.findall(r"^    protocol demo, model minilm\n((?:    .+\n)+)", page, re.MULTILINE)
    head, *rows = (line.split() for line in block.splitlines())
    assert head == list(HEADER)
    runs = expand("sweep=demo", "results_dir=nowhere")
    expected = {(run.task.name, run.method.name, run_folder(run).parent.name.rpartition("_")[2]) for run in runs}
    assert {(row[0], row[2], row[-1]) for row in rows} == expected


def test_run_folder_has_no_other_key_or_column() -> None:
    named = set(re.findall(r"`([\w-]+)`", (DOCS / "run-folder.md").read_text()))
    folder = next((ROOT / "results" / "runs").glob("archive/short_holdout/minilm/symlora/*/*/seed-0"))
    record = json.loads((folder / "run.json").read_text())
    parts = [record[part] for part in ("provenance", "parameters", "score", "cost", "selections")]
    keys = {key for part in [record, *parts, record["epochs"][0], record["data"]["train"]] for key in part}
    keys |= {name for file in ("predictions", "norms") for name in pq.read_schema(folder / f"{file}.parquet").names}
    assert keys <= named, keys - named


def test_submission_has_these_files() -> None:
    rows = table("submission.md", "file")
    assert [(row["file"], int(row["rows"].replace(",", ""))) for row in rows] == [(f.name, f.rows) for f in files()]
    for row, file in zip(rows, files(), strict=True):
        assert not file.words or set(file.words) == set(re.split(r", | or ", row["prediction"]))
        assert file.name == "WNLI.tsv" or row["from"].startswith(f"{file.task}, {file.split}")
    assert f"**{LINES:,} lines**" in (DOCS / "submission.md").read_text()


def test_paper_needs_these_steps() -> None:
    recipe = OmegaConf.load(CONFIG_DIR / "protocol" / "paper.yaml").protocol.recipe
    *rows, total = table("reproduce.md", "task")
    steps = 0
    for row in rows:
        task = row["task"].lower().replace("-", "")
        train = OmegaConf.load(CONFIG_DIR / "task" / f"{task}.yaml").splits.train
        expected = math.ceil(train / recipe[task].batch_size) * recipe[task].epochs
        assert (row["training rows"], row["steps a run"]) == (f"{train:,}", f"{expected:,}"), task
        steps += expected
    assert total["steps a run"] == f"{steps:,}"
    assert int(total["PFLOP a run"]) == sum(int(row["PFLOP a run"]) for row in rows)


def test_runs_of_one_pack_differ_in_these_keys() -> None:
    rows = {row["part"]: row["what may differ"].split(", ") for row in table("packed-training.md", "part")}
    base = compose("task=rte")
    for part, named in rows.items():
        for field in fields(base if part == "run" else getattr(base, part)):
            other = copy.deepcopy(base)
            changed = other if part == "run" else getattr(other, part)
            if not is_dataclass(getattr(changed, field.name)):
                setattr(changed, field.name, "other")
                assert (pack_key(other) == pack_key(base)) == (field.name in named), (part, field.name)
