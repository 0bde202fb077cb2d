"""The model card of a run's adapter: README.md with the front matter that the Hugging Face hub reads."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from symlora.metrics import pearson
from symlora.stats import Interval, bootstrap_interval, fisher_z, wilson
from symlora.training.result import predictions_of

_HUB_METRICS = {"pearson": "pearsonr"}  # the hub's name where it is another
_SELECTION = {
    "best": "of the epochs, the one with the best validation score was taken, which flatters that score",
    "last": "the last epoch was taken",
    "held_out": "the epoch was chosen on rows held out of the training set; validation had no part in it",
}
_PAPER = """\
@article{symlora2025,
  title   = {Towards Symmetric Low-Rank Adapters},
  author  = {Panoutsos and Santos and Figueiredo},
  journal = {arXiv preprint arXiv:2504.03719},
  year    = {2025}
}
"""
_NEEDS = """ The package symlora brings the method; it is installed from a
checkout of its repository, and on no index."""
_TEXT = """\
# {method} adapter for {task} on {base}

{kind} adapter for {base}, trained on {data}, task `{task}` ({labels}), with
[PEFT](https://github.com/huggingface/peft) and symlora.

## Loading it

```python
{code}
```

`"adapter"` is this folder, or its name on the hub. The tokenizer is the base model's.{needs}

## Score

| split | metric | value | 95 % interval |
| --- | --- | --- | --- |
| {split} | {metric} | {value} | {interval} |

{over}

## How it was trained

Protocol `{protocol}`: {selection}.

| | |
| --- | --- |
| base model | {base}{revision} |
| learning rate, batch, epochs | {lr:g}{head_lr}, {batch_size}, {epochs} (epoch {epoch} is stored) |
| warm-up, weight decay | {warmup_ratio:g} of the steps, {weight_decay:g} |
| length | cut at {max_length} tokens |
| seed | {seed} |
| trained parameters | adapter {adapter:,} + head {head:,} = {total:,} |
| start | {start} |
{note}
## Licence and citation

The symlora code is under Apache-2.0. These weights were made from {base} and {data}, whose own licences hold: add a
`license:` line above before publishing.
{citation}"""


def write_card(folder: Path, record: Mapping[str, Any], predictions: Mapping[tuple[str, str], Any]) -> None:
    """Writes README.md beside the adapter of a finished run. Nothing in it names a machine or a user.

    Args:
        folder: The adapter's.
        record: The content of run.json.
        predictions: Arrays `label` [rows] and `logits` [rows, classes] by (selection rule, split).
    """
    from huggingface_hub import ModelCard

    text = f"---\n{_front_matter(record).to_yaml()}\n---\n\n{_text(record, predictions)}"
    ModelCard(text).save(folder / "README.md")


def score_interval(metric: str, logits: Any, labels: Any, split: str) -> Interval | None:
    """The score of one trained model with its 95 % interval over the rows of a split.

    Wilson's for accuracy, Fisher's z for Pearson's r, percentiles of 10,000 resamples of rows for the others.

    Args:
        metric: A name of symlora.metrics.
        logits: [rows, classes], or [rows, 1] for regression.
        labels: [rows].
        split: What the rows are called.

    Returns:
        None where there is none: too few rows, or a correlation of predictions that are all equal.
    """
    predicted = predictions_of(logits, regression=labels.dtype.kind == "f")
    try:
        if metric == "accuracy":
            return wilson(int(np.sum(predicted == labels)), len(labels), rows=f"{split} rows")
        if metric == "pearson":
            return fisher_z(pearson(predicted, labels), len(labels), rows=f"{split} rows")
        return bootstrap_interval(metric, predicted, labels, rows=f"{split} rows")
    except ValueError:
        return None


def _front_matter(record: Mapping[str, Any]) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    config, score = record["config"], record["score"]
    task, data, model = config["task"], config["data"], config["model"]
    metric = _HUB_METRICS.get(score["metric"], score["metric"])
    real = data["source"] == "glue"
    value = score["value"]
    result = EvalResult(
        task_type="text-classification",
        dataset_type=data["dataset"],
        dataset_name="GLUE",
        dataset_config=task["name"],
        dataset_split=score["split"],
        dataset_revision=data["revision"],
        metric_type=metric,
        metric_value=value,
    )
    kind = config["method"]["peft_type"]
    return ModelCardData(
        base_model=model["hub"],
        library_name="peft",
        pipeline_tag="text-classification",
        language="en",
        datasets=data["dataset"] if real else None,
        metrics=[metric],
        tags=["glue", kind.lower(), *(["arxiv:2504.03719"] if kind == "SYMLORA" else [])],
        model_name=f"{config['method']['name']}-{task['name']}-{model['name']}" if real else None,
        eval_results=[result] if real and value is not None and math.isfinite(value) else None,
    )


def _text(record: Mapping[str, Any], predictions: Mapping[tuple[str, str], Any]) -> str:
    from symlora.adapters.registry import METHODS

    config, score = record["config"], record["score"]
    task, model, train, kind = config["task"], config["model"], config["train"], config["method"]["peft_type"]
    rows = predictions[score["selection"], score["split"]]
    interval = score_interval(score["metric"], rows["logits"], rows["label"], score["split"])
    ours = kind in METHODS
    code = [
        *(["import symlora  # so that PEFT knows the method"] if ours else []),
        "from peft import AutoPeftModelForSequenceClassification",
        "",
        'model = AutoPeftModelForSequenceClassification.from_pretrained("adapter", '
        f"num_labels={len(task['labels']) or 1})",
    ]
    over = (
        f"The interval is over {interval.over}: what other rows would have given this one trained model. It says "
        "nothing of other seeds."
        if interval is not None
        else "There is no interval: too few rows, or predictions that are all equal."
    )
    return _TEXT.format(
        kind=f"[SymLoRA](https://arxiv.org/abs/2504.03719) ({kind})" if kind == "SYMLORA" else kind,
        method=config["method"]["name"],
        task=task["name"],
        base=model["hub"] or model["path"] or model["name"],
        revision=f" @ {model['revision']}" if model["hub"] and model["revision"] else "",
        data="GLUE" if config["data"]["source"] == "glue" else "made-up demo sentences, not GLUE",
        labels=", ".join(f"{number} = {name}" for number, name in enumerate(task["labels"])) or "a score from 0 to 5",
        code="\n".join(code),
        needs="" if not ours else _NEEDS,
        split=score["split"],
        metric=score["metric"],
        value=_number(score["value"]),
        interval="none" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}",
        over=over,
        head_lr=f" (head {train['head_lr']:g})" if train.get("head_lr") else "",
        protocol=config["protocol"]["name"],
        selection=_SELECTION[score["selection"]],
        epoch=record["selections"][score["selection"]]["epoch"],
        max_length=config["data"]["max_length"],
        seed=config["seed"],
        start="pre-trained encoder"
        if config["init_from"] is None
        else f"another run's adapter ({config['init_from']})",
        note=f"\n{model['note']}\n" if model["note"] else "",
        citation=f"\n```bibtex\n{_PAPER}```\n" if kind == "SYMLORA" else "",
        **{key: train[key] for key in ("lr", "batch_size", "epochs", "warmup_ratio", "weight_decay")},
        **{key: record["parameters"][key] for key in ("adapter", "head", "total")},
    )


def _number(value: float | None) -> str:
    return "none" if value is None or not math.isfinite(value) else f"{value:.4f}"
