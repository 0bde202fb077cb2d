"""Compiled parts agree with uncompiled ones, and one compilation serves all batches."""

import shutil
import zlib
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import CPU, TinyFactory, made_up, run_config
from torch import Tensor
from torch._dynamo.utils import counters

from symlora.data.batches import pack_batch
from symlora.errors import SymloraError
from symlora.model import fused
from symlora.model.build import build_pack
from symlora.model.dropout import Dropout, Masks, sequence
from symlora.training.loop import losses_of

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or " " in torch.__file__,
    reason="torch.compile needs a C++ compiler, and a torch whose path has no space",
)


@pytest.fixture
def everything_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SMALLEST", 0)


@needs_compiler
def test_masks_are_the_same_bits(everything_fused: None) -> None:
    drop = Dropout(0.1, Masks(), zlib.crc32(b"some site"))
    for rows, size in ((5, 16), (33, 64), (7, 30), (20_000, 64)):  # the last meets every number at which it drops
        keys = torch.from_numpy(sequence(rows, rows).view(np.int64))
        columns = drop.masks.columns(drop.site, size, CPU)
        plain = drop.mask(keys, columns, size, torch.bfloat16)
        with fused.fusing(True):
            assert torch.equal(drop.mask(keys, columns, size, torch.bfloat16), plain)


@needs_compiler
def test_gathered_rows_are_the_same_bits(everything_fused: None) -> None:
    args = (*torch.randn(3, 40, 32).bfloat16().unbind(), torch.randint(0, 40, (70,)), 32**-0.5)
    plain = fused.gather_three(*args)
    with fused.fusing(True):
        assert all(map(torch.equal, fused.gather_three(*args), plain))


def step(pack: Any, batch: Any) -> tuple[Tensor, list[Tensor]]:
    """Each row's loss, and every run's gradients."""
    losses = losses_of(pack.encoder(batch), batch.labels)
    parameters = [p for run in pack.runs for _, p in run.trainable()]
    for parameter in parameters:
        parameter.grad = None
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach(), [p.grad for p in parameters if p.grad is not None]


@needs_compiler
@pytest.mark.parametrize(("method", "runs"), [("symlora", 1), ("symlora", 3), ("lora", 3)])
def test_a_step_agrees_and_no_batch_compiles_again(
    method: str, runs: int, everything_fused: None, tiny: TinyFactory
) -> None:
    configs = [run_config(tiny("bert"), method, seed=seed, model_dropout=0.1) for seed in range(runs)]
    pack = build_pack(configs, CPU, "bf16")
    pack.encoder.train()
    pack.encoder.masks.steps = tuple(range(runs))
    compiled = counters["stats"]["unique_graphs"]
    after_first = None
    for number, lengths in enumerate(([5, 20, 7, 9, 3, 17], [3, 4, 5, 3, 4, 4], [18, 19, 20, 10, 7, 9], [16] * 6)):
        data = made_up(lengths, seed=number)
        batch = pack_batch(data, [np.roll(np.arange(6), run) for run in range(runs)], 6, 0)
        losses, gradients = step(pack, batch)
        assert counters["stats"]["unique_graphs"] == (compiled if after_first is None else after_first)
        with fused.fusing(True):
            found, own = step(pack, batch)
        if after_first is None:
            after_first = counters["stats"]["unique_graphs"]
        assert counters["stats"]["unique_graphs"] == after_first
        torch.testing.assert_close(found, losses, rtol=0.02, atol=0.02)
        whole, difference = (torch.cat([t.flatten() for t in part]) for part in (gradients, own))
        assert float((whole - difference).norm() / whole.norm()) < 0.05


def test_auto_compiles_long_bf16_training_if_it_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not fused.pick_compile("off", CPU, "bf16", 10**9)
    assert not fused.pick_compile("on", CPU, "fp32", 10**9)
    assert not fused.pick_compile("auto", CPU, "bf16", fused.ENOUGH - 1)
    assert not fused.pick_compile("auto", torch.device("cuda"), "bf16", 10**9)
    monkeypatch.setattr(fused, "combine", Mock(side_effect=RuntimeError("no compiler\nmore")))
    assert not fused.pick_compile("auto", CPU, "bf16", fused.ENOUGH)
    assert capsys.readouterr().err == (
        "train.compile=auto: torch.compile fails here (no compiler); continuing without it\n"
    )
    with pytest.raises(SymloraError, match=r"train\.compile=on: torch\.compile fails here \(no compiler\)"):
        fused.pick_compile("on", CPU, "bf16", 1)
