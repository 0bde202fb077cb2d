"""Fault injection: the quick part of `make faults`, and its own checks. About half a minute of one core."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from faults.__main__ import say
from faults.children import Ended
from faults.damage import versions
from faults.judge import Verdicts, unclear
from faults.kills import Tally, spread
from faults.odd import HEADERS, PLANS, RECORDS, named_by_content
from faults.runs import Watch, left_behind, trained_anew

ROOT = Path(__file__).resolve().parents[1]


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


def write(root: Path, name: str, seed: int, status: str = "finished") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    group = {"name": "x"}
    train = {"lr": 1e-3, "batch_size": 8, "epochs": 1}
    config = {"protocol": group, "model": group, "method": group, "task": group, "seed": seed, "train": train}
    record = {"schema_version": 1, "status": status, "config": config, "config_hash": "0", "score": {"value": seed}}
    record |= {"selections": {}, "cost": {"seconds": 1.0}, "parameters": {"adapter": 1, "total": 1}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_lost_a_changed_and_a_doubled_run_are_seen(tmp_path: Path) -> None:
    from faults.runs import results_of

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


def test_what_a_kill_left_is_seen(tmp_path: Path) -> None:
    write(tmp_path, "a/.seed-0.1234", 0)
    (tmp_path / ".checkpoints").mkdir()
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".locks" / "a.lock").touch()
    assert left_behind(tmp_path) == ["a/.seed-0.1234"]
    (tmp_path / ".checkpoints" / "x.safetensors").touch()
    assert len(left_behind(tmp_path)) == 2


@pytest.mark.parametrize(
    ("status", "err", "expected"),
    [
        (1, "error: train.lr=0: give a rate above 0.", ""),
        (1, "  epoch 1/2\nerror: train.lr=0: give a rate above 0.", ""),
        (1, "error: something is wrong.", "names none"),
        (1, "", "without a message"),
        (1, "error: train.lr\n" + "line\n" * 20, "21 lines"),
        (-11, "train.lr", "ended by signal 11"),
        (0, "WARNING: train.lr is odd", ""),
        (0, "fine", "changed in silence"),
    ],
)
def test_unclear_messages_are_seen(status: int, err: str, expected: str) -> None:
    found = unclear(Ended(status, "", err, 0.0), ["train.lr"])
    assert expected in found if expected else found == ""


def test_verdicts_are_counted_apart() -> None:
    verdicts = Verdicts()
    verdicts.enter("files", "a", Ended(0, "", "", 0.0), ["x"], same=True)
    verdicts.enter("files", "b", Ended(1, "", "error: x", 0.0), ["x"], same=False)
    verdicts.enter("files", "c", Ended(1, "", "Traceback (most recent call last):\nx", 0.0), ["x"], same=False)
    verdicts.enter("disks", "d", Ended(0, "", "", 0.0), ["x"], same=False)
    assert (verdicts.harmless, verdicts.clear, len(verdicts.tracebacks), len(verdicts.unclear)) == (1, 1, 1, 1)
    assert verdicts.tried == {"files": 3, "disks": 1}


def test_every_version_is_damaged_and_points_are_spread() -> None:
    content = bytes(range(200))
    made = [changed for _, changed in versions(content, random.Random(0))]
    assert content not in made and len(set(made)) == len(made) == 6
    assert spread(3, 10, random.Random(0)) == [1, 2, 3]
    chosen = spread(100, 10, random.Random(0))
    assert [(point - 1) // 10 for point in chosen] == list(range(10))


@pytest.mark.parametrize(
    ("tally", "kills", "bad", "said"),
    [
        (Tally({"packs": 3}, ends=3, resumed=1), 3, 2, ""),
        (Tally(), 0, 2, ""),
        (Tally({"packs": 3}, ends=3), 3, 2, "no run was taken up from a checkpoint"),
        (Tally({"packs": 3}, ends=3, resumed=1), 4, 2, "3 of 4 kills were made"),
        (Tally({"packs": 3}, ends=3, resumed=1), 3, 3, "2 of 3 bad inputs were tried"),
        (Tally({"packs": 3}, ends=3, resumed=1, left=["x.safetensors"]), 3, 2, "left behind: x.safetensors"),
        (Tally({"packs": 3}, ends=3, resumed=1, anew=["a/seed-0"]), 3, 2, "trained anew beside a checkpoint: a/seed-0"),
    ],
)
def test_what_was_not_tried_is_a_fault(
    tally: Tally, kills: int, bad: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = Verdicts()
    verdicts.tried["files"] = 2
    assert say(tally, verdicts, kills, bad) == (1 if said else 0)
    assert said in capsys.readouterr().out


def test_runs_that_trained_anew_are_seen(tmp_path: Path) -> None:
    for seed, restarts in enumerate((1, 0)):
        path = write(tmp_path, f"a/seed-{seed}", seed) / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "cost": {"restarts": restarts}}))
    assert trained_anew(tmp_path) == ["a/seed-1"]


def test_odd_content_is_another_and_can_be_read(tmp_path: Path) -> None:
    record = {"status": "finished", "files": {}, "sha256": "", "score": {"value": 1}, "config": {"protocol": {}}}
    said = {"steps": 3, "runs": ["a"], "trained": False, "fingerprint": {}, "format": 1, "seconds": 1.0, "restarts": 0}
    checkpoint = safetensors.numpy.save({"0": np.ones(3, np.float32)}, {"symlora": json.dumps(said)})
    for odd, content in ((RECORDS, json.dumps(record).encode()), (PLANS, b'["a", "b"]'), (HEADERS, checkpoint)):
        made = [change(content) for _, change in odd]
        assert content not in made and len(set(made)) == len(made)
    for _, change in HEADERS:
        path = named_by_content(tmp_path / "pack.0.safetensors", change(checkpoint))
        path.write_bytes(change(checkpoint))
        with safetensors.safe_open(path, framework="np") as file:
            assert json.loads(file.metadata()["symlora"]) != said and file.get_tensor("0").tolist() == [1.0] * 3
