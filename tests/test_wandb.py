"""Real offline W&B runs, read back from their files."""

import json
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_run import small, train

from symlora.config.schema import Config
from symlora.runner.reporter import Reporter
from symlora.runner.run import run_pack
from symlora.training.interrupt import Stopped
from symlora.training.loop import fit_pack

pytestmark = pytest.mark.usefixtures("minilm_dir")


def mirrored(tmp_path: Path, *overrides: str) -> Config:
    return small(tmp_path, "task=rte", "logger=wandb", *overrides)


def chunks(content: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB; checksum, length, kind) after 7 bytes."""
    position, whole = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # the rest of a block is too short for a header
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # complete, or the last part
            yield whole
            whole = b""


Offline = list[tuple[str, list[dict[str, Any]], dict[str, Any], int | None]]


def offline_runs(tmp_path: Path) -> Offline:
    """Id, history rows, summary and exit code of each offline run, oldest first; its end is written a little later."""
    for _ in range(50):
        found = written(tmp_path)
        if all(status is not None for *_, status in found):
            break
        time.sleep(0.2)
    return found


def written(tmp_path: Path) -> Offline:
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        name, rows, summary, status = "", [], {}, None
        for data in chunks(path.read_bytes()):
            record: Any = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.run_id
            elif kind == "history":
                items = record.history.item
                rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
            elif kind == "summary":
                for item in record.summary.update:
                    summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
            elif kind == "exit":
                status = record.exit.exit_code
        found.append((name, rows, summary, status))
    return found


def test_each_run_of_a_pack_has_a_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configs = [mirrored(tmp_path, f"seed={k}", "method=lora", f"train.lr={lr}") for k, lr in enumerate((1e-3, 2e-3))]
    diverging = mirrored(tmp_path, "seed=2", "method=lora", "train.lr=1e30")
    *ended, (_, failed) = run_pack(some := [*configs, diverging], [Reporter(config, quiet=True) for config in some])
    found = {run[0]: run for run in offline_runs(tmp_path)}
    assert len(found) == len(offline_runs(tmp_path)) == 3
    _, _, summary, status = found[f"{failed['config_hash']}-2"]
    assert (summary["status"], status) == ("failed", 1) and "score" not in summary
    for (_, record), config in zip(ended, configs, strict=True):
        _, rows, summary, status = found[f"{record['config_hash']}-{config.seed}"]
        steps = [row["_step"] for row in rows if "train/loss" in row]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) > 2
        assert [row["train/epoch_loss"] for row in rows if "train/epoch_loss" in row] == [
            pytest.approx(epoch["train_loss"]) for epoch in record["epochs"]
        ]
        assert (summary["score"], summary["status"], status) == (record["score"]["value"], "finished", 0)
        assert summary["protocol/selection"] == config.protocol.selection


def test_a_pack_trained_again_in_halves_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    some = [mirrored(tmp_path, f"seed={seed}", "method=lora", "train.epochs=1") for seed in range(2)]

    def short_of_memory(configs: Any, data: Any, pack: Any, *, on_step: Any, **more: Any) -> Any:
        def tell(number: int, progress: Any) -> None:
            on_step(number, progress)
            if len(configs) > 1 and number == 1:
                raise MemoryError

        return fit_pack(configs, data, pack, on_step=tell, **more)

    monkeypatch.setattr("symlora.runner.run.fit_pack", short_of_memory)
    run_pack(some, [Reporter(config, quiet=True) for config in some])
    lengths = [len([row for row in rows if "train/loss" in row]) for _, rows, _, _ in offline_runs(tmp_path)]
    assert lengths == [1, 1, 3, 3]


@pytest.mark.parametrize("scoring", [False, True])
def test_a_stopped_run_goes_on_in_its_wandb_run(scoring: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at a step, or at the last of an epoch: then the epoch is scored when it goes on."""
    monkeypatch.chdir(tmp_path)
    config = mirrored(tmp_path)
    real = Reporter.step

    def stopping(reporter: Reporter, progress: Any) -> None:
        real(reporter, progress)
        if progress.step == (progress.steps // config.train.epochs if scoring else 3):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Reporter, "step", stopping)
        with pytest.raises(Stopped):
            train(config)
    _, record = train(config)
    first, second = offline_runs(tmp_path)
    assert first[0] == second[0] and (first[3], second[3]) == (1, 0)
    steps = [row["_step"] for part in (first, second) for row in part[1] if "train/loss" in row]
    ends = [row["_step"] for part in (first, second) for row in part[1] if "train/epoch_loss" in row]
    per_epoch = len(steps) // config.train.epochs
    assert ends == [per_epoch * number for number in range(1, config.train.epochs + 1)]
    assert steps == list(range(1, len(steps) + 1)) and record["cost"]["restarts"] == 1
    assert "score" not in first[2] and second[2]["score"] == record["score"]["value"]

    forced = mirrored(tmp_path, "force=true", "train.lr=1e-3")
    train(forced)
    plain = {name for name, *_ in offline_runs(tmp_path)}
    train(forced)
    assert len({name for name, *_ in offline_runs(tmp_path)} - plain) == 1
