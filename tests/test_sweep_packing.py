"""Which runs share a pass, how packs are filled and spread, and which GPU a job gets. Under a second."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import run_config
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from symlora.config.compose import compose
from symlora.config.identity import pack_key
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.runner.reporter import format_duration
from symlora.store.folder import run_folder
from symlora.store.locks import locked, write_progress
from symlora.sweep import launchers
from symlora.sweep.launchers import cuda_device, gpus_of, visible_devices
from symlora.sweep.packing import Job, PackPlan, most_tokens, plan
from symlora.sweep.progress import Watcher, say
from symlora.sweep.worker import own_device
from symlora.sweep.workload import model_type, packable


def jobs(*configs: Config, tokens: float = 64.0, rows: int = 1000, packable: bool = True) -> list[Job]:
    return [Job(index, config, tokens, rows, packable) for index, config in enumerate(configs)]


def sizes(packs: list[PackPlan]) -> list[int]:
    return [len(pack.jobs) for pack in packs]


TINY = Path("tiny")


# What of a run, its training and its method may differ: docs/packed-training.md, which test_docs_tables reads.
def test_other_differences_keep_runs_apart() -> None:
    changes = {"task.name": "mrpc", "model.name": "other", "model.path": "elsewhere", "protocol.held_out": 0.2}
    for key, value in {**changes, "data.max_length": 64, "data.train_limit": 64}.items():
        base, other = run_config(TINY), run_config(TINY)
        part, name = key.split(".")
        assert getattr(getattr(other, part), name) != value
        setattr(getattr(other, part), name, value)
        assert pack_key(base) != pack_key(other), key
        assert sizes(plan(jobs(base, other), 1e9, 1)) == [1, 1]


def test_full_fine_tuning_and_encoders_without_flat_batches_train_alone(tmp_path: Path) -> None:
    for kind in ("bert", "deberta-v2"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        (tmp_path / kind / "model.safetensors").touch()
    assert packable(run_config(tmp_path / "bert")) and packable(run_config(tmp_path / "bert", "lora"))
    assert not packable(run_config(tmp_path / "bert", "full"))
    assert model_type(run_config(tmp_path / "deberta-v2")) == "deberta-v2"
    assert not packable(run_config(tmp_path / "deberta-v2"))
    assert model_type(compose("model=minilm")) == "bert"  # from the model's own file, without looking for it
    configs = [run_config(TINY, seed=seed) for seed in range(3)]
    assert sizes(plan(jobs(*configs, packable=False), 1e9, 1)) == [1, 1, 1]


def test_packs_are_filled_up_to_the_budget_and_evenly() -> None:
    configs = [run_config(TINY, seed=seed, batch_size=16) for seed in range(10)]
    packs = plan(jobs(*configs, tokens=64.0), 4096, 1)  # 1024 a run: four fit
    assert sizes(packs) == [4, 3, 3] or sorted(sizes(packs)) == [3, 3, 4]
    assert max(pack.step_tokens for pack in packs) <= 4096
    assert sizes(plan(jobs(*configs, tokens=64.0), 100, 1)) == [1] * 10  # larger than the budget by itself
    assert most_tokens("cpu", "fp32") < most_tokens("cpu", "bf16") == most_tokens("cuda", "fp32")
    assert max(sizes(plan(jobs(*configs, tokens=67.0), most_tokens("cpu", "fp32"), 1))) > 1  # RTE's rows
    # A batch is never larger than the data.
    assert jobs(run_config(TINY, batch_size=16), rows=4)[0].step_tokens == 4 * 64


def test_no_worker_idles_where_there_are_jobs() -> None:
    configs = [run_config(TINY, seed=seed) for seed in range(8)]
    assert sizes(plan(jobs(*configs), 1e9, 1)) == [8]
    assert sizes(plan(jobs(*configs), 1e9, 2)) == [4, 4]
    assert sizes(plan(jobs(*configs), 1e9, 8)) == [1] * 8
    assert sizes(plan(jobs(*configs[:3]), 1e9, 2)) == [2, 1]  # a third pack would end no earlier
    assert sizes(plan(jobs(*configs[:2]), 1e9, 5)) == [1, 1]


def test_the_longest_pack_comes_first() -> None:
    short = [run_config(TINY, seed=seed) for seed in range(2)]
    long = [run_config(TINY, epochs=9)]
    packs = plan(jobs(*short, *long), 1e9, 1)
    assert [pack.jobs[0].config.train.epochs for pack in packs] == [9, 1]


@given(
    batches=st.lists(st.sampled_from([4, 8, 16]), min_size=1, max_size=12),
    max_tokens=st.integers(1, 5000),
    workers=st.integers(1, 5),
)
def test_every_job_is_in_one_pack_within_the_budget(batches: list[int], max_tokens: int, workers: int) -> None:
    todo = jobs(*(run_config(TINY, seed=seed, batch_size=size) for seed, size in enumerate(batches)))
    packs = plan(todo, max_tokens, workers)
    assert sorted(job.index for pack in packs for job in pack.jobs) == list(range(len(todo)))
    assert all(pack.step_tokens <= max_tokens or len(pack.jobs) == 1 for pack in packs)
    assert all(len({job.config.train.batch_size for job in pack.jobs}) == 1 for pack in packs)
    assert len(packs) >= min(workers, len(todo))


def test_gpus_are_given_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5, 7")
    assert [cuda_device(job) for job in range(4)] == ["3", "5", "7", "3"]
    cfg = OmegaConf.create({"job": {"num": 4, "device": "${cuda_device:${job.num}}"}})
    assert cfg.job.device == "5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,GPU-b")
    assert cuda_device(1) == "GPU-b"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cuda_device(0) == "" and visible_devices() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # then torch is asked
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [cuda_device(job) for job in range(3)] == ["0", "1", "0"]
    names = ("cpu", "cuda", "cuda:1", "mps")
    assert [gpus_of(torch.device(name)) for name in names] == [[], ["0", "1"], ["1"], ["mps"]]


def test_a_worker_keeps_its_gpu_and_others_take_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device(("5",), tmp_path, 0) == "5"  # of another sweep
    held, found = list[Any](), list[list[str]]()
    for packs in ((0, 5), (4,), (2, 3)):  # each a process of its own
        held.append([])
        monkeypatch.setattr("symlora.sweep.worker._own", held[-1])
        found.append([own_device(("3", "MIG-a"), tmp_path, pack) for pack in packs])
    assert found == [["3", "3"], ["MIG-a"], ["3", "3"]]  # the last has none of its own
    held[1][0][1].release()  # as when a process ends
    monkeypatch.setattr("symlora.sweep.worker._own", [])
    assert own_device(("3", "MIG-a"), tmp_path, 4) == "MIG-a"


def test_the_time_left_leaves_out_what_an_earlier_process_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(TINY)
    config.results_dir = str(tmp_path)
    path, now = tmp_path / "progress.jsonl", time.time()
    monkeypatch.setattr("symlora.sweep.progress.PRINT_EVERY", 0.0)
    monkeypatch.setattr("symlora.sweep.progress.POLL", 0.01)
    clock = SimpleNamespace(time=lambda: now, monotonic=time.monotonic)
    monkeypatch.setattr("symlora.sweep.progress.time", clock)
    with Watcher(plan(jobs(config), 1e9, 1), path), locked(tmp_path, run_folder(config)):
        write_progress(tmp_path, run_folder(config), {"share": 0.8, "resumed": 0.7})
        path.write_text(json.dumps({"pack": 0, "event": "started", "at": now - 100.0}) + "\n")
        for _ in range(1000):  # a tenth of the run in 100 s, so 200 s for two tenths
            time.sleep(0.05)
            if "80% done" in (printed := capsys.readouterr().err):
                break
    assert "80% done; about 3 min 20 s left" in printed


def test_wrong_settings_of_the_inner_launcher_are_named() -> None:
    with pytest.raises(SymloraError, match=r"hydra.launcher.inner=slurm: unknown.*joblib"):
        launchers.launcher_node("slurm", {})
    with pytest.raises(SymloraError, match=r"inner_config.*n_threads"):
        launchers.launcher_node("basic", {"n_threads": 2})
    assert launchers.at_once("basic", launchers.launcher_node("basic", {}), 4) == 1


def test_progress_is_told_over_all_packs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = [run_config(TINY, seed=seed) for seed in range(3)]
    for config in configs:
        config.results_dir = str(tmp_path)
    packs = plan(jobs(*configs), 1e9, 2)
    path = tmp_path / "progress.jsonl"
    with Watcher(packs, path) as watcher:
        say(path, 0, "started")
        say(path, 1, "started")
        say(path, 1, "finished", failed=1)
        watcher.read()
        with locked(tmp_path, folder := run_folder(packs[0].jobs[1].config)):
            write_progress(tmp_path, folder, {"share": 0.5})
            assert watcher.share == pytest.approx((2 * 0.5 + 1) / 3)
        assert watcher.share == pytest.approx(1 / 3)
        say(path, 0, "finished", failed=0)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 4 and not path.exists()
    assert "pack 1/2 started: symlora on rte, batch 4: 2 runs, about 512 tokens a step" in printed[0]
    assert "pack 2/2 finished in 0 s, 1 failed; about 0 s left over all packs" in printed[2]
    assert [format_duration(seconds) for seconds in (3.2, 75, 7260)] == ["3 s", "1 min 15 s", "2 h 01 min"]
    say(tmp_path / "nowhere" / "file", 0, "started")  # costs no run
