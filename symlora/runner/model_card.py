"""Write the model card (README.md) of a run's adapter."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symlora.adapters.registry import METHODS
from symlora.stats import Interval, row_interval
from symlora.training.result import predictions_of

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
_HUB_METRICS = {"pearson": "pearsonr"}  # the hub's name where it is another
_TRAINED_ON = {"glue": "GLUE", "demo": "made-up demo sentences, not GLUE", "own": "a table of its author's"}
_SELECTION = {
    "best": "of the epochs, the one with the best validation score was taken, which flatters that score",
    "last": "the last epoch was taken",
    "held_out": "the epoch was chosen on rows held out of the training set; validation had no part in it",
}


def write_card(folder: Path, record: Mapping[str, Any], predictions: Mapping[tuple[str, str], Any]) -> None:
    """Write README.md next to the adapter; it names no machine or user.

    `predictions` are arrays `label` [rows] and `logits` [rows, classes] by (selection rule, split).
    """
    from huggingface_hub import ModelCard

    config, score = record["config"], record["score"]
    model, method = config["model"], config["method"]["peft_type"]
    rows = predictions[score["selection"], score["split"]]
    data, trained_on = config["data"], _TRAINED_ON[config["data"]["source"]]
    if data.get("train_limit") is not None:
        trained_on = f"{record['data']['train']['rows']:,} rows of {trained_on}"
    if data.get("allow_subset"):
        trained_on += " (not the official splits)"
    card = ModelCard.from_template(
        _front_matter(record),
        template_path=str(TEMPLATE),
        config=config,
        train=config["train"],
        score=score,
        parameters=record["parameters"],
        method=method,
        kind=f"[SymLoRA](https://arxiv.org/abs/2504.03719) ({method})" if method == "SYMLORA" else method,
        base=model["path"] or model["hub"] or model["name"],
        hub=_hub(model),
        ours=method in METHODS,
        trained_on=trained_on,
        value=_finite(score["value"]),
        interval=score_interval(score["metric"], rows["logits"], rows["label"]),
        selection=_SELECTION[score["selection"]],
        epoch=record["selections"][score["selection"]]["epoch"],
        stopped=record.get("stopped_epoch"),
    )
    card.save(folder / "README.md")


def score_interval(metric: str, logits: Any, labels: Any) -> Interval | None:
    """Return a trained model's 95 % interval over rows.

    `logits` are [rows, classes], or [rows, 1] for regression; `labels` are [rows]. None where there is no interval: too
    few rows, or a correlation of predictions that are all equal.
    """
    predicted: Any = predictions_of(logits, regression=labels.dtype.kind == "f")
    if metric == "auroc":
        predicted = logits[:, -1] - logits[:, 0]
    try:
        return row_interval(metric, predicted, labels)
    except ValueError:
        return None


def _front_matter(record: Mapping[str, Any]) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    config, score, method = record["config"], record["score"], record["config"]["method"]["peft_type"]
    task, data, model = config["task"]["name"], config["data"], config["model"]
    metric, value = _HUB_METRICS.get(score["metric"], score["metric"]), _finite(score["value"])
    is_glue = data["source"] == "glue" and not data.get("allow_subset")
    result = EvalResult(
        task_type="text-classification",
        dataset_type=data["dataset"],
        dataset_name="GLUE",
        dataset_config=task,
        dataset_split=score["split"],
        dataset_revision=data["revision"],
        metric_type=metric,
        metric_value=value,
    )
    return ModelCardData(
        base_model=_hub(model),
        library_name="peft",
        pipeline_tag="text-classification",
        language=None if data["source"] == "own" else "en",
        datasets=data["dataset"] if is_glue else None,
        metrics=[metric],
        tags=[
            *(["glue"] if data["source"] != "own" else []),
            method.lower(),
            *(["arxiv:2504.03719"] if method == "SYMLORA" else []),
        ],
        model_name=f"{config['method']['name']}-{task}-{model['name']}" if is_glue else None,
        eval_results=[result] if is_glue and value is not None else None,
    )


def _hub(model: Mapping[str, Any]) -> str | None:
    """Return the encoder's name on the hub; a folder has none."""
    return None if model["path"] else model["hub"]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
