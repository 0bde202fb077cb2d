"""Fields of the methods of our own: which values are refused, and the names that saved configurations hold."""

import re
from dataclasses import fields
from typing import Any

import pytest
from layers import CONFIGS
from peft import PeftConfig

from symlora.adapters.config import LowRankConfig

# What adapter_config.json holds besides PEFT's own fields. Names and defaults are those of adapters saved long ago.
COMMON = {
    "target_modules": None, "exclude_modules": None, "dropout": 0.0, "bias": "none", "modules_to_save": None,
    "init_weights": True, "layers_to_transform": None, "layers_pattern": None,
}  # fmt: skip
RANKED = {"r": 8, "alpha": 8, "rank_pattern": {}, "alpha_pattern": {}}
OWN: dict[str, dict[str, Any]] = {
    "asymlora": {"freeze": "A", "frozen_init": "orthonormal"},
    "dylora": {"frozen": True},
    "edora": {"alpha": 16, "init_std": 1e-5},
    "houlsby": {"bottleneck_size": 64, "init_std": 1e-3},
    "lora2": {
        **{"inner_width": None, "init_std": 0.02, "orth_reg_weight": 0.1, "target_r": None},
        **{"tinit": 0, "tfinal": 0, "deltaT": 1, "beta1": 0.85, "beta2": 0.85},
    },
    "loralambda": {},
    "loramini": {"a_width": 64, "b_width": 64},
    "lorand": {"num_branches": 2, "kernel_size": 8, "reduction_factor": 2},
    "loraxs": {"alpha": 16, "init_std": 1e-5},
    "lorta": {"num_heads": None},
    "melora": {"r": 1, "alpha": 1, "num_mini_loras": 8},
    "prilora": {"r_first": 4, "pruned_share": 0.5, "pruning_interval": 40, "norm_decay": 0.9},
    "sara": {"share": 0.07},
    "singlora": {"ramp": 0},
    "symlora": {"init_std": 0.5, "train_lambda": True},
    "symloraorthonormal": {"init_std": 0.5, "train_lambda": True},
    "symmetric": {},
    "xgblora": {"r": 1, "alpha": 1, "boosters": 8},
}
BAD: dict[str, dict[str, list[Any]]] = {
    "asymlora": {"freeze": ["AB", None], "frozen_init": ["V"]},
    "dylora": {"frozen": [1]},
    "edora": {"init_std": [-1e-5, float("nan"), "small"]},
    "houlsby": {"bottleneck_size": [0], "init_std": [float("nan"), 0.0, -1.0]},
    "lora2": {
        **{"inner_width": [0], "init_std": [0.0], "orth_reg_weight": [-0.1, float("inf")], "target_r": [0, 9]},
        **{"tinit": [-1, 1.0], "tfinal": [1.5], "deltaT": [0], "beta1": [0, 1.0], "beta2": ["x"]},
    },
    "loramini": {"a_width": [2.5], "b_width": [True]},
    "lorand": {"num_branches": [0], "kernel_size": [-1], "reduction_factor": [1.5]},
    "loraxs": {"init_std": [-1e-5, float("nan"), float("inf")]},
    "lorta": {"num_heads": [0, 2.0], "rank_pattern": [{"query": 2}], "init_weights": ["eigen_largest"]},
    "melora": {"num_mini_loras": [0]},
    "prilora": {"r_first": [0], "pruned_share": [1.0, -0.1], "pruning_interval": [0], "norm_decay": [1.0]},
    "sara": {"share": [0.0, 1.01]},
    "singlora": {"ramp": [-1, 1.5, "1"]},
    "symlora": {
        "r": [0, 2.0, True],
        "alpha": [0, float("inf"), "8", True],
        "rank_pattern": [None, {"query": -1}, {"(": 2}],
        "alpha_pattern": [{"query": -2.0}, {"(": 2.0}, "query"],
        "init_std": [0.0, -1.0, float("nan"), float("inf"), "wide", True],
        "train_lambda": ["yes"],
        "init_weights": ["pissa", 1, None],
        "target_modules": ["("],
        "exclude_modules": ["("],
        "layers_to_transform": ["1", [0, -1]],
        "dropout": [1.0, -0.1, "0.1"],
        "bias": ["lora_only", None],
    },
    "symloraorthonormal": {"init_std": [0.0]},
    "xgblora": {"boosters": [0]},
}


def test_every_rule_has_a_bad_value() -> None:
    for method in OWN:
        ruled = {field.name for field in fields(CONFIGS[method]) if field.metadata.get("rule")}
        missing = ruled - COMMON.keys() - RANKED.keys() - BAD.get(method, {}).keys()
        assert missing <= {"train_lambda"} if method == "symloraorthonormal" else not missing, method


@pytest.mark.parametrize("method", CONFIGS)
def test_names_and_defaults_of_a_configuration(method: str) -> None:
    found = {name.name: getattr(CONFIGS[method](), name.name) for name in fields(CONFIGS[method])}
    base = {name.name for name in fields(PeftConfig)}
    ranked = RANKED if issubclass(CONFIGS[method], LowRankConfig) else {}
    assert {name: value for name, value in found.items() if name not in base} == {**COMMON, **ranked, **OWN[method]}
    assert found["peft_type"] == method.upper()


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [(method, field, value) for method in BAD for field, values in BAD[method].items() for value in values],
)
def test_a_bad_value_is_refused_with_its_field_and_rule(method: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        CONFIGS[method](**{field: value})
    message = str(caught.value)
    assert re.fullmatch(rf"{method}: {field} must be .+, got {re.escape(repr(value))}", message), message


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("prilora", {"r_first": 9}, "prilora: r_first = 9 is more than r = 8, the mean rank"),
        ("symlora", {"target_modules": "q", "layers_to_transform": [0]}, "need `target_modules` to be a list of names"),
        ("symlora", {"layers_pattern": "layer"}, "`layers_pattern` has no effect without `layers_to_transform`"),
    ],
)
def test_fields_that_do_not_go_together(method: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}$"):
        CONFIGS[method](**fields)


def test_good_values_are_taken() -> None:
    """At the edges of their rules, and in every shape."""
    CONFIGS["lora2"](tinit=0.5, tfinal=3, orth_reg_weight=0, target_r=8, beta1=1e-9)
    CONFIGS["sara"](share=1)
    CONFIGS["edora"](init_std=0)
    CONFIGS["prilora"](pruned_share=0, norm_decay=0.0, r_first=8)
    config = CONFIGS["symlora"](
        target_modules=["query", "value"],
        exclude_modules=r".*\.1\..*",
        layers_to_transform=[0, 3],
        layers_pattern="layer",
        rank_pattern={r".*\.query": 2},
        alpha_pattern={"query": 0.5},
        dropout=0,
        bias="symlora_only",
    )
    assert config.target_modules == {"query", "value"}
    assert config.rank_and_scale("encoder.0.query") == (2, 0.25) and config.rank_and_scale("value") == (8, 1.0)
    assert CONFIGS["symmetric"]().rank_and_scale("query") == (0, 1.0)
    assert config.to_dict()["peft_type"] == "SYMLORA"
