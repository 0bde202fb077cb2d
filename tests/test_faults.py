"""Fault injection: the quick part of `make faults`, and its own checks. About half a minute of one core."""

import json
import random
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.numpy
from conftest import ROOT, run_program
from faults.children import Ended
from faults.damage import FLIPS, HEADERS, PLANS, RECORDS, VERSIONS, named_by_content
from faults.files import write_glue
from faults.kills import spread
from faults.runs import Watch, left_behind, results_of, trained_anew
from faults.session import Session, unclear

from symlora.config.compose import compose
from symlora.config.schema import Config
from symlora.data.splits import load_splits
from symlora.errors import SymloraError

RNG = random.Random(0)


def test_nothing_is_lost_and_every_message_is_clear() -> None:
    ended = run_program(sys.executable, "-m", "faults", "--quick", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    kills, bad = ended.stdout.splitlines()[-2:]
    assert kills.startswith("kills tried 6 (single runs 6, ")
    assert kills.endswith("runs lost 0, runs counted twice 0, resumed runs that differ 0")
    assert re.search(r"[1-9]\d* of them taken up from a checkpoint", ended.stdout)
    assert bad == "bad inputs tried 10, tracebacks shown 0, unclear messages 0"


def write(root: Path, name: str, seed: int, restarts: int = 0) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    group = {"name": "x"}
    train = {"lr": 1e-3, "batch_size": 8, "epochs": 1}
    config = {"protocol": group, "model": group, "method": group, "task": group, "seed": seed, "train": train}
    record = {"schema_version": 1, "status": "finished", "config": config, "config_hash": "0", "score": {"value": seed}}
    record |= {"selections": {}, "cost": {"restarts": restarts}, "parameters": {"adapter": 1, "total": 1}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_lost_a_changed_and_a_doubled_run_are_seen(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a/seed-0", 0), write(tmp_path, "a/seed-1", 1)
    expected = results_of(tmp_path)
    watch = Watch(tmp_path)
    watch.look()
    assert watch.end(expected) == [] and watch.lost == [] and watch.twice == []
    (second / "run.json").write_text((second / "run.json").read_text().replace('"value": 1', '"value": 2'))
    assert watch.end(expected) == ["a/seed-1: score"]
    assert watch.lost == ["a/seed-1 was finished, and has changed: score"]
    (first / "run.json").unlink()
    watch.look()
    assert "a/seed-0 was finished, and is gone" in watch.lost
    assert "a/seed-0: a folder without a readable record" in watch.twice
    write(tmp_path, "b/seed-1", 1)
    watch.look()
    assert any(sentence.endswith("2 folders") for sentence in watch.twice)


def test_what_a_kill_left_and_what_trained_anew_is_seen(tmp_path: Path) -> None:
    for name in (".checkpoints", ".locks"):
        (tmp_path / name).mkdir()
    (tmp_path / ".locks" / "a.lock").touch()
    write(tmp_path, "a/seed-0", 0, restarts=1)
    write(tmp_path, "a/seed-1", 1)
    assert left_behind(tmp_path) == [] and trained_anew(tmp_path) == ["a/seed-1"]
    write(tmp_path, "a/.seed-2.1234", 2)
    (tmp_path / ".checkpoints" / "x.safetensors").touch()
    assert left_behind(tmp_path) == ["a/.seed-2.1234", ".checkpoints/x.safetensors"]


@pytest.mark.parametrize(
    ("status", "err", "expected"),
    [
        (1, "  epoch 1/2\nerror: train.lr=0: give a rate above 0.", ""),
        (1, "train.lr=0\nerror: something is wrong.", "names none"),
        (1, "", "without a message"),
        (1, "error: train.lr\n" + "line\n" * 20, "21 lines"),
        (-11, "train.lr", "ended by signal 11"),
        (0, "WARNING: train.lr is odd", ""),
        (0, "WARNING: odd", "names none"),
        (0, "train.lr is fine", "changed in silence"),
    ],
)
def test_unclear_messages_are_seen(status: int, err: str, expected: str) -> None:
    found = unclear(Ended(status, "", err, 0.0), ["train.lr"])
    assert expected in found if expected else found == ""


def test_answers_to_bad_input_are_counted_apart() -> None:
    session = Session()
    for status, err, right in (
        (0, "", True),
        (1, "error: x", False),
        (1, "error: x", True),
        (1, "Traceback (most recent call last):\nx", False),
        (0, "", False),
    ):
        session.judge("files", "a try", Ended(status, "", err, 0.0), ["x"], right)
    assert (session.harmless, session.clear, session.bad) == (1, 2, {"files": 5})
    assert {fault: len(found) for fault, found in session.faults.items()} == {"traceback": 1, "unclear": 1}


FAULTS = ("lost", "counted twice", "differs", "left behind", "trained anew beside a checkpoint", "unclear")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"kills": 0, "resumed": 0}, ""),
        ({"resumed": 0}, "3 kills, and no run was taken up from a checkpoint"),
        ({"kills": 2}, "2 of 3 kills were made"),
        ({"bad": 1}, "1 of 2 bad inputs were tried"),
        ({"status": 1}, "did not end well: status 1"),
        ({"err": "Traceback (most recent call last):"}, "did not end well: status 0"),
        *(({"fault": name}, f"{name}: a/seed-0") for name in FAULTS),
    ],
)
def test_what_went_wrong_or_was_not_tried_is_a_fault(
    changed: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"kills": 3, "bad": 2, "resumed": 1, "status": 0, "err": "", **changed}
    session = Session(resumed=given["resumed"])
    session.kills.update({"packs": given["kills"]})
    session.bad.update({"files": given["bad"]})
    session.check_end(Ended(given["status"], "", given["err"], 0.0), "a command")
    if "fault" in changed:
        session.add(changed["fault"], "a command", ["a/seed-0"])
    assert session.report(3 if given["kills"] else 0, 2) == (1 if said else 0)
    assert said in capsys.readouterr().out


