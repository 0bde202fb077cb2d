"""What each protocol sets, as Markdown tables made from configs/protocol: docs/protocols.md holds them."""

import contextlib
from collections.abc import Mapping, Sequence

import hydra
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from symlora.config.compose import CONFIG_DIR

PROTOCOLS = ("paper", "holdout", "short", "short_holdout", "methods", "smoke", "demo")
"""In the order of the tables."""
METHOD = "symlora"


COLUMNS = {
    "protocol.selection": "epoch by",
    "protocol.held_out": "held out",
    "train.lr": "lr",
    "train.head_lr": "head_lr",
    "train.batch_size": "batch",
    "train.epochs": "epochs",
    "train.warmup_ratio": "warm-up",
    "train.weight_decay": "decay",
    "train.max_grad_norm": "clip",
    "train.model_dropout": "dropout",
    "data.max_length": "length",
    "data.train_limit": "rows",
}
"""Keys of the first table, and its head."""
RECIPE = ("train.lr", "train.batch_size", "train.epochs")
UNSET = {"train.head_lr": "as lr", "train.model_dropout": "the model's", "data.train_limit": "all"}


def markdown() -> str:
    """Both tables: what the protocols set, and the values that differ from task to task."""
    tasks = sorted(path.stem for path in (CONFIG_DIR / "task").glob("*.yaml"))
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        found = {protocol: _values(protocol, tasks) for protocol in PROTOCOLS}
    common = [[f"`{name}`", *(_cell(column, values) for column in COLUMNS)] for name, values in found.items()]
    by_task = []
    for task in tasks:
        cells = [", ".join(values[task][key] for key in RECIPE) if task in values else "-" for values in found.values()]
        by_task.append([task, *cells])
    return "\n".join(
        [
            *_table(["protocol", *COLUMNS.values()], common),
            "",
            *_table(["task: lr, batch, epochs", *(f"`{name}`" for name in found)], by_task),
        ]
    )


def _values(protocol: str, tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """By task and key, for the tasks that the protocol has values for. Composed once, since composing takes long."""
    composed = hydra.compose("config", [f"protocol={protocol}", f"method={METHOD}"])
    values = {}
    for task in tasks:
        composed.task.name = task  # all that a protocol asks of its task
        with contextlib.suppress(InterpolationKeyError):  # no recipe for this task
            values[task] = {key: _number(OmegaConf.select(composed, key)) for key in COLUMNS}
    return values


def _cell(key: str, values: Mapping[str, Mapping[str, str]]) -> str:
    found = {of_task[key] for of_task in values.values()}
    if len(found) > 1:
        return "by task"
    return found.pop() or UNSET[key]


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if value == 0 or value >= 0.01 else f"{value:.0e}".replace("e-0", "e-")
    return "" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
