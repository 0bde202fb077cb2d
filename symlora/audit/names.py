"""Order and name tasks, methods, models and metrics for print."""

import re
from collections.abc import Iterable

TASKS = {
    "mnli": "MNLI", "sst2": "SST-2", "mrpc": "MRPC", "cola": "CoLA", "qnli": "QNLI", "qqp": "QQP", "rte": "RTE",
    "stsb": "STS-B",
}  # fmt: skip
"""Table 1's eight, in its order."""
METHODS = {"lora": "LoRA", "symlora": "SymLoRA", "head": "head alone", "full": "full fine-tuning"}
MODELS = {"roberta-base": "RoBERTa-base", "bert-base": "BERT-base", "minilm": "MiniLM", "mpnet": "MPNet"}
METRICS = {
    "accuracy": "accuracy", "f1": "F1", "matthews_correlation": "Matthews", "pearson": "Pearson",
    "spearmanr": "Spearman",
}  # fmt: skip
PROTOCOLS = ("paper", "holdout")  # first, in this order
PAPER = ("roberta-base", "paper")  # model and protocol
REFERENCE, CLAIMED = "lora", "symlora"  # the paper's claim: CLAIMED is tied with REFERENCE


def known_first(known: Iterable[str], found: Iterable[str]) -> list[str]:
    """Order names that were found: known ones first, then the others."""
    names, order = set(found), list(known)
    return [*(name for name in order if name in names), *sorted(names - set(order))]


def section_order(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Order (model, protocol) pairs: the paper's own first, found or not."""
    pairs = {PAPER, *found}
    models = known_first(MODELS, {model for model, _ in pairs})
    protocols = known_first(PROTOCOLS, {protocol for _, protocol in pairs})
    return [(model, protocol) for model in models for protocol in protocols if (model, protocol) in pairs]


def section_name(model: str, protocol: str) -> str:
    """Return the heading of these runs in a table."""
    return f"{MODELS.get(model, model)}, protocol {protocol}"


def section_folder(model: str, protocol: str) -> str:
    """Name the folder of these runs' figures."""
    return re.sub(r"[^\w.]+", "-", f"{protocol}-{model}")
