"""Gather the norms that Figure 1 shows."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from symlora.audit.names import CLAIMED, REFERENCE
from symlora.report.choice import Chosen, Key
from symlora.store.folder import load_run

PROJECTIONS = {
    **dict.fromkeys(("query", "q_lin", "query_proj", "q_proj", "q"), "query"),
    **dict.fromkeys(("value", "v_lin", "value_proj", "v_proj", "v"), "value"),
}
QUANTITIES = (
    "lambda", "lambda_w0_frobenius", "delta_frobenius", "difference_frobenius", "log10_ratio",
    "lambda_w0_l1", "delta_l1", "difference_l1", "decay_only", "decay_to_zero",
)  # fmt: skip
_WITH_LAMBDA = ("LORALAMBDA", "SYMLORA", "SYMLORAORTHONORMAL")
_CELL = ["task", "method", "projection", "layer"]
_RUN = ["protocol", "model", "task", "method", "configuration", "seed"]


def read_norms(runs: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read norms.parquet of every finished run that has an adapter.

    Runs that only chose a configuration are left out.

    Returns:
        A frame with a row per run and adapted projection: _RUN, projection, layer (from 1, at the embeddings),
        w0_frobenius and QUANTITIES; and the runs whose norms cannot be used, each with the reason.
    """
    nothing = pd.DataFrame(columns=[*_RUN, "projection", "layer", "w0_frobenius", *QUANTITIES])
    tables, bad = [], []
    wanted = (runs["status"] == "finished") & (runs["adapter"] > 0) & ~runs["chose"].eq(True)
    for run in runs[wanted].to_dict("records"):
        try:
            record = load_run(run["folder"])
            if "norms.parquet" not in record["files"]:
                continue  # a method without a matrix
            decay = _decay(record)
            table = _norms(pd.read_parquet(run["folder"] / "norms.parquet"))
            tables.append(table.assign(**decay, **{key: run[key] for key in _RUN}))
        except Exception as error:  # whatever a parquet reader says of a broken file
            place = "/".join(run["folder"].parts[-6:])
            bad.append(f"{place}: norms.parquet cannot be used ({type(error).__name__})")
    return pd.concat(tables or [nothing], ignore_index=True), tuple(bad)


def _decay(record: dict[str, Any]) -> dict[str, float]:
    """Compute λ at the kept epoch by decay alone; NaN without λ."""
    method = record["config"]["method"]
    trained = method["peft_type"] in _WITH_LAMBDA and method["peft_config"].get("train_lambda", True)
    if not trained or record["config"]["init_from"]:  # whose λ does not start at 1
        return {"decay_only": math.nan, "decay_to_zero": math.nan}
    kept = record["selections"][record["score"]["selection"]]["epoch"]
    toward_zero = decay_to_zero(record["config"]["train"], record["data"]["train"]["rows"], kept)
    # Without decay nothing moves λ, and `one` pulls it to where it starts.
    return {"decay_only": toward_zero if method["lambda_decay"] == "zero" else 1.0, "decay_to_zero": toward_zero}


def decay_to_zero(train: Mapping[str, Any], rows: int, epoch: int) -> float:
    """Compute λ after some epochs of AdamW's decay toward 0 alone.

    It is exp(-wd · Σ lr_t). AdamW multiplies by 1 - wd · lr_t; the two differ by less than (wd · lr)² a step. `train`
    has the fields of TrainConfig, `rows` are those of the training split.
    """
    per_epoch = math.ceil(rows / train["batch_size"])
    steps = per_epoch * train["epochs"]
    warmup = math.ceil(train["warmup_ratio"] * steps)
    shares = (
        step / warmup if step < warmup else (steps - step) / max(1, steps - warmup) for step in range(per_epoch * epoch)
    )
    return math.exp(-train["weight_decay"] * train["lr"] * math.fsum(shares))


def _norms(stored: pd.DataFrame) -> pd.DataFrame:
    """Derive the figures' quantities from those of symlora.runner.norms.

    difference_*: |λ|‖W0‖_F - ‖ΔW‖_F; and as the paper's formula has it, λ Σ|w0| - Σ|Δw|, where λ keeps its sign.
    log10_ratio: log10(‖ΔW‖_F / ‖W0‖_F), which leaves λ out and so means the same for every method; missing at ΔW = 0.
    """
    stored = stored[stored["layer"].notna()]
    kept = ["w0_frobenius", "lambda", "lambda_w0_frobenius", "delta_frobenius", "delta_l1"]
    table = stored[kept].astype(float)
    table["projection"] = stored["projection"].map(lambda name: PROJECTIONS.get(name, name))
    table["layer"] = stored["layer"].astype(int) + 1
    table["difference_frobenius"] = table["lambda_w0_frobenius"] - table["delta_frobenius"]
    ratio = table["delta_frobenius"] / table["w0_frobenius"]
    table["log10_ratio"] = ratio.where(ratio > 0).map(math.log10, na_action="ignore")
    table["lambda_w0_l1"] = table["lambda"] * stored["w0_l1"]
    table["difference_l1"] = table["lambda_w0_l1"] - table["delta_l1"]
    return table


def cells(chosen: Mapping[Key, Chosen], norms: pd.DataFrame, model: str, protocol: str) -> pd.DataFrame:
    """Average query and value over seeds, for one model and protocol.

    Returns:
        One row for each task (with a run of any method, in Table 1's order), method (SymLoRA, LoRA, then others that
        have norms), projection and layer: configuration, why (it was chosen), seeds (0 where no finished run fills the
        cell; its values are missing then), failed (seeds), every one of `QUANTITIES` as a mean over the seeds, and with
        `_s` as their standard deviation (n - 1; missing for one seed).
    """
    here = [entry for key, entry in chosen.items() if key[:2] == (model, protocol) and len(entry.runs)]
    norms = norms[(norms["model"] == model) & (norms["protocol"] == protocol)]
    norms = norms[norms["projection"].isin(list(PROJECTIONS.values()))]
    picked = pd.DataFrame(
        [(*entry.key[2:], entry.runs["configuration"].iloc[0], entry.why, entry.failed) for entry in here],
        columns=["task", "method", "configuration", "why", "failed"],
    )
    by_cell = norms.merge(picked, on=["task", "method", "configuration"]).groupby(_CELL)
    means, spreads = by_cell[list(QUANTITIES)].mean(), by_cell[list(QUANTITIES)].std(ddof=1).add_suffix("_s")
    values = pd.concat([by_cell["seed"].nunique().rename("seeds"), means, spreads], axis=1)
    places = (
        dict.fromkeys(entry.key[2] for entry in here),
        dict.fromkeys((CLAIMED, REFERENCE, *sorted(set(norms["method"])))),
        *(sorted(set(norms[key])) for key in ("projection", "layer")),
    )
    grid = values.reindex(pd.MultiIndex.from_product(places, names=_CELL)).reset_index()
    grid = grid.merge(picked, on=["task", "method"], how="left")
    return grid.fillna({"seeds": 0, "failed": 0}).astype({"seeds": int, "failed": int})
