"""A run in a pack computes what it computes alone, whoever its neighbours are."""

import copy
import re
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, TinyFactory, fit, made_up, moved, run_config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from symlora.config.schema import Config
from symlora.data.batches import eval_batches, gather, pack_batch
from symlora.data.tokens import TokenizedSplit
from symlora.model.build import build, build_pack
from symlora.model.device import to_device
from symlora.model.grouped import Fill
from symlora.model.pack import PackedModel
from symlora.model.stack import Stack, clip_gradients
from symlora.training.loop import fit_pack, losses_of, predict, predict_pack, train_step
from symlora.training.result import Diverged, Fit
from symlora.training.run_state import RunState

UNEQUAL = [5, 3, 12, 4, 8, 8, 3, 15, 7, 3, 4, 9, 5, 5, 14, 3, 3, 6, 11, 10] * 2  # 40 rows: 10 batches of 4
EQUAL = [7] * 40


def configs(folder: Any, method: str, runs: int = 3, **train: Any) -> list[Config]:
    """Runs that differ in seed, learning rates, decay, warm-up and clipping."""
    found = []
    for k in range(runs):
        own: dict[str, Any] = {"epochs": 2, "lr": 3e-3 * (k + 1), "head_lr": 1e-3 / (k + 1), "weight_decay": 0.1 * k}
        own |= {"warmup_ratio": 0.1 * k, "max_grad_norm": 0.5 + k}
        found.append(run_config(folder, method, seed=k, **(own | train)))
    return found


def data_of(lengths: list[int], seed: int = 0) -> dict[str, TokenizedSplit]:
    return {"train": made_up(lengths, seed=seed), "validation": made_up(UNEQUAL[:11], seed=seed + 1)}


def trained_alone(config: Config, data: dict[str, TokenizedSplit]) -> tuple[Fit, list[float]]:
    losses: list[float] = []
    return fit(config, data, build(config, CPU, "fp32"), lambda progress: losses.append(progress.loss)), losses


def trained_together(some: list[Config], data: dict[str, TokenizedSplit]) -> tuple[list[Fit], list[list[float]]]:
    losses: list[list[float]] = [[] for _ in some]
    fits = fit_pack(some, data, build_pack(some, CPU, "fp32"), lambda run, progress: losses[run].append(progress.loss))
    return fits, losses


def alike(found: Fit, wanted: Fit, rtol: float = 1e-5) -> None:
    """Parameters relative to all of them, then tensor by tensor: AdamW turns a gradient near 0 into a whole step."""
    assert found.error is None and found.chosen == wanted.chosen and found.tokens == wanted.tokens
    for rule, state in wanted.state.items():
        assert found.state[rule].keys() == state.keys()
        differences = {name: found.state[rule][name] - value for name, value in state.items()}
        whole = torch.cat([value.flatten() for value in state.values()])
        assert float(torch.cat([d.flatten() for d in differences.values()]).norm() / whole.norm()) <= rtol
        for name, value in state.items():
            assert float(differences[name].norm() / value.norm().clamp_min(1e-3)) <= 1e-3, name
        for split, logits in wanted.logits[rule].items():
            np.testing.assert_allclose(found.logits[rule][split], logits, rtol=1e-4, atol=1e-5)
    for a, b in zip(found.epochs, wanted.epochs, strict=True):
        assert a.metrics == b.metrics and a.train_loss == pytest.approx(b.train_loss, rel=rtol)


PACKS: list[tuple[str, str, list[int], float]] = [
    ("roberta", "symlora", EQUAL, 0.0),
    ("roberta", "symlora", EQUAL, 0.1),
    ("roberta", "symlora", UNEQUAL, 0.0),
    ("roberta", "symlora", UNEQUAL, 0.1),
    ("distilbert", "lora", UNEQUAL, 0.0),  # with dropout of the adapter alone
    ("roberta", "lora", EQUAL, 0.1),
    ("roberta", "lora", UNEQUAL, 0.1),
    ("roberta", "dora", UNEQUAL, 0.1),
    ("modernbert", "lora", UNEQUAL, 0.1),  # whose matrix is not square
    *((kind, "symlora", UNEQUAL, 0.1) for kind in ("bert", "electra", "distilbert", "albert", "mpnet")),
    *((kind, "head", UNEQUAL, 0.1) for kind in ("bert", "electra", "distilbert", "albert", "mpnet", "modernbert")),
]


