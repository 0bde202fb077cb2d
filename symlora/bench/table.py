"""The bench's record as text."""

from collections.abc import Sequence
from typing import Any

from symlora.bench.record import Spread

_WHAT = {
    "over_padded": "times padded",
    "over_dynamic": "times dynamic padding",
    "over_single": "times K = 1, runs per hour",
    "share_of_peak": "of the matmul peak",
}
_EMPTY = "-"


def text(record: dict[str, Any]) -> str:
    """Everything that a reader wants to see."""
    parts = [_head(record), *(_task(record, task) for task in record["table"])]
    parts += [_peak(record), _growth(record), _bounds(record)]
    if record["device_type"] != "cuda":
        parts.append("GPU\nnot measured: no GPU here")
    return "\n\n".join(parts)


def _head(record: dict[str, Any]) -> str:
    about, threads = record["provenance"], record["threads"]
    commit = (about["commit"] or "unknown")[:10] + (" and changes" if about["dirty"] else "")
    size = record["encoder"]
    lines = [
        f"{about['device']}, {record['cores']} cores; torch {about['packages']['torch']}, commit {commit}",
        f"encoder: {size['layers']} layers, {size['width']} wide; batch {record['batch_size']}, "
        f"{record['settings']['rounds']} rounds, medians (least to most)",
        f"ours: {len(threads['ours'])} processes of {threads['ours'][0]} threads; "
        f"Hugging Face: 1 process of {threads['baseline'][0]}",
    ]
    if record["load_average"] > 0.5:
        lines.append(f"WARNING: load average {record['load_average']:.1f} at the start: a busy machine, wrong timings")
    return "\n".join(lines)


def _task(record: dict[str, Any], task: str) -> str:
    data = record["data"][task]
    kind = "real sentences" if data["source"] == "glue" else "DEMO sentences (GLUE_DIR is not set), not this task's"
    head = f"{task}: {kind}, {data['measured_mean_tokens']:.1f} tokens a row (split: {data['mean_tokens']:.1f})"
    rows = [("", "sentences/s", "ms/run step", "x padded", "x dynamic", "x K = 1", "of peak", "MB/process", "MB/run")]
    for name, row in record["table"][task].items():
        memory = row["peak_bytes"]
        rows.append(
            (
                name,
                _number(row["sentences_per_second"], 1),
                _number(row["seconds_per_run_step"], 1, 1e3),
                _range(row["over_padded"]),
                _range(row["over_dynamic"]),
                _number(row["over_single"], 2) if row["case"]["runs"] > 1 else _EMPTY,
                _number(row["share_of_peak"], 2),
                _EMPTY if memory is None else f"{memory / 1e6:.0f}",
                _EMPTY if memory is None else f"{memory / 1e6 / row['case']['runs']:.0f}",
            )
        )
    return f"{head}\n{grid(rows)}"


def _peak(record: dict[str, Any]) -> str:
    rows = [("matmul peak", "", "tokens x n x m", "GFLOP/s")]
    for entry in record["peak"]:
        rows.append((entry["precision"], entry["how"], entry["matmul"], _range(entry["flops_per_second"], 0, 1e-9)))
    return grid(rows)


def _growth(record: dict[str, Any]) -> str:
    parts = []
    for part, found in record["growth"].items():
        rows = [(f"growth with {part}", "ms/step")]
        rows += [(str(size), _range(row, 1, 1e3)) for size, row in found["seconds_per_step"].items()]
        power = found["exponent"]
        parts.append(grid(rows) + ("" if power is None else f"\ntime ~ {part}^{power:.2f}"))
    return "\n\n".join(parts)


def _bounds(record: dict[str, Any]) -> str:
    rows = [("bound", "wanted", "found", "", "by")]
    for bound in record["bounds"]:
        met = {True: "met", False: "NOT met", None: "not measured"}[bound["met"]]
        rows.append(
            (
                f"{bound['task']} {_WHAT[bound['what']]}",
                f">= {bound['wanted']:g}",
                _range(bound["found"]),
                met,
                bound["case"] or "",
            )
        )
    size = record["encoder"]
    other = record["device_type"] != "cuda" and (size["layers"], size["width"]) != (6, 384)
    note = "\n(These bounds were set for MiniLM, 6 layers, 384 wide.)" if other else ""
    return grid(rows) + note


def _number(value: Spread | None, digits: int, factor: float = 1.0) -> str:
    return _EMPTY if value is None else f"{value['median'] * factor:.{digits}f}"


def _range(value: Spread | None, digits: int = 2, factor: float = 1.0) -> str:
    if value is None:
        return _EMPTY
    least, most = (f"{value[key] * factor:.{digits}f}" for key in ("least", "most"))
    return f"{_number(value, digits, factor)} ({least} to {most})"


def grid(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
