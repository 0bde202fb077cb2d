"""Every method of configs/method, and the example of docs/adding-a-method.md, keeps one contract.

What a method cannot keep stands in the tables below with a reason; a test fails where an entry is no longer needed.
"""

import copy
import importlib.util
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from conftest import CPU, ROOT, TinyFactory, made_up, moved, run_config
from hydra.core.override_parser.overrides_parser import OverridesParser
from layers import forget
from omegaconf import OmegaConf
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from test_pack import alike, trained_alone, trained_together
from test_sweep_select import multirun_config
from torch import Tensor, nn
from torch.func import functional_call

from symlora import adapters
from symlora.adapters.tuner import AdapterModel
from symlora.config.checks import check
from symlora.config.compose import CONFIG_DIR
from symlora.config.schema import Config, MethodConfig
from symlora.data.batches import gather
from symlora.errors import SymloraError
from symlora.model import build as model_build
from symlora.model import catalog as methods
from symlora.model.build import build, build_pack
from symlora.model.catalog import Method, examine
from symlora.model.run_model import HEAD_FILE, RunModel
from symlora.model.source import ModelSource
from symlora.store.folder import scan
from symlora.sweep.grid import expand

EXAMPLE = "gatedlora"  # of docs/adding-a-method.md
NAMES = methods.names()
SETTINGS = dict(zip(NAMES, methods.load(NAMES), strict=True))
_, EXAMPLE_FILE, EXAMPLE_YAML, *_ = re.split(
    r"```(?:python|yaml)\n", (ROOT / "docs" / "adding-a-method.md").read_text()
)
SETTINGS[EXAMPLE] = OmegaConf.to_object(  # type: ignore[assignment]
    OmegaConf.merge(OmegaConf.structured(MethodConfig), OmegaConf.create(EXAMPLE_YAML.split("```")[0]))
)
ALL = [*NAMES, EXAMPLE]
# lora_r4 and its like are the code of lora at another rank: listed and counted, but not trained again.
ADAPTERS = [name for name in ALL if SETTINGS[name].trains == "adapter" and not re.search(r"_r\d+$", name)]
RUNS = [name for name in ALL if SETTINGS[name].trains != "adapter" or name in ADAPTERS]

# Step 0 is not the base model's output to the last bit: how near it is, relative (None: not near), and why.
START: dict[str, tuple[float | None, str]] = {
    "c3a": (None, "PEFT draws the circulant blocks (Xavier)"),
    "edora": (1e-3, "R starts at N(0, 1e-5), as in the authors' code"),
    "fourierft": (None, "the coefficients start at N(0, 1)"),
    "houlsby": (1e-4, "its matrices start at 1e-3"),
    "hra": (1e-5, "its reflections come in equal pairs, which cancel but for rounding"),
    "lorand": (None, "the public code starts every factor at random"),
    "loraxs": (1e-3, "R starts at N(0, 1e-5), as in the authors' code"),
}
# The gradient is not the derivative of the forward, on purpose; each is compared with a reference elsewhere.
DETACHED = {
    "dora": "the norm is a constant in the gradient (section 4.3); tests/test_references.py",
    "edora": "DoRA's norm; tests/test_methods_formulas.py",
}
# PEFT computes in float32 whatever the model's dtype; both are linear in each argument, so wide steps are exact.
FLOAT32 = ("c3a", "fourierft")
# Trained values on RoBERTa-base, query and value, as counted before this file was written (notes: peers.md §2; those of
# methods that PEFT has not, by the papers' formulas there).
PUBLISHED: dict[str, int] = {
    "adalora": 442_656, "asymlora": 147_456, "asymlora_freeze_b": 147_456, "asymlora_svd": 147_456,
    "bitfit": 102_144, "c3a": 110_592, "delora": 294_936, "dora": 313_344, "dylora": 294_912, "edora": 19_968,
    "fourierft": 24_000, "full": 124_647_170 - 592_130, "gralora": 294_912, "head": 0, "hira": 294_912,
    "hra": 147_456, "houlsby": 2_379_264, "ia3": 64_512, "lora": 294_912, "lora2": 298_176, "loralambda": 294_936,
    "loha": 294_912, "lokr": 26_112, "loramini": 24_576, "loraplus": 294_912, "lorand": 915_456, "loraxs": 1_536,
    "lorta": 6_864, "melora": 36_864, "miss": 147_456, "oft": 285_696, "prilora": 294_912, "qlora": 294_912,
    "randlora": 460_800, "rslora": 294_912, "singlora": 147_456, "symlora": 147_672, "symlora_no_lambda": 147_648,
    "symlora_orthonormal": 147_672, "symmetric": 7_087_104, "vera": 43_008, "xgblora": 36_864,
}  # fmt: skip
LEARNING_RATE: dict[str, float] = {"dylora": 3e-2, "loraplus": 1e-3}  # where 0.01 is not suitable
EPOCHS = {"dylora": 15}  # where 3 of 2 steps do not: it trains another rank at every step
# Beside the head nothing of it follows from the seed, and why.
SEEDLESS = {
    "asymlora_svd": "the frozen factor is the weight's singular vectors, the other 0",
    "bitfit": "no adapter",
    "full": "no adapter",
    "head": "no adapter",
    "ia3": "its factors start at 1",
    "miss": "its block starts at 0",
    "oft": "its rotations start at the identity",
    "randlora": "PEFT draws the frozen matrices from projection_prng_key; the diagonals start at 0 and at 1/max(n)",
    "symmetric": "starts at 0",
    "vera": "PEFT draws the frozen matrices from projection_prng_key; the vectors start at 0 and at d_initial",
}
# What is no constant and still the same for every seed.
STILL: dict[str, tuple[set[str], str]] = {
    "asymlora_svd": ({"asymlora_frozen_A"}, "singular vectors of the weight"),
    "delora": ({"delora_w_norm"}, "norms of the weight"),
    "dora": ({"lora_magnitude_vector"}, "norms of the weight"),
    "edora": ({"edora_A", "edora_B", "edora_m"}, "singular vectors and norms of the weight"),
    "loraxs": ({"loraxs_A", "loraxs_B"}, "singular vectors of the weight"),
    "oft": ({"oft_R"}, "numbers of the triangle's rows and columns; the angles start at 0"),
    "randlora": ({"randlora_A", "randlora_B"}, "drawn from projection_prng_key"),
    "vera": ({"vera_A", "vera_B"}, "drawn from projection_prng_key"),
}
# More than the matrices' width is no mistake.
ANY_RANK = {"hra": "a number of reflections", "vera": "the width of random matrices: 1,024 on 768 in the paper"}


