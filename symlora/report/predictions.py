"""The labels and predictions of a run's rows: read, counted, and checked against the scores that run.json gives."""

import math
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd

from symlora.config.schema import HELD_OUT
from symlora.metrics.functions import METRICS

PREDICTIONS_FILE = "predictions.parquet"


class Unusable(Exception):
    """The reason why a run folder is left out."""


def load_predictions(folder: Path, rule: str, split: str) -> pd.DataFrame:
    """Columns idx, label, prediction of one split under one selection rule, by idx: the order is every run's."""
    table = _predictions(folder)
    chosen = table[(table["selection"] == rule) & (table["split"] == split)]
    return chosen[["idx", "label", "prediction"]].sort_values("idx", ignore_index=True)


def checked_labels(folder: Path, record: dict[str, Any], metric: str, deciding: str) -> npt.NDArray[Any]:
    """Labels of the deciding split, once every split has as many predictions as rows and gives the recorded score.

    Raises:
        Unusable: One has not.
    """
    table, published = _predictions(folder), record["config"]["task"]["splits"]
    real = record["config"]["data"]["source"] == "glue"
    labels: npt.NDArray[Any] | None = None
    missing = table[table["prediction"].isna()] if record["config"]["task"].get("labels") else table[:0]
    if len(missing):  # one of them makes every split's classes floats
        first = missing.iloc[0]
        raise Unusable(f"{PREDICTIONS_FILE}, split {first['split']}: the prediction of row {first['idx']} is nan")
    for rule, chosen in record["selections"].items():
        for split, metrics in chosen["metrics"].items():
            part = table[(table["selection"] == rule) & (table["split"] == split)]
            rows = published[split] if real and split != HELD_OUT else record["data"][split]["rows"]
            if len(part) != rows or part["idx"].nunique() != rows:
                raise Unusable(
                    f"{PREDICTIONS_FILE} has {len(part)} rows ({part['idx'].nunique()} different) of {split} under "
                    f"{rule}; the split has {rows}"
                )
            if split == deciding:
                labels = part["label"].to_numpy()
                try:
                    again = METRICS[metric](part["prediction"].to_numpy(), labels)
                except ValueError as error:
                    raise Unusable(f"{PREDICTIONS_FILE} cannot be scored on {split} under {rule}: {error}") from None
                if not math.isclose(again, metrics[metric], abs_tol=1e-6):
                    raise Unusable(
                        f"its predictions give {metric} {again:.6f} on {split} under {rule}, not {metrics[metric]}"
                    )
    if labels is None:
        raise Unusable(f"no score on {deciding}")
    return labels


def _predictions(folder: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["selection", "split", "idx", "label", "prediction"]
    try:
        # Read as bytes, so that no message names a folder of this machine.
        content = pa.BufferReader((folder / PREDICTIONS_FILE).read_bytes())
        table: pd.DataFrame = pq.read_table(content, columns=columns).to_pandas()
    except FileNotFoundError:
        raise Unusable(f"it has no {PREDICTIONS_FILE}") from None
    except (OSError, pa.ArrowException, KeyError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise Unusable(f"{PREDICTIONS_FILE} cannot be read ({reason})") from None
    return table
