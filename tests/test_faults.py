"""Fault injection: the quick part of `make faults`, and its own checks. About half a minute of one core."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import ROOT
from faults.children import Ended
from faults.damage import FLIPS, HEADERS, PLANS, RECORDS, VERSIONS, named_by_content
from faults.kills import spread
from faults.runs import Watch, left_behind, results_of, trained_anew
from faults.session import Session, unclear

RNG = random.Random(0)


def test_nothing_is_lost_and_every_message_is_clear() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "faults", "--quick"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    kills, bad = ended.stdout.splitlines()[-2:]
    assert ended.returncode == 0, ended.stdout + ended.stderr
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
        (1, "error: train.lr=0: give a rate above 0.", ""),
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
    for kind, status, err, right in (
        ("files", 0, "", True),
        ("files", 1, "error: x", False),
        ("files", 1, "error: x", True),
        ("files", 1, "Traceback (most recent call last):\nx", False),
        ("disks", 0, "", False),
    ):
        session.judge(kind, "a try", Ended(status, "", err, 0.0), ["x"], right)
    assert (session.harmless, session.clear, session.bad) == (1, 2, {"files": 4, "disks": 1})
    assert {fault: len(found) for fault, found in session.faults.items()} == {"traceback": 1, "unclear": 1}


@pytest.mark.parametrize("status", [0, 1, -9])
def test_a_command_that_did_not_end_well_is_seen(status: int) -> None:
    session = Session()
    session.check_end(Ended(status, "", "", 0.0), "a command", [0, 1])
    session.check_end(Ended(0, "", "Traceback (most recent call last):", 0.0), "a command")
    assert len(session.faults["did not end well"]) == (2 if status == -9 else 1)


@pytest.mark.parametrize(
    ("changed", "kills", "bad", "said"),
    [
        ({}, 3, 2, ""),
        ({"kills": {}, "ends": 0, "resumed": 0}, 0, 2, ""),
        ({"resumed": 0}, 3, 2, "no run was taken up from a checkpoint"),
        ({}, 4, 2, "3 of 4 kills were made"),
        ({}, 3, 3, "2 of 3 bad inputs were tried"),
        *(
            ({"fault": name}, 3, 2, f"{name}: a/seed-0")
            for name in (
                "lost",
                "counted twice",
                "differs",
                "left behind",
                "trained anew beside a checkpoint",
                "unclear",
            )
        ),
    ],
)
def test_what_went_wrong_or_was_not_tried_is_a_fault(
    changed: dict[str, Any], kills: int, bad: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Session(ends=changed.get("ends", 3), resumed=changed.get("resumed", 1))
    session.kills.update(changed.get("kills", {"packs": 3}))
    session.bad.update({"files": 2})
    if "fault" in changed:
        session.add(changed["fault"], "a command", ["a/seed-0"])
    assert session.report(kills, bad) == (1 if said else 0)
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