@pytest.mark.parametrize(("kind", "method", "lengths", "dropout"), PACKS)
def test_packed_equals_alone(kind: str, method: str, lengths: list[int], dropout: float, tiny: TinyFactory) -> None:
    """3 runs: loss within 1e-5, relative. With dropout too, of hidden states, attention and adapter."""
    some = configs(tiny(kind), method, epochs=2 if kind == "roberta" else 1, model_dropout=dropout)
    for config in some:
        if kind in ("roberta", "distilbert") and method != "head":
            key = "dropout" if method == "symlora" else "lora_dropout"
            config.method.peft_config = {**config.method.peft_config, key: dropout or 0.1 * (kind == "distilbert")}
    data = data_of(lengths)
    fits, losses = trained_together(some, data)
    for config, found, own in zip(some, fits, losses, strict=True):
        wanted, alone = trained_alone(config, data)
        assert len(own) == 10 * config.train.epochs
        np.testing.assert_allclose(own, alone, rtol=1e-5)
        alike(found, wanted)


def test_places_that_scoring_has_cached_serve_training() -> None:
    Fill.of.cache_clear()
    with torch.inference_mode():
        Fill.of((2, 3), CPU)
    fill = Fill.of((2, 3), CPU)
    assert not any(places.is_inference() for places in (fill.index, fill.back, fill.surplus))


def gradients(pack: PackedModel, data: TokenizedSplit, poisoned: int | None) -> list[dict[str, Tensor]]:
    """Of every run, after one batch; the poisoned run's adapter holds a NaN."""
    if poisoned is not None:
        name, value = next(iter(pack.runs[poisoned].trainable()))
        with torch.no_grad():
            value.view(-1)[0] = float("nan")
    pack.encoder.train()
    pack.encoder.masks.steps = (1, 2, 3)
    order = np.arange(len(data))
    batch = pack_batch(data, [order, order[::-1].copy(), np.roll(order, 3)], 4, 0)
    losses_of(pack.encoder(batch), batch.labels).sum().backward()  # type: ignore[no-untyped-call]
    found = []
    for run in pack.runs:
        found.append({name: value.grad.clone() for name, value in run.trainable() if value.grad is not None})
    return found


@pytest.mark.parametrize("poisoned", [0, 1, 2])
@pytest.mark.parametrize(("method", "precision"), [("symlora", "fp32"), ("lora", "bf16"), ("dora", "fp32")])
def test_a_nan_stays_in_its_run(method: str, precision: str, poisoned: int, tiny: TinyFactory) -> None:
    """Not one bit of the other runs' gradients changes."""
    some, data = configs(tiny("roberta"), method), made_up(UNEQUAL)
    clean = gradients(build_pack(some, CPU, precision), data, None)
    spoilt = gradients(build_pack(some, CPU, precision), data, poisoned)
    for number, (wanted, found) in enumerate(zip(clean, spoilt, strict=True)):
        assert wanted.keys() == found.keys()
        bad = [name for name in wanted if not torch.equal(wanted[name], found[name])]
        assert bool(bad) == (number == poisoned), (number, bad)
        if number == poisoned:
            assert any(bool(value.isnan().any()) for value in found.values())


