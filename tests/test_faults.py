"""Fault injection: the quick part of `make faults`, and its own checks. About half a minute of one core."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from faults.children import Ended
from faults.damage import versions
from faults.judge import Verdicts, unclear
from faults.kills import spread
from faults.runs import Watch, left_behind

ROOT = Path(__file__).resolve().parents[1]


def test_nothing_is_lost_and_every_message_is_clear() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "faults", "--quick"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    kills, bad = ended.stdout.splitlines()[-2:]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert kills.endswith("runs lost 0, runs counted twice 0, resumed runs that differ 0")
    assert bad == "bad inputs tried 10, tracebacks shown 0, unclear messages 0"


def write(root: Path, name: str, seed: int, status: str = "finished") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    group = {"name": "x"}
    config = {"protocol": group, "model": group, "method": group, "task": group, "seed": seed}
    record = {"schema_version": 1, "status": status, "config": config, "config_hash": "0", "score": {"value": seed}}
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
