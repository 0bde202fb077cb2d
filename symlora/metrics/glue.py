"""Offer the GLUE metrics as an `evaluate.Metric` without network.

    metric = evaluate.load(symlora.metrics.GLUE, "rte")
    metric.compute(predictions=[0, 1], references=[0, 0])    # {"accuracy": 0.5}

`evaluate.load("glue", ...)` fetches a script from the hub and fails offline; loading by path does not. The names of
configurations and results are those of that script, so this is a drop-in replacement. evaluate copies this file and
scans it for imports: keep each on a line of its own, and keep imports absolute.
"""

import datasets
import evaluate

from symlora.metrics import functions as metrics

TASK_METRICS: dict[str, list[str]] = {
    "cola": ["matthews_correlation"],
    "sst2": ["accuracy"],
    "mrpc": ["accuracy", "f1"],
    "stsb": ["pearson", "spearmanr"],
    "qqp": ["accuracy", "f1"],
    "mnli": ["accuracy"],
    "mnli_matched": ["accuracy"],
    "mnli_mismatched": ["accuracy"],
    "qnli": ["accuracy"],
    "rte": ["accuracy"],
    "wnli": ["accuracy"],
}
_REGRESSION = ("stsb",)


class SymloraGlue(evaluate.Metric):  # type: ignore[misc]  # evaluate carries no types
    """Metrics of one GLUE task; `config_name` is the task. Values are fractions."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in TASK_METRICS:
            raise KeyError(f"name one GLUE task, such as 'rte': {', '.join(TASK_METRICS)}")
        kind = "float32" if self.config_name in _REGRESSION else "int64"
        value = datasets.Value(kind)
        return evaluate.MetricInfo(
            description=f"GLUE metrics without network: {', '.join(metrics.METRICS)}",
            citation="Wang et al., GLUE, ICLR 2019 (arXiv 1804.07461)",
            inputs_description="predictions and references: class numbers, or real scores for stsb",
            features=datasets.Features({"predictions": value, "references": value}),
            format="numpy",
        )

    def _compute(self, predictions: object, references: object) -> dict[str, float]:
        return metrics.compute(TASK_METRICS[self.config_name], predictions, references)  # type: ignore[arg-type]