VIEWS = ("view", "t", "transpose", "slice", "select", "expand", "detach", "unsqueeze", "squeeze", "split",
         "split_with_sizes", "alias", "unbind", "permute", "as_strided", "reshape")  # fmt: skip


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that would be kernels on a GPU, and notes copies that would wait for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        self.count[name.strip("_")] += name.strip("_").removeprefix("unsafe_") not in VIEWS
        places = {arg.device.type for arg in args if isinstance(arg, Tensor)} | {str(kwargs.get("device"))}
        blocks = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)))
        if name in ("_to_copy", "copy_") and {"cpu", "meta"} <= places and blocks:
            self.waits.append(name)
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "method", "precision"),
    [
        ("bert", "symlora", "bf16"),
        ("bert", "lora", "bf16"),
        ("bert", "symlora", "fp32"),
        ("mpnet", "lora", "bf16"),
        ("modernbert", "lora", "bf16"),
    ],
)
def test_a_steps_operators_do_not_grow_with_the_runs(kind: str, method: str, precision: str, tiny: TinyFactory) -> None:
    """Forward and backward pass of 2, 8 and 32 runs, with dropout everywhere: two groups of lengths, as for one run."""
    found: dict[int, Counter[str]] = {}
    data = made_up([5, 20, 7, 9, 3, 17, 12, 8], seed=3)
    for runs in (1, 2, 8, 32):
        pack = build_pack(configs(tiny(kind), method, runs, model_dropout=0.1), CPU, precision)
        pack.encoder.train().masks.steps = tuple(range(runs))
        orders = [np.roll(np.arange(8), run) for run in range(runs)]
        with Operators() as counted:
            losses = losses_of(pack.encoder(pack_batch(data, orders, 8, 0)), torch.zeros(8 * runs, dtype=torch.int64))
            losses.sum().backward()  # type: ignore[no-untyped-call]
        found[runs] = counted.count
        if method == "symlora" and precision == "bf16" and runs > 1:
            # A CPU applies λ run by run: 4 times forward, 2 backward.
            for name in ("addmm", "add", "copy", "to_copy", "mm", "addcmul", "ones_like"):
                counted.count[name] -= runs * (2 if name in ("mm", "addcmul", "ones_like") else 4)
    assert found[2] == found[8] == found[32]
    assert found[32].total() < 1.6 * found[1].total()


