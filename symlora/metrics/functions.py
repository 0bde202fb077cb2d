"""Compute the GLUE metrics as pure functions of two arrays.

All but `mae` are fractions in [-1, 1] (accuracy and F1 in [0, 1]), never percent. Predictions and labels have shape
[rows]. Classification takes class numbers (integers >= 0; a label -1 is a hidden one and refused), regression reals.

Where a formula divides by zero, scikit-learn's and scipy's conventions hold, against which the tests compare: Matthews
correlation is 0.0 when predictions or labels are all of one class, and F1 when class 1 is neither predicted nor
present. Pearson and Spearman are nan when predictions or labels are all equal: the correlation does not exist, and a
made-up 0 would take part in means. Callers test with math.isnan.

Every function raises ValueError for arrays that are empty, of unequal or other shape, of the wrong kind, or not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Reals = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]


def matthews_correlation(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute Matthews correlation; for more classes R_K (Gorodkin 2004)."""
    predicted, true = _classes(predictions, labels)
    classes = int(max(predicted.max(), true.max())) + 1
    predicted_counts = np.bincount(predicted, minlength=classes).astype(np.float64)
    true_counts = np.bincount(true, minlength=classes).astype(np.float64)
    rows = float(len(true))
    # Sums of products of counts: whole numbers below 2^53 for any data set here, hence exact in float64.
    covariance = rows * float(np.sum(predicted == true)) - float(predicted_counts @ true_counts)
    predicted_variance = rows**2 - float(predicted_counts @ predicted_counts)
    true_variance = rows**2 - float(true_counts @ true_counts)
    if predicted_variance == 0 or true_variance == 0:
        return 0.0
    return float(np.clip(covariance / np.sqrt(predicted_variance * true_variance), -1.0, 1.0))  # past 1 by rounding


def accuracy(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute the share of rows predicted correctly."""
    predicted, true = _classes(predictions, labels)
    return float(np.mean(predicted == true))


def f1(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute F1 of class 1: 2 TP / (2 TP + FP + FN)."""
    predicted, true = _classes(predictions, labels)
    if max(predicted.max(), true.max()) > 1:
        raise ValueError("f1 is defined for the classes 0 and 1 only")
    hits = int(np.sum(predicted & true))
    marked = int(predicted.sum() + true.sum())
    return 2 * hits / marked if marked else 0.0


def macro_f1(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute the mean of F1 over the classes that occur."""
    predicted, true = _classes(predictions, labels)
    size = int(max(predicted.max(), true.max())) + 1
    hits, marked, there = (np.bincount(each, minlength=size) for each in (true[predicted == true], predicted, true))
    occurs = marked + there > 0
    return float(np.mean(2 * hits[occurs] / (marked + there)[occurs]))


def balanced_accuracy(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute the mean recall over the classes among the labels."""
    predicted, true = _classes(predictions, labels)
    there = np.bincount(true)
    return float(np.mean(np.bincount(true, predicted == true)[there > 0] / there[there > 0]))


def auroc(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute the area under class 1's ROC curve; nan for one class."""
    scores, true = _reals(predictions, labels)
    positive = true == 1
    ones, zeros = int(positive.sum()), int((true == 0).sum())
    if ones + zeros < len(true):
        raise ValueError("auroc is defined for the classes 0 and 1 only")
    if not ones or not zeros:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def mae(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute the mean absolute error: of any size, and lower is better."""
    predicted, true = _reals(predictions, labels)
    return float(np.mean(np.abs(predicted - true)))


def pearson(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute Pearson's product-moment correlation, in float64 whatever the input."""
    return _correlation(*_reals(predictions, labels))


def spearmanr(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Compute Spearman's correlation: Pearson's of the ranks, ties sharing their mean rank."""
    predicted, true = _reals(predictions, labels)
    return _correlation(rankdata(predicted), rankdata(true))


METRICS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], float]] = {
    metric.__name__: metric
    for metric in (matthews_correlation, accuracy, f1, macro_f1, balanced_accuracy, auroc, pearson, spearmanr, mae)
}


def compute(
    task_metrics: Sequence[str], predictions: npt.ArrayLike, labels: npt.ArrayLike, scores: npt.ArrayLike | None = None
) -> dict[str, float]:
    """Compute each named metric of `predictions` against `labels`, in order.

    `auroc` takes `scores`, which rank class 1 above class 0.
    """
    unknown = [name for name in task_metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {', '.join(map(repr, unknown))}; known: {', '.join(METRICS)}")
    ranked = predictions if scores is None else scores
    return {name: METRICS[name](ranked if name == "auroc" else predictions, labels) for name in task_metrics}


def _correlation(x: Reals, y: Reals) -> float:
    if len(x) < 2:
        raise ValueError("a correlation needs at least 2 rows, found 1")
    # Tested on the values themselves: a mean rounded in the last bit would turn a constant into noise.
    if np.all(x == x[0]) or np.all(y == y[0]):
        return float("nan")
    return float(np.clip(_unit(x) @ _unit(y), -1.0, 1.0))  # rounding may carry it past 1 in the last digit


def _unit(values: Reals) -> Reals:
    """Scale deviations from the mean to length 1; squares cannot overflow."""
    scaled = values / np.max(np.abs(values))
    deviations = scaled - scaled.mean()
    deviations /= np.max(np.abs(deviations))
    unit: Reals = deviations / np.linalg.norm(deviations)
    return unit


def _paired(predictions: npt.ArrayLike, labels: npt.ArrayLike, kinds: str, wanted: str) -> dict[str, npt.NDArray[Any]]:
    pair = {"predictions": np.asarray(predictions), "labels": np.asarray(labels)}
    predicted, true = (values.shape for values in pair.values())
    if len(predicted) != 1 or predicted != true:
        raise ValueError(f"predictions and labels must both have shape [rows], found {predicted} and {true}")
    if predicted == (0,):
        raise ValueError("no rows to score: predictions and labels are empty")
    for what, values in pair.items():
        if values.dtype.kind not in kinds:
            raise ValueError(f"{what} must be {wanted}, found {values.dtype}")
    return pair


def _classes(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Classes, Classes]:
    pair = _paired(predictions, labels, "iub", "class numbers (integers)")
    for what, values in pair.items():
        if values.min() < 0:
            raise ValueError(f"{what} hold {values.min()}: a class number is 0 or larger (-1 marks a hidden label)")
    return pair["predictions"].astype(np.int64), pair["labels"].astype(np.int64)


def _reals(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Reals, Reals]:
    pair = _paired(predictions, labels, "iuf", "real numbers")
    for what, values in pair.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(f"{what} hold {values[bad[0]]} in row {bad[0]} ({len(bad)} of {len(values)} not finite)")
    return pair["predictions"].astype(np.float64), pair["labels"].astype(np.float64)


def chance_level(metric: str, labels: npt.NDArray[Any]) -> float:
    """Return the score of a constant prediction.

    Accuracy, macro-F1, balanced accuracy: of the most frequent class among these labels. F1: of always saying class 1.
    Correlations (Matthews, Pearson, Spearman): 0. A run whose score is not above this is flagged, never left out.
    """
    if metric not in ("accuracy", "f1", "macro_f1", "balanced_accuracy"):
        return 0.0
    always = 1 if metric == "f1" else int(np.bincount(labels).argmax())
    return METRICS[metric](np.full(len(labels), always), labels)
