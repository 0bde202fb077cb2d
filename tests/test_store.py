"""The results store: checksums, locks, and what a killed process leaves behind."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from test_run import small, train

from symlora.cli import main
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.runner.reporter import Reporter
from symlora.runner.run import is_out_of_memory, run_pack
from symlora.store import folder as results
from symlora.store.locks import Busy, holder, locked
from symlora.store.publish import begin, recover
from symlora.store.verify import verify
from symlora.sweep.status import run_status
from symlora.training import loop


def one(tmp_path: Path, *overrides: str) -> Config:
    """The run of `finished`, or one like it."""
    return small(tmp_path, "task=rte", "train.epochs=1", *overrides)


def quiet(*configs: Config) -> list[Reporter]:
    return [Reporter(config, quiet=True) for config in configs]


@pytest.fixture(scope="module")
def finished(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A results folder with one finished run, and that run's folder."""
    root = tmp_path_factory.mktemp("finished")
    folder, record = train(one(root))
    assert record["status"] == "finished"
    return root, folder


@pytest.fixture
def folder(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of that run's folder below tmp_path, to be changed."""
    root, folder = finished
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path / folder.relative_to(root)


def test_every_file_is_hashed_and_any_change_is_found(folder: Path, tmp_path: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"run.json", *record["files"]} and len(files) >= 6
    found = verify(tmp_path / "runs")
    assert (found.runs, found.files, found.problems) == (1, len(files) - 1, [])
    for name in sorted(files):
        path = folder / name
        content = path.read_bytes()
        spoiled = bytearray(content)
        spoiled[len(content) // 2] ^= 1
        for bad in (bytes(spoiled), content[:-2], b""):
            path.write_bytes(bad)
            problems = verify(tmp_path / "runs").problems
            assert len(problems) == 1 and name in problems[0], (name, problems)
            if bad:  # not trained over, and not passed over in silence
                with pytest.raises(SymloraError, match="damaged|cannot be read"):
                    results.finished_record(one(tmp_path))
        path.unlink()
        assert len(lost := verify(tmp_path / "runs").problems) == 1 and name in lost[0]
        path.write_bytes(content)


@contextmanager
def held_by_another(root: Path, folder: Path) -> Iterator[int]:
    """Let another process hold a run's lock within the block, and kill it at the end; yields its number."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        with locked(root, folder):
            ready.set()
            signal.pause()

    other = context.Process(target=hold)
    other.start()
    try:
        assert ready.wait(20) and other.pid is not None
        yield other.pid
    finally:
        other.kill()
        other.join()


def test_a_lock_is_one_process_s_and_ends_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "seed-0"
    with held_by_another(tmp_path, folder) as number:
        said = holder(tmp_path, folder)
        assert said is not None and said["process"] == number
        (lock,) = (tmp_path / ".locks").glob("*.lock")
        lock.chmod(0o444)  # as another user's
        assert holder(tmp_path, folder) == said
        lock.chmod(0o644)
        with pytest.raises(Busy, match=f"process {number} on"), locked(tmp_path, folder, wait=0):
            pass
        with locked(tmp_path, tmp_path / "a" / "seed-1"):  # another run's
            pass
    assert holder(tmp_path, folder) is None  # nobody has to wait for a dead process
    with locked(tmp_path, folder, wait=0):
        pass


def test_a_lock_that_says_odd_things_is_a_lock(tmp_path: Path) -> None:
    config = one(tmp_path)
    folder, root = results.run_folder(config), tmp_path / "runs"
    with held_by_another(root, folder):
        (lock,) = (root / ".locks").glob("*.lock")
        for said in (
            b'{"host": "a", "process": 1e999, "since": 0}',
            *(b'{"host": "a", "process": 1, "since": %b}' % since for since in (b"1e20", b"-1e20", b"1e999", b"NaN")),
            b'{"host": ["a"], "process": null, "since": "now"}',
            *(b"[]", b"\xff\xfe", b""),
        ):
            lock.write_bytes(said)
            assert run_status("seeds", config, time.time()).state == "running"
            with pytest.raises(Busy, match=r"0 on \? has been training it since 2"), locked(root, folder, wait=0):
                pass


def test_a_run_that_another_process_trains_is_left_to_it(minilm_dir: Path, tmp_path: Path) -> None:
    mine, theirs = one(tmp_path), one(tmp_path, "seed=1")
    folder = results.run_folder(theirs)
    with held_by_another(tmp_path / "runs", folder) as number:
        (_, trained), (place, busy) = run_pack([mine, theirs], quiet(mine, theirs))
        assert trained["status"] == "finished" and place == folder
        assert busy["status"] == "busy" and f"process {number}" in busy["error"]
        assert [run_status("seeds", config, 1e12).state for config in (mine, theirs)] == ["finished", "running"]
    assert run_status("seeds", theirs, 1e12).state == "missing"


def test_what_a_kill_between_two_renames_hides_comes_back(folder: Path, tmp_path: Path) -> None:
    record = results.read_run(folder)
    os.rename(folder, folder.with_name(".seed-0.old.1234"))
    half = folder.with_name(".seed-0.5678")
    half.mkdir()
    (half / "run.json").write_text('{"schema_version": 1, "status": "running"}')
    assert len(verify(tmp_path / "runs").problems) == 2
    assert train(one(tmp_path)) == (folder, record)  # nothing is trained: the run is there
    assert verify(tmp_path / "runs").problems == [] and not list(folder.parent.glob(".*"))


def test_a_failed_run_comes_back_too_but_never_before_a_finished_one(folder: Path, tmp_path: Path) -> None:
    record = results.read_run(folder)
    assert record is not None
    failed = folder.with_name(".seed-0.5678")
    shutil.copytree(folder, failed)
    results.seal(failed, {**record, "status": "failed"})  # the younger of the two
    hidden = folder.with_name(".seed-0.old.1234")
    os.rename(folder, hidden)
    shutil.copytree(failed, tmp_path / "copy")
    recover(folder)
    assert results.read_run(folder) == record and not failed.exists()
    shutil.rmtree(folder)
    shutil.move(tmp_path / "copy", failed)
    recover(folder)
    assert (results.read_run(folder) or {})["status"] == "failed" and not failed.exists()


def test_what_is_being_written_is_no_leftover(folder: Path, tmp_path: Path) -> None:
    work = begin(folder.with_name("seed-3"))
    assert "left by a process that was killed" in verify(tmp_path / "runs").problems[0]
    with held_by_another(tmp_path / "runs", folder.with_name("seed-3")):
        assert verify(tmp_path / "runs").problems == [] and work.exists()


def test_a_run_cut_short_is_not_called_finished(folder: Path, tmp_path: Path) -> None:
    config = one(tmp_path)
    assert run_status("seeds", config, 0.0).state == "finished"
    (folder / "predictions.parquet").write_bytes(b"")
    assert run_status("seeds", config, 0.0).state == "failed"


@pytest.mark.parametrize("spoil", ["", "{", "[]", {"schema_version": 99}, {"status": "failed"}, {"sha256": None}])
def test_a_record_that_was_changed_is_no_record(spoil: Any, folder: Path, tmp_path: Path) -> None:
    record = results.read_run(folder)
    assert record is not None
    text = spoil if isinstance(spoil, str) else json.dumps(record | spoil)
    (folder / "run.json").write_text(text)
    assert results.read_run(folder) is None and not results.is_finished(folder)
    assert list(results.scan(tmp_path)) == []


def test_what_another_process_of_the_sweep_settled_is_not_trained_again(
    minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = one(tmp_path, "train.lr=1e30")
    forced = one(tmp_path, "force=true")
    began = time.time() - 1
    (_, failed), (_, repeated) = train(fails), train(forced)
    assert (failed["status"], repeated["status"]) == ("failed", "finished")
    assert not results.is_finished(results.run_folder(fails))
    monkeypatch.setattr("symlora.runner.run.fit_pack", lambda *_, **__: pytest.fail("trained again"))
    for config in (fails, forced):
        stored = results.read_run(results.run_folder(config))
        assert run_pack([config], quiet(config), began)[0][1] == stored
        with monkeypatch.context() as patched:
            patched.setattr("symlora.runner.run.fit_pack", lambda *_, **__: [RuntimeError("trained again")])
            for later in ((), (time.time() + 1,)):  # by itself, and in the next sweep
                assert "trained again" in run_pack([config], quiet(config), *later)[0][1]["error"]


def test_a_damaged_leftover_takes_no_place(folder: Path, tmp_path: Path) -> None:
    hidden = folder.with_name(".seed-0.old.1234")
    os.rename(folder, hidden)
    (hidden / "predictions.parquet").write_bytes(b"")
    recover(folder)
    assert not folder.exists() and not hidden.exists()


def test_a_pack_without_memory_is_trained_in_two_halves(
    minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each part is a pack of its own, and is halved again if it needs to be."""
    configs = [one(tmp_path, f"seed={seed}") for seed in range(3)]
    sizes: list[int] = []
    whole = loop.fit_pack

    def fit_pack(some: Any, *arguments: Any, **more: Any) -> Any:
        sizes.append(len(some))
        if len(some) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(some, *arguments, **more)

    monkeypatch.setattr("symlora.runner.run.fit_pack", fit_pack)
    ended = run_pack(configs, quiet(*configs))
    assert sizes == [3, 2, 1, 1, 1]
    assert [record["status"] for _, record in ended] == ["finished"] * 3
    assert "not enough memory for 3 runs at once; trained again in two halves" in capsys.readouterr().err
    no_memory = Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory."))
    monkeypatch.setattr("symlora.runner.run.build_pack", no_memory)
    configs = [one(tmp_path, f"seed={seed}") for seed in (8, 9)]
    for folder, record in run_pack(configs, quiet(*configs)):
        assert record["status"] == "failed" and "OutOfMemoryError" in record["error"]
        assert results.read_run(folder) == json.loads(json.dumps(record))
    assert "not enough memory for 2 runs at once" in capsys.readouterr().err
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    mps = RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")
    assert is_out_of_memory(error.value) and is_out_of_memory(mps) and not is_out_of_memory(ValueError("x"))


def test_a_run_at_chance_is_kept_and_marked(folder: Path) -> None:
    record = results.read_run(folder)
    assert record is not None
    score = record["score"]
    assert score["at_chance"] == (not score["value"] > score["chance"]) and 0.5 <= score["chance"] < 1


def test_verify_results_tells_and_exits_with_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["verify", str(tmp_path / "runs")])
    printed = capsys.readouterr().out
    assert "1 runs" in printed and "0 problems" in printed
    (folder / "norms.parquet").write_bytes(b"x")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "runs")])
    assert ended.value.code == 1 and "norms.parquet has 1 bytes" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no run folders"):
        main(["verify", str(tmp_path / "nowhere")])
    work, sub = folder.with_name(".seed-0.0a1b2c3d"), folder.parents[2]
    work.mkdir()
    with locked(tmp_path / "runs", folder):
        assert not any("killed" in problem for problem in verify(sub).problems)
    assert verify(sub).problems[0].endswith("left by a process that was killed; remove it")  # no attempt will be made