@pytest.mark.parametrize(
    ("kind", "method", "precision", "runs"),
    [("bert", "symlora", "bf16", 2), ("bert", "lora", "fp32", 3), ("bert", "symlora", "bf16", 1)]
    + [("deberta-v2", "symlora", "fp32", 1), ("mpnet", "symlora", "bf16", 2)],
)
def test_a_step_waits_for_its_device_once(
    kind: str, method: str, precision: str, runs: int, tiny: TinyFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read losses and tokens. The meta device stands for a GPU: it has no values, so nothing else can be read."""
    some, data = configs(tiny(kind), method, runs, model_dropout=0.1), made_up(UNEQUAL)
    pack = build_pack(some, torch.device("meta"), precision)
    pack.encoder.train()
    states = [RunState(k, config, model, 10) for k, (config, model) in enumerate(zip(some, pack.runs, strict=True))]
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: None)  # has no fused kernel there
    reads: list[tuple[int, ...]] = []

    def read(sums: Tensor) -> Any:
        reads.append(tuple(sums.shape))
        return np.ones(sums.shape).tolist()

    monkeypatch.setattr(Tensor, "tolist", read)
    with Operators() as called:
        train_step(states, [pack_batch(data, [np.arange(40)] * runs, 4, 0)], pack, 4)
    assert reads == [(2, runs)] and called.waits == []
    assert [run.steps_done for run in states] == [1] * runs


def test_only_copies_to_mps_wait() -> None:
    waits: dict[str, bool] = {}

    class Watched(Tensor):
        def to(self, device: torch.device, non_blocking: bool) -> Tensor:  # type: ignore[override]
            waits[device.type] = not non_blocking
            return self

    for name in ("mps", "cpu", "meta"):
        to_device(torch.ones(2).as_subclass(Watched), torch.device(name))
    assert waits == {"mps": True, "cpu": False, "meta": False}


@pytest.mark.parametrize("passes", [1, 2])
def test_gradients_are_clipped_run_by_run_as_torch_clips_them(passes: int) -> None:
    """After one backward pass or two; a run has no limit and a norm that overflows, one a gradient that is NaN."""
    limits = [0.5, 0.0, 100.0, 0.5]
    stacks = [Stack([nn.Parameter(torch.randn(shape)) for _ in limits]) for shape in ((3, 4), (5,), ())]
    wanted: list[list[Tensor]] = [[nn.Parameter(own.clone()) for own in stack.values.detach()] for stack in stacks]
    for _ in range(passes):
        weights = [torch.randn_like(stack.values) for stack in stacks]
        weights[0][1, 1, 2], weights[0][3, 1, 2] = 1e25, float("nan")
        for stack, weight, own in zip(stacks, weights, wanted, strict=True):
            (stack.values * weight).sum().backward()  # type: ignore[no-untyped-call]
            (torch.stack(own) * weight).sum().backward()  # type: ignore[no-untyped-call]
    for limit, *parameters in zip(limits, *wanted, strict=True):
        if limit:
            torch.nn.utils.clip_grad_norm_(parameters, limit)
    clip_gradients([], limits, stacks)
    assert all(stack.gradient is None for stack in stacks)
    for stack, own in zip(stacks, wanted, strict=True):
        for ours, theirs in zip(stack.parameters, own, strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, equal_nan=True)


def test_a_stack_is_freed_with_its_pack_and_by_a_run_that_leaves() -> None:
    parameters = [nn.Parameter(torch.randn(5)) for _ in range(3)]
    stack = Stack(parameters)
    stack.drop(1)
    assert [own.untyped_storage().nbytes() for own in parameters] == [40, 20, 40]  # bytes: of two runs, of itself
    watched = weakref.ref(stack)
    del stack
    assert watched() is None


@pytest.mark.parametrize("method", ["symlora", "lora"])
def test_ranks_that_no_kernel_groups_are_packed_too(method: str, tiny: TinyFactory) -> None:
    """In bfloat16; 4 numbers are 8 bytes, and grouped_mm wants 16."""
    some, data = configs(tiny("bert"), method, peft={"r": 4}), made_up(UNEQUAL)
    found, wanted = (gradients(build_pack(some, CPU, precision), data, None) for precision in ("bf16", "fp32"))
    for ours, exact in zip(found, wanted, strict=True):
        whole, own = (torch.cat([t.flatten() for t in part.values()]) for part in (exact, ours))
        assert float((own - whole).norm() / whole.norm()) < 0.05


@pytest.mark.parametrize("diverging", [{0}, {1}, {2}, {0, 1, 2}])
def test_a_diverged_run_leaves_and_the_others_go_on(diverging: set[int], tiny: TinyFactory) -> None:
    some, data = configs(tiny("bert"), "lora", model_dropout=0.1), data_of(UNEQUAL)
    for number in diverging:
        some[number].train.lr = 1e30
    fits, _ = trained_together(some, data)
    for number, (config, found) in enumerate(zip(some, fits, strict=True)):
        if number in diverging:
            assert isinstance(found.error, Diverged) and re.search(r"step \d+ of 20 .*train.lr", str(found.error))
        else:
            alike(found, trained_alone(config, data)[0])


def test_a_run_that_leaves_at_the_end_of_an_epoch(tiny: TinyFactory) -> None:
    """One step an epoch: the update that ruins the model shows in the scores, not in a loss."""
    some, data = configs(tiny("bert"), "lora", 2, epochs=3, batch_size=64, warmup_ratio=0.0), data_of(UNEQUAL)
    some[0].train.lr = 1e38
    fits, _ = trained_together(some, data)
    assert fits[0].error is not None and "after epoch" in str(fits[0].error)
    alike(fits[1], trained_alone(some[1], data)[0])
    some[1].train.lr = 1e38
    for together in (some, some[:1]):
        fits, _ = trained_together(together, data)
        assert all(found.error is not None and "after epoch" in str(found.error) for found in fits)


def still(some: list[Config], epochs: int) -> list[Config]:
    """The first run hardly learns, so that its patience of 1 ends after epoch 2."""
    for config in some:
        config.train.epochs, config.protocol.selection = epochs, "best"
    some[0].train.lr, some[0].train.head_lr, some[0].train.patience = 1e-12, 1e-12, 1
    return some


def test_a_run_out_of_patience_leaves_and_the_others_go_on(tiny: TinyFactory) -> None:
    some, data = still(configs(tiny("bert"), "lora", model_dropout=0.1), 4), data_of(UNEQUAL)
    pack, sizes = build_pack(some, CPU, "fp32"), []
    pack.encoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0].sizes)))
    first, *others = fit_pack(some, data, pack)
    assert (first.stopped_epoch, [e.number for e in first.epochs], first.chosen) == (2, [1, 2], {"best": 1, "last": 2})
    assert sizes == [3] * sizes.index(2) + [2] * sizes.count(2) and sizes.count(2) == sizes.count(3)
    for config, found in zip(some[1:], others, strict=True):
        assert found.stopped_epoch is None and len(found.epochs) == 4
        alike(found, trained_alone(config, data)[0])
    alike(first, trained_alone(some[0], data)[0])
    some[0].train.patience = None  # the rate goes down as if all epochs were trained
    assert [e.train_loss for e in trained_alone(some[0], data)[0].epochs[:2]] == pytest.approx(
        [e.train_loss for e in first.epochs], rel=1e-5
    )


def test_a_run_whose_scaled_gradients_overflow_leaves_out_a_step(tiny: TinyFactory) -> None:
    """In fp16: not one of its values moves, λ on its way to 1 included; its neighbour's do."""
    some, data = configs(tiny("bert"), "symlora", 2, warmup_ratio=0.0, weight_decay=0.1), made_up(UNEQUAL)
    for config in some:
        config.method.lambda_decay = "one"
    pack = build_pack(some, CPU, "fp16")
    pack.encoder.train()
    runs = [RunState(k, config, model, 10) for k, (config, model) in enumerate(zip(some, pack.runs, strict=True))]
    runs[0].scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    with torch.no_grad():
        for name, value in [pair for run in runs for pair in run.model.trainable()]:
            value.fill_(0.5) if "lambda" in name else value
    before = [run.model.state() for run in runs]
    train_step(runs, [pack_batch(data, [np.arange(40)] * 2, 4, 0)], pack, 4)
    for number, run in enumerate(runs):
        moved = [name for name, value in run.model.state().items() if not torch.equal(value, before[number][name])]
        assert bool(moved) == (number == 1), moved
        assert run.schedule.get_last_lr()[0] == pytest.approx(0.95 * run.schedule.base_lrs[0])  # of 20 steps
    assert [run.scaler.get_scale() for run in runs] == [2.0**59, 2.0**16]
    resumed = RunState(0, some[0], pack.runs[0], 10)
    resumed.load(runs[0].save(trained=False))
    assert resumed.scaler.get_scale() == 2.0**59


def test_parts_of_a_packs_batch(tiny: TinyFactory) -> None:
    some, data = configs(tiny("bert"), "symlora", model_dropout=0.1, batch_size=6), data_of(UNEQUAL)
    wanted = [trained_alone(config, data)[0] for config in some]
    for config in some:
        config.train.gradient_accumulation_steps = 4
    for found, alone in zip(trained_together(some, data)[0], wanted, strict=True):
        alike(found, alone)


def test_frozen_weights_are_held_once(tiny: TinyFactory) -> None:
    pack = build_pack(configs(tiny("bert"), "symlora"), CPU, "bf16")
    trained = {id(value) for run in pack.runs for _, value in run.trainable()}
    frozen = [
        {name: v for name, v in run.encoder.named_parameters() if not v.requires_grad and "original" not in name}
        for run in pack.runs
    ]  # fmt: skip
    for name, value in frozen[0].items():
        assert all(other[name] is value for other in frozen[1:]), name
    assert len(trained) == sum(1 for run in pack.runs for _ in run.trainable())  # and what is trained is each run's own
    held = {id(value) for value in pack.encoder.parameters()}
    assert held <= {id(value) for value in pack.runs[0].encoder.parameters()}


def test_a_pack_predicts_as_its_runs_do(tiny: TinyFactory) -> None:
    some = configs(tiny("electra"), "symlora")
    pack, split = build_pack(some, CPU, "fp32"), made_up(UNEQUAL)
    for seed, run in enumerate(pack.runs):
        moved(run, seed)
    together = predict_pack(pack.encoder, [split], 3, max_tokens=60)
    for run, found in zip(pack.runs, together, strict=True):
        np.testing.assert_allclose(found[0], predict(run.encoder, split), rtol=1e-4, atol=1e-5)


def test_batches_of_a_pack() -> None:
    data = made_up(UNEQUAL[:7])
    orders = [np.array([3, 1, 0, 2, 6, 5, 4]), np.array([6, 5, 4, 3, 2, 1, 0])]
    batch = pack_batch(data, orders, 4, 1)
    assert batch.rows.tolist() == [6, 5, 4, 2, 1, 0] and batch.sizes == (3, 3)
    assert batch.tokens() == (sum(UNEQUAL[i] for i in (6, 5, 4)), sum(UNEQUAL[i] for i in (2, 1, 0)))
    for batch in eval_batches(data, 40, runs=2):
        assert batch.sizes[0] * 2 == len(batch.rows)
        assert torch.equal(batch.rows[: batch.sizes[0]], batch.rows[batch.sizes[0] :])
        assert len(batch.input_ids) <= 40
    assert gather(data, np.arange(3)).sizes == (3,)


@pytest.mark.parametrize(
    ("kind", "method", "arguments", "message"),
    [
        ("deberta-v2", "lora", {}, "flat"),
        ("bert", "lora", {"bias": "all"}, "bias=all"),
        ("bert", "symlora", {"bias": "symlora_only"}, "bias=symlora_only"),
        ("bert", "lora", {"init_lora_weights": "olora"}, "rewrites"),
        ("bert", "lora", {"target_modules": ["word_embeddings", "query"]}, "Embedding"),
        ("bert", "full", {}, "full fine-tuning"),
    ],
)
def test_what_cannot_be_packed_says_so(
    kind: str, method: str, arguments: dict[str, Any], message: str, tiny: TinyFactory
) -> None:
    some = configs(tiny(kind), method, 2, peft=arguments)
    with pytest.raises(ValueError, match=message):
        build_pack(some, CPU, "fp32")
    build_pack(some[:1], CPU, "fp32")  # alone each of them runs


def test_what_is_trained_and_shared_is_refused(tiny: TinyFactory) -> None:
    """Two optimizers must not step one tensor."""
    runs = build_pack(configs(tiny("bert"), "symlora", 2), CPU, "fp32").runs
    for run in runs:
        run.encoder.get_parameter("model.bert.encoder.layer.0.attention.self.query.base_layer.bias").requires_grad_(
            True
        )
    with pytest.raises(ValueError, match="belongs to the shared encoder"):
        PackedModel(runs)


def test_a_pack_of_full_runs_does_not_share_the_encoder(tiny: TinyFactory) -> None:
    """Full fine-tuning trains alone; a copied configuration must not train another's tensors."""
    config = run_config(tiny("bert"), "full")
    first, second = build(config, CPU, "fp32"), build(copy.deepcopy(config), CPU, "fp32")
    held = {value.data_ptr() for _, value in first.trainable()}
    assert not held & {value.data_ptr() for _, value in second.trainable()}
