"""Gather predictions for a submission: one run a task, chosen on validation.

The run: of the configuration that the report shows for this protocol, model, method and task (symlora.report.choice),
the finished seed with the highest score on the held-out slice where the protocol sets one aside, else on validation;
the lowest seed of equals. Its predictions are those of the epoch that the protocol's own rule takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from symlora.config.compose import BEST_DIR, CONFIG_DIR
from symlora.data.splits import SCORE_RANGE
from symlora.errors import SymloraError
from symlora.report.choice import Chosen, choose, measure, read_best
from symlora.report.collect import collect
from symlora.report.predictions import PREDICTIONS_FILE, load_predictions
from symlora.store.folder import load_run, run_folders
from symlora.submission.files import MAJORITY, File, files

DEFAULT_RESULTS = Path("results/runs")


@dataclass(frozen=True)
class Part:
    """One file of the submission, or why it is missing."""

    file: File
    predictions: tuple[str, ...]  # as the server wants them, in test order; empty where the file is missing
    source: str  # the run, or the rule, that they come from; where the file is missing, the reason
    run: dict[str, Any] | None = None  # its folder, configuration, seed and the score that chose it


def gather(results_dir: Path, protocol: str, model: str, method: str, best: Path = BEST_DIR) -> list[Part]:
    """Gather all eleven files; `best` is the folder of `make select`.

    Raises:
        SymloraError: There is no run; a run folder is broken; or a prediction is missing, repeated or none at all.
    """
    section = results_dir / protocol / model / method
    if not any(run_folders(section)):
        there = sorted({"/".join(path.relative_to(results_dir).parts[:3]) for path in run_folders(results_dir)})
        wanted = {"task": "rte", "method": method, "model": model, "protocol": protocol}
        known = all((CONFIG_DIR / group / f"{wanted[group]}.yaml").is_file() for group in wanted)
        makes = f" {_make(wanted, ['predict_test=true'], results_dir)} makes one." if known else ""
        raise SymloraError(
            f"No run of protocol {protocol}, model {model}, method {method} in {results_dir}; there is: "
            f"{', '.join(there) or 'none'}.{makes}"
        )
    collected = collect(section)
    if collected.bad:
        broken = "; ".join(f"{section}/{problem}" for problem in collected.bad)
        raise SymloraError(f"{broken}. Move the folder away, or train that run again (force=true).")
    chosen = choose(collected.runs, read_best(best))
    parts = []
    for file in files():
        if file.task in MAJORITY:
            word = file.words[MAJORITY[file.task]]
            parts.append(Part(file, (word,) * file.rows, f"{word} in every row, the training rows' majority"))
        else:
            parts.append(_part(file, chosen.get((model, protocol, file.task, method)), results_dir))
    return parts


def _part(file: File, chosen: Chosen | None, results_dir: Path) -> Part:
    row = chosen.best if chosen else None
    if chosen is None or row is None:
        failed = f" ({chosen.failed} failed)" if chosen and chosen.failed else ""
        return Part(file, (), f"no finished run of {file.task}{failed}")
    folder: Path = row["folder"]
    table = load_predictions(folder, row["selection"], file.split)
    if table.empty:
        return Part(file, (), f"{folder} has no predictions on {file.split}: {_command(row, results_dir)}")
    chosen_by = measure(chosen.runs)
    split = "the held-out slice" if chosen_by == "criterion" else row["split"]
    run = {
        "folder": folder.relative_to(results_dir).as_posix(),
        "configuration": row["configuration"],
        "seed": int(row["seed"]),
        "metric": row["metric"],
        "split": split,
        "score": float(row[chosen_by]),
        "seeds_finished": len(chosen.finished),
        "configuration_chosen": chosen.why,
    }
    score = f"{row['metric']} {100 * row[chosen_by]:.1f} on {split}"
    source = f"{run['folder']}, {score}, best of {len(chosen.finished)} seeds"
    return Part(file, as_text(file, table, f"{folder / PREDICTIONS_FILE}, split {file.split}"), source, run)


def _command(row: "pd.Series[Any]", results_dir: Path) -> str:
    """Write the command that makes the run with test predictions."""
    config = load_run(row["folder"])["config"]
    settings = [f"train.{key}={row[key]}" for key in ("lr", "batch_size", "epochs")] + ["predict_test=true"]
    if config["init_from"] is not None:  # its place in the results folder, or its name alone
        settings.append(f"init_from=<path of {config['init_from']}>")
    if config["predict_test"]:  # an older version did not know this split
        settings.append("force=true")
    names = {key: row[key] for key in ("task", "method", "model", "protocol", "seed")}
    return f"{_make(names, settings, results_dir)} (any other settings of the run are in its config.yaml)"


def _make(names: Mapping[str, Any], settings: Sequence[str], results_dir: Path) -> str:
    elsewhere = [] if results_dir == DEFAULT_RESULTS else [f"results_dir={results_dir}"]
    chosen = " ".join(f"{key.upper()}={value}" for key, value in names.items())
    return f'`make glue {chosen} ARGS="{" ".join([*settings, *elsewhere])}"`'


def as_text(file: File, table: pd.DataFrame, where: str) -> tuple[str, ...]:
    """Write predictions as the server wants them.

    The table has columns idx and prediction, by idx: GLUE's test splits are numbered from 0 without gaps. `where` is
    for messages.

    Raises:
        SymloraError: A row is missing or there twice; a prediction is no number, or no class of the task.
    """
    rows = np.arange(file.rows)
    if not np.array_equal(idx := table["idx"].to_numpy(), rows):
        raise SymloraError(
            f"{where}: {len(idx):,} predictions; the split has rows 0 to {file.rows - 1:,}: "
            f"{len(np.setdiff1d(rows, idx)):,} are missing, {len(idx) - len(np.unique(idx)):,} appear twice, "
            f"{len(np.setdiff1d(idx, rows)):,} are not rows of it."
        )
    values = pd.to_numeric(table["prediction"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    good = np.isin(values, np.arange(len(file.words))) if file.words else np.isfinite(values)
    if not good.all():
        first = int(np.argmin(good))
        wanted = f"a class from 0 to {len(file.words) - 1}" if file.words else "a number"
        raise SymloraError(
            f"{where}: the prediction of row {first} is {table['prediction'].iloc[first]}, not {wanted} "
            f"({int((~good).sum()):,} such rows). Train that run again (force=true)."
        )
    if file.words:
        return tuple(file.words[number] for number in values.astype(np.int64).tolist())
    return tuple(f"{score + 0.0:.3f}" for score in np.clip(values, *SCORE_RANGE).tolist())  # + 0.0: no "-0.000"
