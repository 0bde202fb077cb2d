"""PEFT's own test-suite on our methods. Run by tests/test_peft_contract.py in a pytest of its own.

PEFT's tests take their cases from three tables. Ours go into them, and of every class only tests that take a case run.
"""

import importlib
import importlib.util
import os
import sys
from copy import copy
from dataclasses import field, make_dataclass
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from layers import CONFIGS
from torch import nn

# What a method needs to fit a layer 10 -> 10 of a model without configuration, and to move in three steps of SGD.
NEEDS: dict[str, dict[str, Any]] = {
    "houlsby": {"bottleneck_size": 5},
    "lora2": {"init_std": 0.5},  # its five factors multiply: 0.02, the authors' start, is for AdamW
    "loramini": {"a_width": 9, "b_width": 9},
    "lorand": {"kernel_size": 2},
    "lorta": {"num_heads": 2, "alpha": 64},  # its five factors multiply
    "melora": {"num_mini_loras": 2, "r": 2},
    "prilora": {"rank_pattern": {"lin.*": 4}},
}
OWN: dict[str, list[dict[str, Any]]] = {
    "asymlora": [{"freeze": "B"}, {"frozen_init": "svd"}],
    "dylora": [{"frozen": False}],
    "lora2": [{"inner_width": 3, "target_r": 2}],
    # No eigen start: the suite sets init_weights=False for saving, and loads with the case's own.
    "symlora": [{"train_lambda": False, "rank_pattern": {"lin1": 3}}],
    "symloraorthonormal": [{"train_lambda": False}],
}
BOTH: dict[str, Any] = {"target_modules": ["lin0", "lin1"]}
NO_MATRIX = ("houlsby", "lorand")  # a bottleneck is not linear in x; merging it is refused
# Tests that a method fails, and why it may. One that passes after all is an error.
EXCUSED = {
    ("lorand", "test_disable_adapters"): "starts away from the base model, as the public code does",
    ("singlora", "test_disable_adapters"): "starts away from the base model without its ramp",
    ("singlora", "test_disable_adapters_with_merging"): "the same",
}


def fields_of(method: str, fields: dict[str, Any]) -> dict[str, Any]:
    ranked = {"r": 4, "alpha": 2} if "r" in CONFIGS[method].__dataclass_fields__ else {}
    return {**ranked, **NEEDS.get(method, {}), **fields}


def cases_of(method: str, full: bool) -> list[dict[str, Any]]:
    few = [BOTH, {"target_modules": "lin0"}, {"target_modules": ["lin1"]}]
    few += [{"target_modules": ["lin0"], "modules_to_save": ["lin1"]}, {**BOTH, "dropout": 0.1}]
    few += [{**BOTH, **own} for own in OWN.get(method, [])]
    return [fields_of(method, fields) for fields in few[: None if full else 1]]


def suited(method: str) -> Any:
    """The method's configuration class, with what it needs as defaults: some tests give a target and no more."""
    base = CONFIGS[method]
    values = [(name, Any, field(default_factory=partial(copy, value))) for name, value in NEEDS.get(method, {}).items()]
    return make_dataclass(base.__name__, values, bases=(base,))