@pytest.fixture(scope="module", autouse=True)
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's file, dropped where methods are looked for; nothing else says that it is there."""
    folder = tmp_path_factory.mktemp("example")
    (folder / f"{EXAMPLE}.py").write_text(EXAMPLE_FILE.split("```")[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "__path__", [*adapters.__path__, str(folder)])
        adapters.discover()
        yield
    forget(EXAMPLE)


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """The tiny encoder is read from its file once: several hundred runs are built here."""
    read: dict[str, Any] = {}
    original = model_build.load_classifier

    def load_classifier(source: ModelSource, config: Config, *rest: Any) -> Any:
        key = f"{source}{config.task.name}{config.method.load_in_4bit}{rest}"
        if key not in read:
            read[key] = original(source, config, *rest)
        return copy.deepcopy(read[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_build, "load_classifier", load_classifier)
        yield


def small(value: Any) -> Any:
    """Whole numbers (ranks, widths, frequencies) down to what a matrix 32 wide takes."""
    if isinstance(value, dict):
        return {key: small(entry) for key, entry in value.items()}
    return min(value, 16) if isinstance(value, int) and not isinstance(value, bool) else value


def config_of(name: str, tiny: TinyFactory, *, seed: int = 0, **train: Any) -> Config:
    config = run_config(tiny("roberta"), "lora", seed=seed, **{"model_dropout": 0.0, **train})
    config.method = copy.deepcopy(SETTINGS[name])
    config.method.peft_config = small(config.method.peft_config)
    return config


def built(config: Config, precision: str = "fp32") -> RunModel:
    """The run; the test is skipped where a package that the method needs is missing."""
    if config.method.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    return build(config, CPU, precision)


@torch.no_grad()
def logits(run: RunModel) -> Tensor:
    run.encoder.eval()
    out: Tensor = run.encoder(gather(made_up([5, 3, 9, 4]), np.arange(4)))
    return out


def layers(run: RunModel) -> list[Any]:
    return [module for module in run.encoder.model.modules() if isinstance(module, BaseTunerLayer)]


def values(run: RunModel) -> dict[str, Tensor]:
    """Of every parameter and buffer, the encoder's own included: those are read from its file."""
    return {key: value.detach() for key, value in [*run.encoder.named_parameters(), *run.encoder.named_buffers()]}


def rank_key(name: str) -> str | None:
    return next((key for key in SETTINGS[name].peft_config if key in ("r", "init_r")), None)


@cache
def examined(name: str) -> Method:
    """The line of `make methods`. Where the weights decide (SARA: a decomposition of each) one layer does."""
    original = methods._classifier
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_classifier", lambda device: original(device, 12 if device == "meta" else 1))
        return examine(SETTINGS[name])


@pytest.mark.parametrize("name", ALL)
def test_the_file_says_what_it_is(name: str) -> None:
    method = SETTINGS[name]
    assert method.name == name
    assert method.equation and "\n" not in method.equation and method.source
    if name != EXAMPLE:
        assert (CONFIG_DIR / "method" / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", RUNS)
def test_the_configuration_is_valid_and_the_start_follows_from_the_seed(name: str, tiny: TinyFactory) -> None:
    """Frozen factors too; and each container by itself: the head's draw would hide that an adapter's is another."""
    config = config_of(name, tiny)
    check(config)
    first = built(config)
    torch.manual_seed(99)
    again, other = values(built(config)), values(built(config_of(name, tiny, seed=1)))
    assert all(torch.equal(value, again[key]) for key, value in values(first).items())
    differ = {key for key, value in values(first).items() if not torch.equal(value, other[key])}
    assert any(first.in_head(key) for key in differ)
    drawn = {key for key in differ if not first.in_head(key)}
    assert bool(drawn) == (name not in SEEDLESS), f"{name} draws {drawn or 'nothing'} at its start: see SEEDLESS"
    still = {key: value for key, value in values(first).items() if ".default" in key and key not in differ}
    still = {key: value for key, value in still.items() if value.min() < value.max()}
    assert {key.split(".default")[0].split(".")[-1] for key in still} == STILL.get(name, (set(), ""))[0]


@pytest.mark.parametrize("name", ADAPTERS)
def test_step_0_is_the_base_model(name: str, tiny: TinyFactory) -> None:
    """Bit for bit; and away from the start it is not."""
    run = built(config_of(name, tiny))
    base, start = logits(built(config_of("head", tiny))), logits(run)
    away = float((logits(moved(run)) - base).norm() / base.norm())
    assert away > 1e-2
    difference = float((start - base).norm() / base.norm())
    near, _ = START.get(name, (0.0, ""))
    assert near is None or difference <= near
    if name in START:
        assert difference > 0, "starts at the base model: take it out of START"


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients(name: str, tiny: TinyFactory) -> None:
    """Those of the adapted layer against finite differences, in float64."""
    steps: dict[str, Any] = {"eps": 0.1, "atol": 1e-4, "rtol": 1e-3, "nondet_tol": 1e-5} if name in FLOAT32 else {}
    for layer in layers(moved(built(config_of(name, tiny))))[: 1 if name in DETACHED else 2]:
        module = copy.deepcopy(layer).double().train()
        named = {key: value for key, value in module.named_parameters() if value.requires_grad}
        torch.manual_seed(0)  # of x, and of the directions in which gradcheck looks
        x = torch.randn(3, module.in_features, dtype=torch.float64, requires_grad=True)

        def forward(x: Tensor, *values: Tensor, module: nn.Module = module, named: Any = named) -> Tensor:
            out: Tensor = functional_call(module, dict(zip(named, values, strict=True)), (x,))
            return out

        assert forward(x, *named.values()).dtype == torch.float64
        right = torch.autograd.gradcheck(
            forward, (x, *named.values()), fast_mode=True, raise_exception=name not in DETACHED, **steps
        )
        assert right == (name not in DETACHED), "take it out of DETACHED"


@pytest.mark.parametrize("name", ALL)
def test_the_count_on_roberta_base(name: str) -> None:
    """Of a live model: as published, and for our own methods as their formula says."""
    found = examined(name)
    if found.counts is None:
        pytest.skip("; ".join(found.notes))
    assert found.counts.head == 592_130
    if name in PUBLISHED:
        assert found.trained == PUBLISHED[name]


def test_c3a_counts_as_published_at_its_block() -> None:
    """768, of RoBERTa-base's width; the file takes 128, for a C of more values."""
    method = copy.deepcopy(SETTINGS["c3a"])
    method.peft_config["block_size"] = 768
    assert examine(method).trained == 18_432


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_is_unmerged(name: str, tiny: TinyFactory) -> None:
    run = moved(built(config_of(name, tiny)))
    assert run.peft is not None
    before, found = logits(run), examined(name)
    if found.merges:
        weights = [layer.get_base_layer().weight.detach().clone() for layer in layers(run)]
        run.peft.merge_adapter()
        assert any(layer.merged for layer in layers(run))
        torch.testing.assert_close(logits(run), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
        run.peft.unmerge_adapter()
        if isinstance(run.peft.base_model, AdapterModel):  # PEFT's own methods subtract, and so lose the last bits
            for layer, weight in zip(layers(run), weights, strict=True):
                assert torch.equal(layer.get_base_layer().weight, weight), layer.module_name
        torch.testing.assert_close(logits(run), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    else:
        with pytest.raises((NotImplementedError, ValueError), match="merge"):
            run.peft.merge_adapter()
        assert torch.equal(logits(run), before)  # and nothing was half merged


@pytest.mark.parametrize("name", RUNS)
def test_saved_and_loaded_is_the_same(name: str, tiny: TinyFactory, tmp_path: Path) -> None:
    run = moved(built(config_of(name, tiny)))
    run.save(tmp_path / "saved")
    if run.peft is None:
        stored = load_file(tmp_path / "saved" / (HEAD_FILE if SETTINGS[name].trains == "head" else "model.safetensors"))
        state = {key.removeprefix("model."): value for key, value in run.state().items()}
        assert state.keys() <= stored.keys() and all(torch.equal(stored[key], value) for key, value in state.items())
        return
    base = built(config_of("head", tiny, seed=5))  # another head, which must be replaced
    torch.manual_seed(7)  # what is drawn must come from the file
    loaded = peft.PeftModel.from_pretrained(base.encoder.model, str(tmp_path / "saved"))
    assert torch.equal(logits(base), logits(run))
    found = dict(loaded.named_parameters())
    for key, value in run.peft.named_parameters():
        if value.requires_grad:
            assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_float32_on_a_bf16_encoder(name: str, tiny: TinyFactory) -> None:
    run = built(config_of(name, tiny), "bf16")
    assert run.encoder.dtype == torch.bfloat16
    assert {value.dtype for _, value in run.trainable()} == {torch.float32}
    assert bool(torch.isfinite(logits(moved(run))).all())


@pytest.mark.parametrize("name", RUNS)
def test_training_lowers_the_loss_and_a_pack_changes_nothing(name: str, tiny: TinyFactory) -> None:
    """6 steps on 16 made-up rows. Where there is an adapter the head stands still, so that the adapter must do it."""
    rate = LEARNING_RATE.get(name, 1e-2)
    train: dict[str, Any] = {"batch_size": 8, "epochs": EPOCHS.get(name, 3), "weight_decay": 0.0, "warmup_ratio": 0.0}
    if name in ADAPTERS:
        train["head_lr"] = 1e-12
    some = [config_of(name, tiny, seed=k, lr=rate / (2 - k), **train) for k in range(2)]
    built(some[0])
    rows = [5, 3, 8, 4] * 4
    data = {"train": made_up(rows), "validation": made_up(rows[:3], seed=1)}
    alone, losses = trained_alone(some[1], data)  # the second: a pack must not lend it the first one's frozen parts
    assert sum(losses[-2:]) < sum(losses[:2])
    if examined(name).packs:
        fits, packed = trained_together(some, data)
        assert packed[1] == pytest.approx(losses, rel=1e-5)
        alike(fits[1], alone)
    else:
        with pytest.raises(ValueError, match=f"method={name}: .+ train alone"):
            build_pack(some, CPU, "fp32")


@pytest.mark.parametrize("rank", [0, -1, 2.5, "eight", 33])
@pytest.mark.parametrize("name", [name for name in ADAPTERS if rank_key(name) and name != "qlora"])
def test_a_wrong_rank_is_one_clear_message(name: str, rank: Any, tiny: TinyFactory) -> None:
    """33 is more than the matrices' width."""
    config, key = config_of(name, tiny), rank_key(name)
    assert key is not None
    config.method.peft_config[key] = rank
    if rank == 33 and name in ANY_RANK:
        built(config)
        return
    with pytest.raises(SymloraError) as caught:
        built(config)
    message = str(caught.value)
    assert "Traceback" not in message and len(message) < 300
    if rank == 33:  # PRILoRA names the rank of the layer at which it is too much.
        assert "33" in message or re.search(r"r = \d+ is more than 32, .* 32 x 32", message)
    else:
        assert message.startswith(f"method.peft_config.{key}={rank}: must be a whole number")


def test_make_methods_lists_every_file() -> None:
    found = [examined(name) for name in NAMES]
    text, markdown = methods.table(found), methods.table(found, markdown=True)
    for name in NAMES:
        method = examined(name)
        number = "–" if method.trained is None else f"{method.trained:,}"
        for shown in (text, markdown):
            (line,) = [line for line in shown.splitlines() if re.match(rf"(\| )?{re.escape(name)} ", line)]
            assert number in line
        detail = methods.details(method)
        assert SETTINGS[name].equation in text and SETTINGS[name].equation in detail and SETTINGS[name].source in detail
    page = (ROOT / "docs" / "methods.md").read_text()
    rows = [line for line in markdown.splitlines() if line.startswith("|") and "~" not in line]
    assert [row for row in rows if row not in page] == []


def test_a_new_file_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's YAML, and its variant at another rank, as files in configs/method."""
    shutil.copytree(CONFIG_DIR / "method", tmp_path / "method")
    (tmp_path / "method" / f"{EXAMPLE}.yaml").write_text(EXAMPLE_YAML.split("```")[0])
    page = (ROOT / "docs" / "adding-a-method.md").read_text()
    variant = page.split("```yaml\n")[2].split("```")[0]
    (tmp_path / "method" / f"{EXAMPLE}_r4.yaml").write_text(variant)
    monkeypatch.setattr(methods, "CONFIG_DIR", tmp_path)
    assert set(methods.names()) == {*NAMES, EXAMPLE, f"{EXAMPLE}_r4"}
    whole, quarter = (examine(method) for method in methods.load([EXAMPLE, f"{EXAMPLE}_r4"]))
    assert (whole.trained, quarter.trained) == (313_344, 313_344 - 147_456)
    assert quarter.merges and quarter.packs and quarter.config.equation == whole.config.equation


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_package_is_named(tiny: TinyFactory) -> None:
    with pytest.raises(SymloraError, match="method=qlora needs bitsandbytes: pip install"):
        build(config_of("qlora", tiny), CPU, "fp32")
    assert "qlora: does not run here: method=qlora needs bitsandbytes" in methods.table([examined("qlora")])


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(SymloraError, match="method=lorra: .*lora, "):
        methods.load(["lorra"])


BUDGETS = {"147k": 147_456, "295k": 294_912}  # 8 n and 16 n a matrix: LoRA's ranks 4 and 8


def params(*overrides: str) -> dict[str, str]:
    return dict(multirun_config(*overrides).hydra.sweeper.params)


def swept_methods() -> set[str]:
    (override,) = OverridesParser.create().parse_overrides([f"method={params('sweep=methods')['method']}"])
    glob: Any = override.value()
    return set(glob.filter(NAMES))


@pytest.mark.parametrize("budget", sorted(path.stem for path in (CONFIG_DIR / "budget").glob("*.yaml")))
def test_equal_budgets_are_equal(budget: str) -> None:
    """Counted on live models of RoBERTa-base's shape; SymLoRA has its Λ and λ more, which the file says."""
    text = (CONFIG_DIR / "budget" / f"{budget}.yaml").read_text()
    methods = params(f"budget={budget}")["method"].split(",")
    assert len(methods) >= 5 and any(name.startswith("symlora") for name in methods)
    for name in methods:
        method, trained = SETTINGS[name], examined(name).trained
        if method.peft_type == "SYMLORA":
            assert trained == BUDGETS[budget] + 24 * (method.peft_config["r"] + 1) and f"{trained:,}" in text
        else:
            assert trained == BUDGETS[budget], name


def test_a_budget_takes_the_place_of_the_sweeps_methods() -> None:
    """With sweep=grid: its points, for these methods; each in a folder of its own."""
    runs = expand("sweep=grid", "budget=147k", "task=rte", "model=minilm", "protocol=smoke")
    assert {run.method.name for run in runs} == {"lora_r4", "asymlora", "hra", "miss", "symlora"}
    assert {run.train.lr for run in runs} == {1e-3, 2e-3} and len(runs) == 10


def test_sweep_methods_names_every_method_but_qlora() -> None:
    found = swept_methods()
    variants = {name for name in NAMES if "defaults" in OmegaConf.load(CONFIG_DIR / "method" / f"{name}.yaml")}
    ranks = {name for name in variants if re.search(r"_r\d+$", name)}
    assert found == set(NAMES) - ranks - {"qlora"}


MARGIN = 0.002  # six times the 3e-4 by which runs whose adapter had hardly moved differed from the head's


def test_every_method_lowered_its_loss_on_mrpc_below_the_heads() -> None:
    """The committed runs of `train.py -m sweep=methods`. The head alone learns something too."""
    records = [record for _, record in scan(CONFIG_DIR.parent / "results" / "methods")]
    losses = {
        record["config"]["method"]["name"]: [epoch["train_loss"] for epoch in record["epochs"]] for record in records
    }
    assert len(losses) == len(records) and losses.keys() >= swept_methods()
    for name, values in losses.items():
        assert values[-1] < values[0], name
        assert name == "head" or values[-1] < losses["head"][-1] - MARGIN, name