def test_points_are_spread() -> None:
    assert spread(3, 10, RNG) == [1, 2, 3]
    assert [(point - 1) // 10 for point in spread(100, 10, RNG)] == list(range(10))


def test_damaged_and_odd_content_is_another_and_the_odd_can_be_read(tmp_path: Path) -> None:
    record = {"status": "finished", "files": {}, "sha256": "", "score": {"value": 1}, "config": {"protocol": {}}}
    said = {"steps": 3, "runs": ["a"], "trained": False, "made_with": {}, "format": 1, "seconds": 1.0, "restarts": 0}
    checkpoint = safetensors.numpy.save({"0": np.ones(3, np.float32)}, {"symlora": json.dumps(said)})
    for changes, content in (
        ((*VERSIONS, *FLIPS), bytes(range(200))),
        (RECORDS, json.dumps(record).encode()),
        (PLANS, b'["a", "b"]'),
        (HEADERS, checkpoint),
    ):
        made = [change(content, RNG) for _, change in changes]
        assert content not in made and len(set(made)) == len(made)
    for _, change in HEADERS:
        path = named_by_content(tmp_path / "pack.0.safetensors", change(checkpoint, RNG))
        path.write_bytes(change(checkpoint, RNG))
        with safetensors.safe_open(path, framework="np") as file:
            assert json.loads(file.metadata()["symlora"]) != said and file.get_tensor("0").tolist() == [1.0] * 3


@pytest.fixture(scope="module")
def rte(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path, pd.DataFrame]:
    """A configuration, the file of its validation split, and what belongs in it."""
    folder = tmp_path_factory.mktemp("glue")
    write_glue(folder)
    path = folder / "rte" / "validation-00000-of-00001.parquet"
    config = compose("task=rte", "data.source=glue", f"data.dir={folder}")
    table = pd.read_parquet(path)
    assert len(load_splits(config.task, config.data, ["validation"])["validation"]) == len(table)
    return config, path, table


def holding(column: str, value: Any, table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{column: [value] * len(table)})


def labelled(label: int, table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(label=[label, *table["label"][1:]])


def renamed(column: str, name: str, table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={column: name})


NAMES = ("x", "Label", "label ", "sentence", "a/b", "名前", "é\u0301", "\u200b", "entailment", "0")
DAY = pd.Timestamp("2026-01-01")


@pytest.mark.parametrize(
    "change",
    [
        *(partial(holding, f"sentence{n}", value) for n in (1, 2) for value in (["a"], b"a\xff", 0.5, 0, None, DAY)),
        *(partial(holding, name, value) for name in ("label", "idx") for value in (["a"], 0.5, "0", True, None, DAY)),
        lambda table: table.astype({"sentence1": "category"}),
        *(partial(labelled, label) for label in (2, 2**62, -(2**62))),
        *(partial(renamed, ("sentence2", "label")[n % 2], name) for n, name in enumerate(NAMES)),
    ],
)
def test_a_made_up_data_file_is_refused_by_its_name(
    change: Callable[[pd.DataFrame], pd.DataFrame], rte: tuple[Config, Path, pd.DataFrame]
) -> None:
    config, path, table = rte
    change(table).to_parquet(path)
    with pytest.raises(SymloraError, match=path.name):
        load_splits(config.task, config.data, ["validation"])
