"""The metrics against scikit-learn and scipy, their conventions where a formula fails, and the `evaluate` module."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import sklearn.metrics
from conftest import run_program
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from symlora.metrics import GLUE
from symlora.metrics import functions as metrics
from symlora.metrics.glue import TASK_METRICS


def class_pairs(classes: int) -> st.SearchStrategy[npt.NDArray[np.int64]]:
    """[2, rows] of class numbers."""
    return st.integers(1, 60).flatmap(lambda rows: arrays(np.int64, (2, rows), elements=st.integers(0, classes - 1)))


def real_pairs() -> st.SearchStrategy[npt.NDArray[np.float64]]:
    """[2, rows]: a coarse grid, so that ties are common, or values of many magnitudes."""
    coarse = st.integers(-6, 6).map(lambda n: n / 2)
    fine = st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda x: round(x, 6))
    return st.integers(3, 40).flatmap(lambda rows: arrays(np.float64, (2, rows), elements=st.one_of(coarse, fine)))


@pytest.mark.filterwarnings("ignore")  # sklearn and scipy warn where a formula divides by zero
@settings(max_examples=120)
@given(st.sampled_from([2, 4]).flatmap(class_pairs), real_pairs())
def test_metrics_equal_sklearn_and_scipy(classes: npt.NDArray[np.int64], reals: npt.NDArray[np.float64]) -> None:
    (predicted, true), reals = classes, reals.astype(np.float32).astype(np.float64)
    wanted: dict[str, Any] = {
        "accuracy": sklearn.metrics.accuracy_score(true, predicted),
        "matthews_correlation": sklearn.metrics.matthews_corrcoef(true, predicted),
        "macro_f1": sklearn.metrics.f1_score(true, predicted, average="macro"),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(true, predicted),
    }
    if classes.max() < 2:
        wanted["f1"] = sklearn.metrics.f1_score(true, predicted, zero_division=0)
    assert metrics.compute(list(wanted), predicted, true) == pytest.approx(wanted, abs=1e-12)
    wanted = {"pearson": scipy.stats.pearsonr(*reals).statistic, "spearmanr": scipy.stats.spearmanr(*reals).statistic}
    found = metrics.compute(list(wanted), *reals.astype(np.float32))  # scored in float64
    assert found == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    assert not any(abs(found[name]) > 1 for name in ("pearson", "spearmanr"))  # Fisher's z would be nan


def test_auroc_and_mae() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=50), rng.integers(9, size=50) / 4  # with ties
    assert metrics.auroc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    assert np.isnan(metrics.auroc(scores, np.ones(50, int)))
    assert metrics.mae(scores, labels) == pytest.approx(np.abs(scores - labels).mean())


def test_full_size_of_the_largest_split_is_exact() -> None:
    """QQP's test split: products of counts near 1e23 must neither overflow nor lose the result's digits."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 390_965)
    predicted = np.where(rng.random(len(true)) < 0.9, true, 1 - true)
    expected = sklearn.metrics.matthews_corrcoef(true, predicted)
    assert metrics.matthews_correlation(predicted, true) == pytest.approx(expected, abs=1e-12)


def test_a_constant_has_no_correlation() -> None:
    """Not even where its mean is not exactly its value."""
    for metric in (metrics.pearson, metrics.spearmanr):
        assert math.isnan(metric([0.1, 0.1, 0.1], [1.0, 2.0, 3.0]))
        assert math.isnan(metric([1.0, 2.0, 3.0], [0.1, 0.1, 0.1]))


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=metrics.METRICS)
@pytest.mark.parametrize(
    ("predictions", "labels", "says"),
    [([], [], "empty"), ([1, 0], [1], "shape"), ([[1], [0]], [[1], [0]], "shape"), (["1", "0"], ["1", "0"], "must be")],
)
def test_bad_input_is_refused(metric: Callable[..., float], predictions: object, labels: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        metric(np.array(predictions), np.array(labels))


def test_bad_values_are_refused() -> None:
    for metric in (metrics.accuracy, metrics.f1, metrics.matthews_correlation):
        with pytest.raises(ValueError, match="integers"):
            metric([0.2, 0.9], [0, 1])
        with pytest.raises(ValueError, match="hidden"):
            metric([0, 1], [-1, -1])
    for metric in (metrics.pearson, metrics.spearmanr):
        with pytest.raises(ValueError, match="nan in row 1 .1 of 3"):
            metric([0.2, float("nan"), 1.0], [0.0, 1.0, 2.0])
        with pytest.raises(ValueError, match="at least 2"):
            metric([1.0], [1.0])
    with pytest.raises(ValueError, match="classes 0 and 1"):
        metrics.f1([0, 2], [0, 1])


def test_compute_keeps_the_order_and_names_unknown_metrics() -> None:
    assert list(metrics.compute(["f1", "accuracy"], [0, 1], [1, 1]).items()) == [("f1", 2 / 3), ("accuracy", 0.5)]
    with pytest.raises(ValueError, match="'bleu'; known: matthews_correlation"):
        metrics.compute(["accuracy", "bleu"], [0], [0])


def test_import_is_light() -> None:
    heavy = "{'sklearn', 'torch', 'evaluate'}"
    code = f"import sys, symlora.metrics.functions; print({heavy} & set(sys.modules) or 'light')"
    assert run_program(sys.executable, "-c", code).stdout.strip() == "light"


def test_evaluate_module_works_offline(tmp_path: Path) -> None:
    """Every configuration, loaded by path with the hub switched off, gives what symlora.metrics.functions gives."""
    rows: dict[str, Any] = dict.fromkeys(TASK_METRICS, ([0, 1, 1], [0, 1, 0])) | {"stsb": ([0.5, 2.0, 4.5], [0, 3, 4])}
    code = f"""
import json, evaluate
for task, (predictions, references) in {rows}.items():
    print(json.dumps(evaluate.load({GLUE!r}, task).compute(predictions=predictions, references=references)))
try:
    evaluate.load({GLUE!r}, "boolq")
except KeyError as error:
    print(json.dumps(str(error)))
"""
    folder = str(tmp_path)
    run = run_program(sys.executable, "-c", code, cwd=tmp_path, HF_HOME=folder, HF_MODULES_CACHE=folder)
    *found, error = map(json.loads, run.stdout.splitlines()[-len(rows) - 1 :])
    assert "name one GLUE task" in error
    assert {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"} <= set(rows)
    for (task, pair), scores in zip(rows.items(), found, strict=True):
        names = ["pearson", "spearmanr"] if task == "stsb" else list(scores)
        assert scores == pytest.approx(metrics.compute(names, *pair), abs=1e-12), task
