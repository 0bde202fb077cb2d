"""A training that is stopped and goes on gives the same bits as one that never stopped."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import CPU, TinyFactory, made_up
from test_pack import UNEQUAL, configs, data_of, still
from torch import Tensor

from symlora.config.schema import Config
from symlora.data.tokens import TokenizedSplit
from symlora.model.build import build_pack
from symlora.model.run_model import RunModel
from symlora.store.folder import FAILED_FILE, RUN_FILE
from symlora.store.listing import command
from symlora.store.locks import locked
from symlora.training import checkpoint as module
from symlora.training import interrupt as signals
from symlora.training.checkpoint import Checkpoint
from symlora.training.checkpoint_files import FOLDER, clear_settled, headers, plans, unfinished, write_plan
from symlora.training.hooks import AdaLora
from symlora.training.interrupt import Stopped
from symlora.training.loop import fit_pack
from symlora.training.result import Fit

Stop = Callable[[int, list[Config], dict[str, TokenizedSplit]], None]


def checkpoint_of(folder: Path, some: list[Config], seconds: float = 1e9, **fingerprint: Any) -> Checkpoint:
    runs = [f"run/seed-{config.seed}" for config in some]
    identity = {"configurations": {run: str(config.train) for run, config in zip(runs, some, strict=True)}}
    return Checkpoint(folder, runs, {**identity, "threads": 1, **fingerprint}, seconds)


def trained(some: list[Config], data: dict[str, TokenizedSplit], kept: Checkpoint | None = None) -> list[Fit]:
    return fit_pack(some, data, build_pack(some, CPU, "fp32"), checkpoint=kept)


@pytest.fixture
def stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Train until the stop request has been asked for `call` times (between steps, and between batches of scoring)."""

    def stopped_at(call: int, some: list[Config], data: dict[str, TokenizedSplit]) -> None:
        calls = iter(range(1, 10**6))
        place = "symlora.training.run_state.stop_requested"
        with monkeypatch.context() as patched, pytest.raises(Stopped):
            patched.setattr(place, lambda: signal.SIGTERM if next(calls) >= call else None)
            patched.setattr("symlora.training.interrupt.stop_requested", lambda: int(signal.SIGTERM))
            trained(some, data, checkpoint_of(tmp_path, some))

    return stopped_at


def same(found: list[Fit], wanted: list[Fit]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert str(one.error) == str(other.error) and one.stopped_epoch == other.stopped_epoch
        assert one.tokens == other.tokens and one.chosen == other.chosen
        assert [(e.train_loss, e.metrics) for e in one.epochs] == [(e.train_loss, e.metrics) for e in other.epochs]
        if other.error is not None:
            continue
        for rule, by_split in other.logits.items():
            for split, logits in by_split.items():
                np.testing.assert_array_equal(one.logits[rule][split], logits)
        for rule, state in other.state.items():
            assert state.keys() == one.state[rule].keys()
            assert all(torch.equal(one.state[rule][name], value) for name, value in state.items())


@pytest.mark.parametrize(("runs", "method"), [(1, "symlora"), (3, "lora")])
def test_stopped_and_resumed_is_never_stopped(
    runs: int, method: str, tiny: TinyFactory, tmp_path: Path, stop: Stop
) -> None:
    """Ten steps an epoch: stopped within the first, while it is scored (12, 14), within the second, and once more."""
    some, data = configs(tiny("bert"), method, runs, model_dropout=0.1), data_of(UNEQUAL)
    wanted = trained(some, data)
    for calls in ([3], [12], [14, 2, 3]) if runs == 1 else ([12], [14, 2]):
        for call in calls:
            stop(call, some, data)
            assert len(headers(tmp_path)) == 1
        last = checkpoint_of(tmp_path, some)
        same(trained(some, data, last), wanted)
        assert last.restarts == len(calls)
        shutil.rmtree(tmp_path / FOLDER)


# Small enough that of 8 steps there is something done between them both before and after the fourth.
BETWEEN_STEPS: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 2},  # ranks are taken away after steps 2 to 6
    "dylora": {"r": 4},  # a rank is drawn before each step
    "lora2": {"r": 4, "target_r": 3},  # as AdaLoRA, after each step
    "prilora": {"r": 4, "r_first": 2, "pruning_interval": 2},
    "xgblora": {"boosters": 4},  # merged before steps 3, 5 and 7
}


