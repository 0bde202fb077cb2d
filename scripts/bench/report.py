"""Show the bench's record as text.

A ratio is taken within a round, where both sides met the same machine; its median over the rounds is shown with the
least and the greatest. A share of the peak is of the fastest matmul in the same round.
"""

import re
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from bench.cases import DYNAMIC, PADDED
from symlora.config.formatting import text_table

BUSY = 0.5  # load average above which timings are not to be trusted
Rounds = dict[int, dict[str, Any]]  # measurements of one case


def text(record: dict[str, Any]) -> str:
    """Show the head, a table for each task, and the peak."""
    return "\n\n".join([_head(record), *(_task(record, task) for task in record["settings"]["tasks"]), _peak(record)])


def _head(record: dict[str, Any]) -> str:
    about, threads, size = record["provenance"], record["threads"], record["encoder"]
    commit = (about["commit"] or "unknown")[:10] + (" and changes" if about["dirty"] else "")
    busy = f"WARNING: load average {record['load_average']:.1f} at the start: a busy machine, wrong timings"
    lines = [
        f"{about['device']}, {record['cores']} cores; torch {about['packages']['torch']}, commit {commit}",
        f"encoder: {size['layers']} layers, {size['width']} wide; batch {record['batch_size']}, "
        f"{record['settings']['rounds']} rounds, medians (least to most)",
        f"ours: {len(threads['ours'])} processes of {threads['ours'][0]} threads; "
        f"Hugging Face: 1 process of {threads['baseline'][0]}",
    ]
    return "\n".join(lines + [busy] * (record["load_average"] > BUSY))


def _task(record: dict[str, Any], task: str) -> str:
    data = record["data"][task]
    kind = "real sentences" if data["source"] == "glue" else "DEMO sentences (GLUE_DIR is not set), not this task's"
    head = f"{task}: {kind}, {data['measured_mean_tokens']:.1f} tokens a row (split: {data['mean_tokens']:.1f})"
    table = task_table(record, task)
    return f"{head}\n{_grid(['', *next(iter(table.values()))], [[name, *row.values()] for name, row in table.items()])}"


def task_table(record: dict[str, Any], task: str) -> dict[str, dict[str, str]]:
    """Make one row a case, from its name, of cells by column."""
    by_case: dict[str, Rounds] = {}
    for entry in record["measurements"]:
        if entry["label"] == task:
            by_case.setdefault(entry["case"]["name"], {})[entry["round"]] = entry
    best: dict[tuple[int, str], float] = {}  # by round and precision
    for peak in record["peaks"]:
        if peak["label"] == task and peak["how"] != "1 thread":
            key = peak["round"], peak["precision"]
            best[key] = max(best.get(key, 0.0), peak["flops_per_second"])
    # The strongest rival of each round, by useful FLOPs: its rows are not quite those of the others.
    strongest = [rounds for rounds in by_case.values() if rounds[1]["case"]["padding"] == "grouped"]
    rival = {turn: max(r[turn]["flops"] / r[turn]["seconds"] for r in strongest) for turn in (strongest or [{}])[0]}
    table = {}
    for name, rounds in by_case.items():
        entries, (first, *_) = list(rounds.values()), rounds.values()
        case, memory = first["case"], first["peak_bytes"]
        single = by_case.get(re.sub(r"K = \d+", "K = 1", name), {}) if case["runs"] > 1 else {}
        shares = [e["flops"] / e["seconds"] / best.get((e["round"], case["precision"]), np.nan) for e in entries]
        table[name] = {
            "sentences/s": _median([entry["sentences_per_second"] for entry in entries], 1),
            "ms/run step": _median([1e3 * entry["seconds_per_run_step"] for entry in entries], 1),
            "x padded": _range(_ratios(rounds, by_case.get(PADDED, {})), 2),
            "x dynamic": _range(_ratios(rounds, by_case.get(DYNAMIC, {})), 2),
            "x rival": _range([e["flops"] / e["seconds"] / rival[e["round"]] for e in entries if rival], 2),
            "x K = 1": _median(_ratios(rounds, single), 2),
            "of peak": _median([share for share in shares if not np.isnan(share)], 2),
            "MB/process": "-" if memory is None else f"{memory / 1e6:.0f}",
            "MB/run": "-" if memory is None else f"{memory / 1e6 / case['runs']:.0f}",
        }
    return table


def _ratios(rounds: Rounds, others: Rounds) -> list[float]:
    return [e["sentences_per_second"] / others[i]["sentences_per_second"] for i, e in rounds.items() if i in others]


def _peak(record: dict[str, Any]) -> str:
    """Show the rates of each matmul, one column for each of its sizes."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for entry in record["peaks"]:
        sizes = found.setdefault((entry["precision"], entry["how"]), {})
        sizes.setdefault(entry["matmul"], []).append(1e-9 * entry["flops_per_second"])
    names = list(next(iter(found.values()), {}))
    rows = [[", ".join(key), *(_range(sizes[name], 0) for name in names)] for key, sizes in found.items()]
    return _grid(["GFLOP/s of a matmul", *names], rows)


def _median(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f}" if values else "-"


def _range(values: Sequence[float], digits: int) -> str:
    return f"{_median(values, digits)} ({min(values):.{digits}f} to {max(values):.{digits}f})" if values else "-"


def _grid(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return text_table(names, rows, "l" + "r" * (len(names) - 1))
