"""Sets of methods that one command trains: those of equal size, and all."""

import re
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_methods import SETTINGS, examined

from symlora.config.compose import CONFIG_DIR
from symlora.model.catalog import names
from symlora.store.folder import scan
from symlora.sweep.grid import expand

BUDGETS = {"147k": 147_456, "295k": 294_912}  # 8 n and 16 n a matrix: LoRA's ranks 4 and 8


def params(*overrides: str) -> dict[str, str]:
    """`hydra.sweeper.params` of a multirun."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = hydra_compose("config", list(overrides), return_hydra_config=True)
    return dict(config.hydra.sweeper.params)


def swept_methods() -> set[str]:
    (override,) = OverridesParser.create().parse_overrides([f"method={params('sweep=methods')['method']}"])
    glob: Any = override.value()
    return set(glob.filter(names()))


def test_every_budget_is_counted_here() -> None:
    assert {path.stem for path in (CONFIG_DIR / "budget").glob("*.yaml")} == BUDGETS.keys()


@pytest.mark.parametrize("budget", BUDGETS)
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
    variants = {name for name in names() if "defaults" in OmegaConf.load(CONFIG_DIR / "method" / f"{name}.yaml")}
    ranks = {name for name in variants if re.search(r"_r\d+$", name)}
    assert found == set(names()) - ranks - {"qlora"}


MARGIN = 0.002  # six times the 3e-4 by which runs whose adapter had hardly moved differed from the head's


def test_every_method_lowered_its_loss_on_mrpc_below_the_heads() -> None:
    """The runs of `train.py -m sweep=methods`, where they are there. The head alone learns something too."""
    records = [record for _, record in scan(CONFIG_DIR.parent / "results" / "methods")]
    if not records:
        pytest.skip("results/methods is not there: python scripts/train.py -m sweep=methods")
    losses = {
        record["config"]["method"]["name"]: [epoch["train_loss"] for epoch in record["epochs"]] for record in records
    }
    assert len(losses) == len(records) and losses.keys() >= swept_methods()
    for name, values in losses.items():
        assert values[-1] < values[0], name
        assert name == "head" or values[-1] < losses["head"][-1] - MARGIN, name