@pytest.mark.parametrize(("method", "step"), [*((method, 4) for method in BETWEEN_STEPS), ("adalora", 7)])
def test_a_method_that_acts_between_steps_goes_on_with_what_it_holds(
    method: str, step: int, tiny: TinyFactory, tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after this step of 8. Had it lost what it noted by then it would end elsewhere, or this shows nothing."""
    # At a rate as high as 0.1 what counts least changes on the way: else all that goes has gone by step 4.
    some = configs(tiny("bert"), method, 1, epochs=1, model_dropout=0.1, weight_decay=0.1, lr=0.1)
    some[0].method.peft_config = {**some[0].method.peft_config, **BETWEEN_STEPS[method]}
    data = {"train": made_up([5, 3, 8, 4] * 8), "validation": made_up([4, 6], seed=1)}
    wanted = trained(some, data)
    stop(step, some, data)
    assert headers(tmp_path)[0].steps == step
    shutil.copytree(tmp_path / FOLDER, tmp_path / "again" / FOLDER)
    last = checkpoint_of(tmp_path, some)
    same(trained(some, data, last), wanted)
    assert last.restarts == 1
    # DyLoRA holds nothing between steps: ranks follow from seed and step. AdaLoRA has taken all away by step 7.
    if method == "dylora" or step == 7:
        return
    load_state = RunModel.load_state

    def without_notes(run: RunModel, state: dict[str, Tensor]) -> None:
        parameters = dict(run.trainable())
        load_state(run, {name: value * (name in parameters) for name, value in state.items()})

    monkeypatch.setattr(RunModel, "load_state", without_notes)
    monkeypatch.setattr(AdaLora, "load_hook_state", lambda *_: None)
    (found,) = trained(some, data, checkpoint_of(tmp_path / "again", some))
    parameters = dict(build_pack(some, CPU, "fp32").runs[0].trainable())
    assert any(not torch.equal(found.state["last"][name], wanted[0].state["last"][name]) for name in parameters)


def test_a_run_that_diverged_before_the_stop_stays_diverged(
    tiny: TinyFactory, tmp_path: Path, stop: Stop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until its folder is written, `make runs` lists it with the others."""
    some, data = configs(tiny("bert"), "lora", model_dropout=0.1), data_of(UNEQUAL)
    some[1].train.lr = 1e30
    wanted = trained(some, data)
    assert wanted[1].error is not None
    stop(9, some, data)
    with locked(tmp_path, tmp_path / "run/seed-2"):
        states = dict.fromkeys(("run/seed-0", "run/seed-1"), "stopped") | {"run/seed-2": "running"}
        assert unfinished(tmp_path) == [(run, state, "9") for run, state in states.items()]
        assert command(tmp_path, unfinished(tmp_path)) == 0
    assert re.search(r"^run/seed-0 +stopped +9$", capsys.readouterr().out, re.MULTILINE)
    same(trained(some, data, checkpoint_of(tmp_path, some)), wanted)


def test_a_pack_goes_on_without_the_run_whose_patience_is_over(
    tiny: TinyFactory, tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in epoch 3, after the first run has left: bit for bit, also as the second run does from there alone."""
    some, data = still(configs(tiny("bert"), "symlora", 2, model_dropout=0.1), 4), data_of(UNEQUAL)
    wanted = trained(some, data)
    assert [one.stopped_epoch for one in wanted] == [2, None]
    stop(27, some, data)
    assert headers(tmp_path)[0].steps > 20
    alone, saved = checkpoint_of(tmp_path / "alone", some[1:]), checkpoint_of(tmp_path, some).load()
    assert saved is not None and "model" not in saved["runs"]["run/seed-0"]
    monkeypatch.setattr(alone, "load", lambda: saved)
    same(trained(some[1:], data, alone), wanted[1:])
    same(trained(some, data, checkpoint_of(tmp_path, some)), wanted)
    monkeypatch.setattr("symlora.training.loop.train_step", None)  # all are trained, and a step would fail
    for one in (slice(1), slice(1, None)):
        same(trained(some[one], data, checkpoint_of(tmp_path, some[one])), wanted[one])


def test_a_run_alone_starts_anew_and_does_not_cost_its_pack_the_checkpoint(
    tiny: TinyFactory, tmp_path: Path, stop: Stop
) -> None:
    some, data = configs(tiny("bert"), "symlora"), data_of(UNEQUAL)
    wanted = trained(some, data)
    stop(5, some, data)
    assert checkpoint_of(tmp_path, some[:1]).load() is None
    same(trained(some[:1], data, checkpoint_of(tmp_path, some[:1])), trained(some[:1], data))
    resumed = checkpoint_of(tmp_path, some)
    same(trained(some, data, resumed), wanted)
    assert resumed.restarts == 1


@pytest.mark.parametrize("forced", [True, False])
def test_a_checkpoint_outlives_the_record_of_the_training_before(
    forced: bool, tiny: TinyFactory, tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a finished run, which is forced, or of a diverged one, which is trained again."""
    monkeypatch.setattr("test_checkpoint.checkpoint_of", partial(checkpoint_of, force=forced))
    stop(5, configs(tiny("bert"), "symlora", 1), data_of(UNEQUAL))
    (run,) = headers(tmp_path)[0].runs
    write_plan(tmp_path, [run], force=forced)
    record = tmp_path / run / RUN_FILE
    record.parent.mkdir(parents=True)
    record.touch()
    os.utime(record, (1, 1))
    before = {"status": "finished"} if forced else {"status": "failed", "error": "Diverged: the loss is nan"}
    monkeypatch.setattr("symlora.training.checkpoint_files.read_run", lambda folder: before)
    clear_settled(tmp_path)
    assert headers(tmp_path) and [*plans(tmp_path).values()] == [(run,)] and unfinished(tmp_path)
    (record.parent / (FAILED_FILE if forced else RUN_FILE)).touch()  # it diverged (again)
    clear_settled(tmp_path)
    assert not headers(tmp_path) and not plans(tmp_path)
    if forced:
        write_plan(tmp_path, [run])  # by a sweep that waited for another process's run
        clear_settled(tmp_path)
        assert not plans(tmp_path)


def test_what_is_damaged_or_of_another_origin_is_not_used(
    tiny: TinyFactory, tmp_path: Path, stop: Stop, capsys: pytest.CaptureFixture[str]
) -> None:
    some, data = configs(tiny("bert"), "symlora", 1), data_of(UNEQUAL)
    stop(5, some, data)
    assert checkpoint_of(tmp_path, some, threads=2).load() is None
    assert "made with other threads" in capsys.readouterr().err
    some[0].train.lr *= 2
    assert checkpoint_of(tmp_path, some).load() is None
    assert "made with other configurations" in capsys.readouterr().err
    some[0].train.lr /= 2
    assert checkpoint_of(tmp_path, some).load() is not None
    ignoring = checkpoint_of(tmp_path, some)
    ignoring.resume = False
    assert ignoring.load() is None
    path = headers(tmp_path)[0].path
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in [0, 8, 100, *generator.integers(len(content), size=20)]:
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(spoiled)
        assert checkpoint_of(tmp_path, some).load() is None, place
    for length in (0, 7, 100, len(content) - 1):
        path.write_bytes(content[:length])
        assert checkpoint_of(tmp_path, some).load() is None, length
    same(trained(some, data, checkpoint_of(tmp_path, some)), trained(some, data))


def test_the_time_between_checkpoints(
    tiny: TinyFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for every step, a checkpoint that takes a second is written every hundred seconds: 1 % of the time."""
    now = [0.0]
    monkeypatch.setattr("symlora.training.checkpoint.time.monotonic", lambda: now[0])
    some = configs(tiny("bert"), "symlora", 1)
    kept = checkpoint_of(tmp_path, some, seconds=0.0)
    assert kept.due()

    @contextmanager
    def slow(path: Path) -> Iterator[Path]:
        yield tmp_path / "written"
        now[0] += 1.0

    monkeypatch.setattr(module, "atomic_write", slow)
    kept.save({}, 1)
    now[0] += 99.9
    assert not kept.due()
    now[0] += 0.2
    assert kept.due()
    assert kept.seconds_spent() == pytest.approx(101.1)
    monkeypatch.setattr(module, "atomic_write", Mock(side_effect=OSError(28, "No space left on device")))
    kept.save({}, 2)
    kept.save({}, 3)
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_checkpoint_is_small(tiny: TinyFactory, tmp_path: Path, stop: Stop) -> None:
    some = configs(tiny("bert", num_hidden_layers=6), "symlora", 1)
    stop(15, some, data_of(UNEQUAL) | {"validation": made_up([5] * 12)})
    model = build_pack(some, CPU, "fp32").runs[0]
    whole = sum(p.numel() for p in model.encoder.parameters())
    size = headers(tmp_path)[0].path.stat().st_size
    assert 16 * model.counts().total <= size < 16 * model.counts().total + 40_000 < 4 * whole


def test_a_first_signal_waits_and_a_second_does_not() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background inherits that it is ignored
    signals.stop_at_once()
    try:
        with signals.graceful_stop():
            assert signals.stop_requested() is None
            signal.raise_signal(signal.SIGINT)
            assert signals.stop_requested() == signal.SIGINT
            with pytest.raises(Stopped) as again:
                signal.raise_signal(signal.SIGTERM)
            assert again.value.exit_code == 143
            with pytest.raises(Stopped) as asked:
                signals.raise_if_stopped()
            assert asked.value.exit_code == 130
            with pytest.raises(Stopped):  # the step takes too long
                signal.raise_signal(signal.SIGALRM)
        assert signals.stop_requested() is None and signal.getitimer(signal.ITIMER_REAL)[0] == 0
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_stop_while_the_end_is_written_is_heeded(tiny: TinyFactory, tmp_path: Path) -> None:
    some, data = configs(tiny("bert"), "symlora", 1), data_of(UNEQUAL)
    wanted = trained(some, data)

    def on_epoch(run: int, epoch: Any) -> None:
        if epoch.number == 2:
            signal.raise_signal(signal.SIGTERM)

    with signals.graceful_stop(), pytest.raises(Stopped):
        fit_pack(some, data, build_pack(some, CPU, "fp32"), on_epoch=on_epoch, checkpoint=checkpoint_of(tmp_path, some))
    assert headers(tmp_path)[0].trained
    same(trained(some, data, checkpoint_of(tmp_path, some)), wanted)
