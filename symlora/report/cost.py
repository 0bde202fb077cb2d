"""Compare scores with costs: means over finished runs, and PSCP.

PSCP (PEFT-Bench, arXiv 2511.21285; its authors' cal_psqp.py) is score · Π (1 + M/C)^-β over a method's costs M: trained
parameters, inference and training memory. C are reference costs, and every β is 1. PEFT-Bench sets C to 5·10^8
parameters, 10 TFLOP beyond the base model's and 94 GB, for models of billions of parameters; at an encoder's costs each
factor would be 1 to two decimals. Here C is what LoRA costs on the same task, and inference is measured as time.
"""

import math
from collections.abc import Mapping

import pandas as pd

from symlora.audit.names import REFERENCE
from symlora.report.choice import Chosen, Key

PENALISED = {"total": "trained parameters", "peak_memory_bytes": "memory", "inference_seconds": "inference time"}
"""Columns of symlora.report.collect, and their names."""


def mean_costs(runs: pd.DataFrame) -> dict[str, float]:
    """Average costs over runs; NaN if one is unknown."""
    return {name: float(runs[name].mean(skipna=False)) for name in (*PENALISED, "train_seconds")}


def pscp(score: float, costs: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Compute the score after PSCP's penalties; NaN if a cost is missing."""
    return score / math.prod(1 + costs[name] / reference[name] for name in PENALISED)


def cell_pscp(cell: Chosen, chosen: Mapping[Key, Chosen]) -> tuple[float, str]:
    """Compute a method's PSCP in points, or say what is missing."""
    runs, reference = cell.finished, chosen[(*cell.key[:3], REFERENCE)].finished
    if reference.empty:
        return math.nan, "no run of LoRA"
    for column in ("device", "pack"):
        if set(runs[column]) != set(reference[column]):
            return math.nan, f"other {column}"
    costs, other = mean_costs(runs), mean_costs(reference)
    for name, words in PENALISED.items():
        if not (costs[name] >= 0 and other[name] > 0):
            return math.nan, f"no {words} recorded"
    return pscp(100 * float(runs["score"].mean()), costs, other), ""
