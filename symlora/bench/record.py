"""What follows from the measurements: per-round ratios and their medians, shares of the peak, and the bounds.

A ratio is taken within a round, where both sides met the same machine, and its median over the rounds is reported with
the least and the greatest.
"""

import re
from collections.abc import Sequence
from statistics import median
from typing import Any

from symlora.bench.growth import exponent

PADDED, DYNAMIC = "HF + PEFT, padded to 128", "HF + PEFT, dynamic padding"
# The least speed-up of our best pack over the padded and the dynamically padded baseline (issue 3, "How fast").
OVER_PADDED = {"rte": 4.0, "mrpc": 5.0, "stsb": 7.0, "cola": 13.0}
OVER_DYNAMIC = {"rte": 3.5, "cola": 1.5}
FP32_SHARE = 0.85  # useful FLOPs of flat fp32 over the fp32 matmul peak
PACKED_GPU = {"rte": 5.0, "cola": 15.0}  # runs per hour, best pack over K = 1, on a GPU
BF16_SHARE_GPU = 0.5  # at the best K, for an encoder of 12 layers, 768 wide

Spread = dict[str, float]


def derive(raw: dict[str, Any]) -> dict[str, Any]:
    """The raw record with `table`, `peak`, `growth` and `bounds` beside it."""
    table = {task: task_table(raw, task) for task in raw["settings"]["tasks"]}
    return {
        **raw,
        "table": table,
        "peak": peak_table(raw),
        "growth": {part: growth_table(raw, part) for part in ("length", "layers")},
        "bounds": bounds(raw, table),
    }


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def best_rate(raw: dict[str, Any], label: str, turn: int, precision: str) -> float | None:
    """The whole machine's matmul peak in one round: the fastest shape, by processes or by threads."""
    rates = [
        entry["flops_per_second"]
        for entry in raw["peaks"]
        if (entry["label"], entry["round"], entry["precision"]) == (label, turn, precision)
        and entry["how"] != "1 thread"
    ]
    return max(rates, default=None)


def task_table(raw: dict[str, Any], task: str) -> dict[str, dict[str, Any]]:
    """One row a configuration."""
    by_case: dict[str, dict[int, dict[str, Any]]] = {}
    for entry in raw["measurements"]:
        if entry["part"] == "task" and entry["label"] == task:
            by_case.setdefault(entry["case"]["name"], {})[entry["round"]] = entry
    table = {}
    for name, rounds in by_case.items():
        first = next(iter(rounds.values()))
        row: dict[str, Any] = {"case": first["case"], "processes": first["processes"]}
        for key in ("sentences_per_second", "seconds_per_step", "seconds_per_run_step"):
            row[key] = spread([entry[key] for entry in rounds.values()])
        for key, other in (("over_padded", PADDED), ("over_dynamic", DYNAMIC), ("over_single", _single(first["case"]))):
            row[key] = _ratio(rounds, by_case.get(other))
        shares = [
            entry["flops"] / entry["seconds"] / rate
            for turn, entry in rounds.items()
            if (rate := best_rate(raw, task, turn, first["case"]["precision"])) is not None
        ]
        row["share_of_peak"] = spread(shares) if shares else None
        row["peak_bytes"] = first["peak_bytes"]
        table[name] = row
    return table


def _single(case: dict[str, Any]) -> str:
    """Name of the same configuration with one run."""
    return re.sub(r"K = \d+", "K = 1", case["name"])


def _ratio(rounds: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]] | None) -> Spread | None:
    if not others:
        return None
    key = "sentences_per_second"
    return spread([entry[key] / others[turn][key] for turn, entry in rounds.items() if turn in others])


def peak_table(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each precision and way of using the machine the FLOP/s of every shape, median over all rounds."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for entry in raw["peaks"]:
        found.setdefault((entry["precision"], entry["how"], entry["matmul"]), []).append(entry["flops_per_second"])
    return [
        {"precision": precision, "how": how, "matmul": matmul, "flops_per_second": spread(rates)}
        for (precision, how, matmul), rates in found.items()
    ]


def growth_table(raw: dict[str, Any], part: str) -> dict[str, Any]:
    """Milliseconds a step by length or by layers, and the exponent of the growth."""
    found: dict[int, list[float]] = {}
    for entry in raw["measurements"]:
        if entry["part"] == part:
            found.setdefault(int(entry["case"]["name"].split()[-1]), []).append(entry["seconds_per_step"])
    rows = {size: spread(seconds) for size, seconds in found.items()}
    medians = [row["median"] for row in rows.values()]
    return {"seconds_per_step": rows, "exponent": exponent([float(size) for size in rows], medians)}


def bounds(raw: dict[str, Any], table: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every bound: what was wanted and found, and by which configuration; `found` is None where it was not measured."""
    if raw["device_type"] == "cuda":
        found = [_best(table, task, "over_single", wanted) for task, wanted in PACKED_GPU.items()]
        large = (raw["encoder"]["layers"], raw["encoder"]["width"]) == (12, 768)
        return found + [_best(table, task, "share_of_peak", BF16_SHARE_GPU) for task in PACKED_GPU if large]
    found = [_best(table, task, "over_padded", wanted) for task, wanted in OVER_PADDED.items()]
    found += [_best(table, task, "over_dynamic", wanted) for task, wanted in OVER_DYNAMIC.items()]
    for name in ("ours fp32, K = 1", "ours fp32, K = 1, no dropout"):
        found += [_bound(task, "share_of_peak", FP32_SHARE, table[task].get(name)) for task in table]
    return found


def _best(table: dict[str, dict[str, dict[str, Any]]], task: str, key: str, wanted: float) -> dict[str, Any]:
    """The bound held against the configuration of ours that is best in this respect, with dropout as the baseline."""
    rows = [
        row
        for row in table.get(task, {}).values()
        if row["case"]["side"] == "ours" and row["case"]["dropout"] and row[key] is not None
    ]
    return _bound(task, key, wanted, max(rows, key=lambda row: float(row[key]["median"]), default=None))


def _bound(task: str, key: str, wanted: float, row: dict[str, Any] | None) -> dict[str, Any]:
    value = None if row is None or row[key] is None else row[key]
    return {
        "task": task,
        "what": key,
        "wanted": wanted,
        "found": value,
        "case": None if row is None else row["case"]["name"],
        "met": None if value is None else value["median"] >= wanted,
    }
