"""Offer the GLUE metrics as an `evaluate.Metric` without network.

    metric = evaluate.load(symlora.metrics.GLUE, "rte")
    metric.compute(predictions=[0, 1], references=[0, 0])    # {"accuracy": 0.5}

The other configurations are single metrics, such as "macro_f1".

`evaluate.load("glue", ...)` fetches a script from the hub and fails offline; loading by path does not. The names of
configurations and results are those of that script, so this is a drop-in replacement. evaluate copies this file and
scans it for imports: keep each on a line of its own, and keep imports absolute.
"""

import datasets
import evaluate

from symlora.metrics import functions as metrics

TASK_METRICS: dict[str, list[str]] = {
    "cola": ["matthews_correlation"],
    "stsb": ["pearson", "spearmanr"],
    **dict.fromkeys(("mrpc", "qqp"), ["accuracy", "f1"]),
    **dict.fromkeys(("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli"), ["accuracy"]),
    **{name: [name] for name in metrics.METRICS},
}
_REGRESSION = ("stsb", "pearson", "spearmanr", "mae")
_SCORES = (*_REGRESSION, "auroc")


class SymloraGlue(evaluate.Metric):  # type: ignore[misc]  # evaluate carries no types
    """Metrics of one GLUE task, or one metric, by `config_name`."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in TASK_METRICS:
            raise KeyError(f"name one GLUE task, such as 'rte', or one metric: {', '.join(TASK_METRICS)}")
        scores, labels = ("float32" if self.config_name in kinds else "int64" for kinds in (_SCORES, _REGRESSION))
        features = {"predictions": datasets.Value(scores), "references": datasets.Value(labels)}
        return evaluate.MetricInfo(
            description=f"GLUE metrics without network: {', '.join(metrics.METRICS)}",
            citation="Wang et al., GLUE, ICLR 2019 (arXiv 1804.07461)",
            inputs_description="predictions and references: class numbers, or real scores for stsb",
            features=datasets.Features(features),
            format="numpy",
        )

    def _compute(self, predictions: object, references: object) -> dict[str, float]:
        return metrics.compute(TASK_METRICS[self.config_name], predictions, references)  # type: ignore[arg-type]