def import_suite(sdist: str, methods: list[str], full: bool) -> Any:
    """PEFT's tests/test_custom_models.py, with our cases in the tables that its decorators hold."""
    if importlib.util.find_spec("diffusers") is None:  # imported by the suite for tests of image models only
        stub: Any = ModuleType("diffusers")
        stub.__spec__ = ModuleSpec("diffusers", None)
        stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
        sys.modules["diffusers"] = stub
    package = ModuleType("peft_tests")  # the folder has no __init__.py, and "tests" is our own
    package.__path__ = [str(Path(sdist) / "tests")]
    sys.modules["peft_tests"] = package
    pytest.register_assert_rewrite("peft_tests.test_custom_models", "peft_tests.testing_common")
    suite: Any = importlib.import_module("peft_tests.test_custom_models")
    common: Any = importlib.import_module("peft_tests.testing_common")
    suite.TEST_CASES[:] = [
        (f"{method} {number}", "MLP", CONFIGS[method], fields)
        for method in methods
        for number, fields in enumerate(cases_of(method, full))
    ]
    suite.ALL_PEFT_CONFIG_CLASSES[:] = [suited(method) for method in methods]
    pairs = {"Same": (["lin0"], ["lin0"]), "Different": (["lin0"], ["lin1"]), "Overlap": (["lin0"], ["lin0", "lin1"])}
    suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = [
        (
            f"{method} {name}",
            method,
            CONFIGS[method],
            *(fields_of(method, {"target_modules": targets, "init_weights": False}) for targets in both),
        )
        for method in methods
        for name, both in list(pairs.items())[: None if full else 1]
    ]
    asked = common._skip_if_merging_not_supported

    def merging(model_id: str, config_cls: Any, config_kwargs: Any) -> None:
        if config_cls.method in NO_MATRIX:
            pytest.skip("A bottleneck is not merged")
        asked(model_id, config_cls, config_kwargs)

    suite._skip_if_merging_not_supported = common._skip_if_merging_not_supported = merging
    return suite


_suite = import_suite(
    os.environ["PEFT_SDIST"], os.environ["PEFT_CONTRACT"].split(","), bool(os.environ["PEFT_CONTRACT_FULL"])
)
_TABLES = [_suite.TEST_CASES, _suite.ALL_PEFT_CONFIG_CLASSES, _suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES]


def with_cases_only(cls: Any) -> Any:
    """Hide the tests of the suite that do not take our cases."""
    for name in dir(cls):
        marks = getattr(getattr(cls, name), "pytestmark", [])
        if name.startswith("test") and not any(
            mark.name == "parametrize" and any(mark.args[1] is table for table in _TABLES) for mark in marks
        ):
            setattr(cls, name, None)
    return cls


class Excuses:
    """What holds for every class below."""

    @pytest.fixture(autouse=True)
    def _excuse(self, request: pytest.FixtureRequest) -> None:
        method = request.node.callspec.params["config_cls"].method
        reason = EXCUSED.get((method, request.node.originalname))
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=f"Excused: {reason}", strict=True))


class SquareMLP(_suite.MLP):  # type: ignore[name-defined, misc]
    """PEFT's MLP, but 10 -> 10 -> 10 where PEFT's is 10 -> 20 -> 2: SymLoRA takes square matrices."""

    def __init__(self, bias: bool = True):
        super().__init__(bias)
        self.lin0, self.lin1 = nn.Linear(10, 10, bias=bias), nn.Linear(10, 10, bias=bias)


_suite.MLP = SquareMLP


@with_cases_only
class TestCustomModel(Excuses, _suite.TestPeftCustomModel):  # type: ignore[name-defined, misc]
    """Attributes, saving, loading, merging, training, dtypes, deleting, disabling."""

    def prepare_inputs_for_testing(self) -> dict[str, torch.Tensor]:
        # PEFT's inputs run from 0 to 89; it lowers its learning rate of 0.5 by hand for methods that this sends to
        # NaN (where "has changed" always holds). Inputs below 1 keep ours finite at 0.5.
        return {name: x / 90 for name, x in super().prepare_inputs_for_testing().items()}


@with_cases_only
class TestActive(Excuses, _suite.TestMultipleActiveAdapters):  # type: ignore[name-defined, misc]
    """Several adapters at work."""


@with_cases_only
class TestGrad(Excuses, _suite.TestRequiresGrad):  # type: ignore[name-defined, misc]
    """What is trainable after adding and switching."""


@with_cases_only
class TestFsdp(Excuses, _suite.TestPeftFsdpStateDict):  # type: ignore[name-defined, misc]
    """State dicts of a sharded model."""
