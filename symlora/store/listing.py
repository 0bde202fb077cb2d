"""List run folders: one line per configuration, averaged over its seeds.

This is an overview, not a report: it tests and compares nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from symlora.config.compose import CONFIG_DIR
from symlora.config.formatting import text_table
from symlora.errors import SymloraError
from symlora.store.folder import scan

HEADER = ("task", "metric", "method", "lr", "batch", "epochs", "adapter", "trained", "seeds", "mean", "s", "seconds",
          "configuration")  # fmt: skip


def command(results_dir: Path, unfinished: Sequence[Sequence[str]] = ()) -> int:
    """Run `symlora runs`; `unfinished` holds folders, states and steps."""
    records = [record for _, record in scan(results_dir)]
    if not records and not unfinished:
        raise SymloraError(
            f"no run folders in {results_dir}. `make glue TASK=rte` writes one; `make demo` writes to results/demo."
        )
    blocks = [table(records)] if records else []
    if unfinished:
        rows = text_table(("run", "state", "steps"), unfinished, "llr")
        blocks.append(f"not finished (to resume a stopped run, repeat the command that started it)\n{rows}")
    print("\n\n".join(blocks))
    return 0


def table(records: Iterable[dict[str, Any]]) -> str:
    """Format the records of runs: one table for each protocol and model.

    With mean and standard deviation (n - 1) of the score over the seeds, in points at the epoch that the protocol
    selects, and mean seconds of a run. Failed runs are counted but not averaged.
    """
    blocks = []
    for (section, model), runs in groupby(sorted(records, key=_place), key=lambda run: _place(run)[:2]):
        own = list(runs)
        rows = [_row(list(group)) for _, group in groupby(own, key=_place)]
        note = own[-1]["config"]["model"]["note"]
        lines = [f"protocol {section}, model {model}", text_table(HEADER, rows, "lll" + "r" * 9 + "l")]
        blocks.append("\n".join([*lines, note] if note else lines))
    return "\n\n".join(blocks)


def section_of(config: Mapping[str, Any]) -> str:
    """Name a run's protocol, and its data if they differ.

    Runs on other data stand apart: their scores are not compared.
    """
    name, data, own = config["protocol"]["name"], config["data"], _own_data(config["protocol"]["name"])
    limit = data.get("train_limit")
    parts = {
        "demo sentences": data["source"] == "demo" != own.get("source"),
        f"{limit} training rows": limit is not None and limit != own.get("train_limit"),
        "a subset": data.get("allow_subset", False),
    }
    told = ", ".join(text for text, holds in parts.items() if holds)
    return f"{name} ({told})" if told else name


@cache
def _own_data(protocol: str) -> dict[str, Any]:
    """Read a protocol's data settings."""
    path = CONFIG_DIR / "protocol" / f"{protocol}.yaml"
    return (yaml.safe_load(path.read_text()) or {}).get("data", {}) if path.is_file() else {}


def _place(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return a sort key: block, task, method, learning rate, configuration, chose."""
    config = record["config"]
    names = (config[group]["name"] for group in ("model", "task", "method"))
    return (section_of(config), *names, config["train"]["lr"], record["config_hash"], _chose(record))


def _chose(record: dict[str, Any]) -> bool:
    """Tell whether a run only served to choose a grid point."""
    return record["config"]["seed"] in record["config"]["protocol"].get("grid_seeds", ())


def _row(runs: list[dict[str, Any]]) -> tuple[str, ...]:
    config, parameters = runs[0]["config"], runs[0].get("parameters", {"adapter": 0, "total": 0})
    train, finished = config["train"], [run for run in runs if run["status"] == "finished"]
    scores = [100 * run["score"]["value"] for run in finished if run["score"]["value"] is not None]
    counts = {
        "failed": len(runs) - len(finished),
        "without a score": len(finished) - len(scores),
        "stopped early": sum("stopped_epoch" in run for run in finished),
        "grid seeds": sum(map(_chose, runs)),
        "at chance": sum(run["score"].get("at_chance", False) for run in finished),
    }
    return (
        *(config["task"]["name"], config["task"]["score"], config["method"]["name"]),
        *(f"{train['lr']:g}", str(train["batch_size"]), str(train["epochs"])),
        *(f"{parameters['adapter']:,}", f"{parameters['total']:,}", str(len(scores))),
        f"{fmean(scores):.1f}" if scores else "none",
        f"{stdev(scores):.1f}" if len(scores) > 1 else "-",
        f"{fmean(run['cost']['seconds'] for run in finished):.0f}" if finished else "-",
        "  ".join([runs[0]["config_hash"], *(f"({count} {text})" for text, count in counts.items() if count)]),
    )
