"""How each method of our own starts, container by container, and the containers' names in a saved adapter.

With B = 0 no test of outputs sees the scale of a start; how fast the method learns depends on it all the same.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from layers import CONFIGS, SQUARE, containers, model_of
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from scipy import stats

from symlora.adapters.config import LowRankConfig

N_IN, N_OUT, R = 256, 192, 64  # no two alike, so that a bound of the wrong width shows
Start = tuple[str, float]
ONE, ZERO = ("constant", 1.0), ("constant", 0.0)
ELSEWHERE = ("elsewhere", 0.0)  # orthonormal, or singular vectors: tests/test_methods_formulas.py and _controls.py


def kaiming(width: int) -> Start:
    """Of torch.nn.Linear and of LoRA's code: Kaiming uniform with a = √5 is within ±1/√(number of inputs)."""
    return "uniform", 1 / math.sqrt(width)


# Sizes, other than the rank R, where a container would else hold too few values to tell its distribution.
FIELDS: dict[str, dict[str, Any]] = {
    "houlsby": {"init_std": 0.2},
    "lora2": {"inner_width": 48, "target_r": 8, "init_std": 0.3},
    "loramini": {"a_width": 96, "b_width": 128},
    "lorand": {"num_branches": 3, "kernel_size": 24, "reduction_factor": 2},
    "lorta": {"num_heads": 8},
    "melora": {"num_mini_loras": 4, "r": 16},
    "prilora": {"rank_pattern": {"0": R}},  # its ranks follow from the layers' numbers, of which there are none here
    "sara": {"rank_pattern": {"0": R}},  # its rank follows from the weight
    "symlora": {"init_std": 0.1},
    "singlora": {"ramp": 0.1},
    "symlora eigen": {"init_weights": "eigen_largest"},
    "xgblora": {"boosters": 3},
}
# What the docstrings of symlora/adapters state; notes: peers.md §2.
STARTS: dict[str, dict[str, Start]] = {
    "asymlora": {"asymlora_B": ZERO, "asymlora_frozen_A": ELSEWHERE},
    "dylora": {"dylora_A": kaiming(N_IN), "dylora_B": ZERO, "dylora_rows": ONE, "dylora_trained": ONE},
    "edora": {"edora_R": ("normal", 1e-5), "edora_m": ELSEWHERE, "edora_A": ELSEWHERE, "edora_B": ELSEWHERE},
    "houlsby": {
        **dict.fromkeys(("houlsby_down", "houlsby_up"), ("cut", 0.2)),
        **dict.fromkeys(("houlsby_down_bias", "houlsby_up_bias"), ZERO),
    },
    "lora2": {
        **dict.fromkeys(("lora2_A", "lora2_B", "lora2_aa", "lora2_bb"), ("normal", 0.3)),
        "lora2_E": ZERO,
        **{f"lora2_{kind}_{name}": ZERO for kind in ("sensitivity", "uncertainty") for name in ("E", "B", "aa")},
    },
    "loralambda": {"loralambda_A": kaiming(N_IN), "loralambda_B": ZERO, "loralambda_lambda": ONE},
    "loramini": {
        **{"loramini_A_aux": kaiming(N_IN), "loramini_A_train": kaiming(96)},
        **{"loramini_B_aux": kaiming(128), "loramini_B_train": ZERO},
    },
    "lorand": {
        **dict.fromkeys(("lorand_down_P", "lorand_K", "lorand_up_P"), kaiming(24)),
        **dict.fromkeys(("lorand_up_Q", "lorand_down_bias"), kaiming(N_OUT)),
        **dict.fromkeys(("lorand_down_Q", "lorand_up_bias"), kaiming(N_OUT // 2)),
    },
    "loraxs": {"loraxs_R": ("normal", 1e-5), "loraxs_A": ELSEWHERE, "loraxs_B": ELSEWHERE},
    "lorta": {
        **dict.fromkeys(("lorta_A", "lorta_C_head", "lorta_C_matrix", "lorta_C_layer"), kaiming(R)),
        "lorta_B": ZERO,
    },
    "melora": {"melora_A": kaiming(N_IN // 4), "melora_B": ZERO},
    "prilora": {"prilora_A": kaiming(N_IN), "prilora_B": ZERO, "prilora_norm": ZERO},
    "sara": {"sara_A": kaiming(N_IN), "sara_diag": ONE, "sara_B": ZERO},
    "singlora": {"singlora_A": kaiming(N_IN), "singlora_ramp": ZERO},
    "symlora eigen": {
        **dict.fromkeys(("symlora_Q", "symlora_diag", "symlora_start_Q", "symlora_start_diag"), ELSEWHERE),
        "symlora_lambda": ONE,
    },
    "symlora": {"symlora_Q": ("normal", 0.1), "symlora_diag": ZERO, "symlora_lambda": ONE},
    "symloraorthonormal": {"symlora_Q": ELSEWHERE, "symlora_diag": ZERO, "symlora_lambda": ONE},
    "symmetric": {"symmetric_upper": ZERO},
    "xgblora": {"xgblora_A": kaiming(N_IN), "xgblora_B": ZERO, "xgblora_merged_A": ZERO, "xgblora_merged_B": ZERO},
}


def started(case: str, seed: int = 0) -> Any:
    method, fields = case.split()[0], FIELDS.get(case, {})
    if issubclass(CONFIGS[method], LowRankConfig):
        fields = {"r": R, **fields}
    with torch.random.fork_rng(devices=[]):
        return model_of(CONFIGS[method](**fields), N_IN, N_IN if method in SQUARE else N_OUT, torch.float32, seed)


@pytest.mark.parametrize("case", STARTS)
def test_a_method_starts_as_its_docstring_states(case: str) -> None:
    found = containers(started(case).base_model.model[0])
    assert found.keys() == STARTS[case].keys()
    for name, (kind, number) in STARTS[case].items():
        values = found[name].detach().double().flatten().numpy()
        if kind == "constant":
            assert (values == number).all(), name
        elif kind != "elsewhere":
            laws = {"uniform": stats.uniform(-1, 2), "normal": stats.norm(), "cut": stats.truncnorm(-2, 2)}
            wanted = laws[kind]
            values = values / number
            assert len(set(values.tolist())) > 0.99 * len(values) >= 60, f"{name}: too few, or one drawn for several"
            assert abs(values).max() <= wanted.support()[1] * (1 + 1e-6), name
            assert stats.kstest(values, wanted.cdf).pvalue > 1e-3, name
            # The standard error of a standard deviation: σ √((κ - 1) / 4n), κ the kurtosis (scipy gives κ - 3).
            error = math.sqrt((float(wanted.stats("k")) + 2) / (4 * len(values)))
            assert abs(float(values.std()) / float(wanted.std()) - 1) < 4 * error, name


@pytest.mark.parametrize("method", CONFIGS)
def test_the_names_in_a_saved_adapter_are_those_of_the_table(method: str, tmp_path: Path) -> None:
    """They are those of adapters saved long ago, so that such a file loads, value by value."""
    started(method).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    module = "base_model." if method == "lorta" else "base_model.model.0."
    assert stored.keys() == {module + name for name in STARTS[method]}
    again: Any = PeftModel.from_pretrained(started(method, seed=1).unload(), str(tmp_path))
    for key, value in get_peft_model_state_dict(again).items():
        assert torch.equal(value, stored[key]), key
