"""Read a run's labels and predictions, and check them against run.json."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from symlora.config.schema import HELD_OUT
from symlora.metrics.functions import METRICS
from symlora.store.folder import UnusableRun

PREDICTIONS_FILE = "predictions.parquet"


def load_predictions(folder: Path, rule: str, split: str) -> pd.DataFrame:
    """Read idx, label and prediction of a split under a rule."""
    table = _predictions(folder)
    chosen = table[(table["selection"] == rule) & (table["split"] == split)]
    return chosen[["idx", "label", "prediction"]].sort_values("idx", ignore_index=True)


def checked_labels(folder: Path, record: dict[str, Any], metric: str, deciding: str) -> npt.NDArray[Any]:
    """Check every split's predictions and return the deciding split's labels.

    Raises:
        UnusableRun: A split has not as many predictions as rows, or they do not give the recorded score.
    """
    table, published = _predictions(folder), record["config"]["task"]["splits"]
    data = record["config"]["data"]
    real = data["source"] == "glue" and not data.get("allow_subset")
    missing = table[table["prediction"].isna()] if record["config"]["task"].get("labels") else table[:0]
    if len(missing):  # one of them makes every split's classes floats
        first = missing.iloc[0]
        raise UnusableRun(f"{PREDICTIONS_FILE}, split {first['split']}: the prediction of row {first['idx']} is nan")
    for rule, chosen in record["selections"].items():
        for split, metrics in chosen["metrics"].items():
            part = table[(table["selection"] == rule) & (table["split"] == split)]
            rows = published[split] if real and split != HELD_OUT else record["data"][split]["rows"]
            if len(part) != rows or part["idx"].nunique() != rows:
                raise UnusableRun(
                    f"{PREDICTIONS_FILE} has {len(part)} rows ({part['idx'].nunique()} different) of {split} under "
                    f"{rule}; the split has {rows}"
                )
            if split == deciding:
                labels: npt.NDArray[Any] = part["label"].to_numpy()
                try:
                    again = METRICS[metric](part["prediction"].to_numpy(), labels)
                except ValueError as error:
                    raise UnusableRun(f"{PREDICTIONS_FILE} cannot be scored on {split} under {rule}: {error}") from None
                known = math.nan if metrics[metric] is None else metrics[metric]
                if not np.isclose(again, known, rtol=0, atol=1e-6, equal_nan=True):
                    raise UnusableRun(f"its predictions give {metric} {again:.6f} on {split} under {rule}, not {known}")
    return labels  # `deciding` is a split of every rule, as its scores were read


def _predictions(folder: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["selection", "split", "idx", "label", "prediction"]
    try:
        # Read as bytes, so that no message names a folder of this machine.
        content = pa.BufferReader((folder / PREDICTIONS_FILE).read_bytes())
        table: pd.DataFrame = pq.read_table(content, columns=columns).to_pandas()
    except FileNotFoundError:
        raise UnusableRun(f"it has no {PREDICTIONS_FILE}") from None
    except (OSError, pa.ArrowException, KeyError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise UnusableRun(f"{PREDICTIONS_FILE} cannot be read ({reason})") from None
    return table
