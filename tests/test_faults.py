"""Fault injection: the quick part of `make faults`, and its own checks. About half a minute of one core."""

import json
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import ROOT, run_program
from faults.children import Ended
from faults.damage import FLIPS, HEADERS, PLANS, RECORDS, VERSIONS, named_by_content
from faults.kills import spread
from faults.runs import Watch, left_behind, results_of, trained_anew
from faults.session import Session, unclear
from report_runs import edit_run, write_run

RNG = random.Random(0)


def test_nothing_is_lost_and_every_message_is_clear() -> None:
    ended = run_program(sys.executable, "-m", "faults", "--quick", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    kills, bad = ended.stdout.splitlines()[-2:]
    assert kills.startswith("kills tried 6 (single runs 6, ")
    assert kills.endswith("runs lost 0, runs counted twice 0, resumed runs that differ 0")
    assert re.search(r"[1-9]\d* of them taken up from a checkpoint", ended.stdout)
    assert bad == "bad inputs tried 10, tracebacks shown 0, unclear messages 0"


def test_a_lost_a_changed_and_a_doubled_run_are_seen(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, seed=seed) for seed in (0, 1)]
    first, second = (str(folder.relative_to(tmp_path)) for folder in folders)
    expected = results_of(tmp_path)
    watch = Watch(tmp_path)
    watch.look()
    assert watch.end(expected) == [] and watch.lost == [] and watch.twice == []
    edit_run(folders[1], lambda record: record["score"].update(value=2))
    assert watch.end(expected) == [f"{second}: score"]
    assert watch.lost == [f"{second} was finished, and has changed: score"]
    (folders[0] / "run.json").unlink()
    watch.look()
    assert f"{first} was finished, and is gone" in watch.lost
    assert f"{first}: a folder without a readable record" in watch.twice
    shutil.copytree(folders[1], tmp_path / "b" / "seed-1")
    watch.look()
    assert any(sentence.endswith("2 folders") for sentence in watch.twice)


def test_what_a_kill_left_and_what_trained_anew_is_seen(tmp_path: Path) -> None:
    for name in (".checkpoints", ".locks"):
        (tmp_path / name).mkdir()
    (tmp_path / ".locks" / "a.lock").touch()
    first, second = (write_run(tmp_path, seed=seed) for seed in (0, 1))
    edit_run(first, lambda record: record["cost"].update(restarts=1))
    assert left_behind(tmp_path) == [] and trained_anew(tmp_path) == [str(second.relative_to(tmp_path))]
    (tmp_path / "a" / ".seed-2.1234").mkdir(parents=True)
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
        ({"fault": "lost"}, "lost: a/seed-0"),
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
