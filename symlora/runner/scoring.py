"""Run `symlora evaluate` and `symlora predict`: forward passes only."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from symlora.config.formatting import text_table
from symlora.config.own_task import read_rows
from symlora.config.rows import Split
from symlora.config.schema import HELD_OUT, Config
from symlora.data.splits import holdout, load_splits
from symlora.data.tokens import TokenizedSplit, tokenize_all
from symlora.errors import SymloraError
from symlora.metrics import GLUE
from symlora.model.source import find, load_tokenizer
from symlora.runner.model_card import score_interval
from symlora.runner.trained import Trained, logits_of, open_trained, runs_below
from symlora.store.files import writing
from symlora.training.result import Logits, predictions_of

WRITERS = {".parquet": "to_parquet", ".csv": "to_csv", ".jsonl": "to_json"}
HEADER = ("source", "split", "rows", "metric", "value", "95 % interval", "recorded")


def command_evaluate(chosen: argparse.Namespace) -> int:
    """Run `symlora evaluate`."""
    _check_out(chosen.out)
    with _chosen(chosen, chosen.sources) as models:
        rows = evaluate(models, chosen.split.replace(",", " ").split(), chosen.file, chosen.device)
    if chosen.out is not None:
        valid = [{key: None if cell != cell else cell for key, cell in row.items()} for row in rows]  # JSON has no NaN
        with writing(chosen.out):
            chosen.out.write_text(json.dumps(valid, indent=1) + "\n", encoding="utf-8")
    cells = []
    for row in rows:
        interval = "-" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        recorded = {None: "-", row["value"]: "the same"}.get(row["recorded"]) or f"{row['recorded']:.4f}"
        names = (row["source"], row["split"], f"{row['rows']:,}", row["metric"])
        cells.append((*names, f"{row['value']:.4f}", interval, recorded))
    print(text_table(HEADER, cells, "llrlrrr"))
    return 0


def command_predict(chosen: argparse.Namespace) -> int:
    """Run `symlora predict`."""
    _check_out(chosen.out, WRITERS)
    lines = ([line.rstrip("\r\n") for line in sys.stdin] if word == "-" else [word] for word in chosen.texts)
    try:
        texts = [text for part in lines for text in part]
        "".join(texts).encode()
    except UnicodeError as error:
        raise SymloraError(f"the sentences are not UTF-8 ({error}).") from error
    names = chosen.split.replace(",", " ").split()
    if sum(map(bool, (texts, names, chosen.file))) != 1:
        raise SymloraError("give one of: sentences (- reads stdin), --file, --split.")
    with _chosen(chosen, [chosen.source]) as models:
        if len(models) > 1:
            raise SymloraError(f"{chosen.source} holds {len(models)} runs: name one of them.")
        table = predict(models[0], names, chosen.file, texts, chosen.device)
    if (out := chosen.out) is None:
        print(table.to_csv(index=False, sep="\t", float_format="%.4f"), end="")
        return 0
    options: dict[str, Any] = {"orient": "records", "lines": True, "force_ascii": False}
    with writing(out):
        getattr(table, WRITERS[out.suffix])(out, **(options if out.suffix == ".jsonl" else {"index": False}))
    return 0


def _check_out(out: Path | None, suffixes: Iterable[str] = ()) -> None:
    """Refuse a file that cannot be written, before the work for it."""
    if out is None:
        return
    if out.exists():
        raise SymloraError(f"{out} exists already: name another file, or remove it.")
    if not out.parent.is_dir():
        raise SymloraError(f"{out} cannot be written: the folder {out.parent} does not exist.")
    if suffixes and out.suffix not in suffixes:
        raise SymloraError(f"{out}: the name must end in {', '.join(suffixes)}.")


@contextmanager
def _chosen(chosen: argparse.Namespace, sources: Sequence[Path]) -> Iterator[list[Trained]]:
    """Find the models that a command names."""
    options = (chosen.task, chosen.base, chosen.alpha, chosen.data)
    with ExitStack() as stack:
        places = [place for source in sources for place in runs_below(source)]
        yield [stack.enter_context(open_trained(place, *options)) for place in places]


def evaluate(models: Sequence[Trained], names: Sequence[str], file: Path | None, device: str) -> list[dict[str, Any]]:
    """Score models on named splits, or on a file's rows.

    Returns:
        A row for each model, split and metric: `source`, `split`, `rows`, `metric`, `value`, `low` and `high` (of the
        95 % interval over rows; None where there is none), `recorded` (what run.json has; None where it has nothing).

    Raises:
        SymloraError: A split is not there, or its labels are hidden.
    """
    rows: list[dict[str, Any]] = []
    for group in _alike(models, names):
        config = group[0].config
        splits = _splits(group, names or ([] if file else config.task.validation), file)
        for name, split in splits.items():
            if split.labels.min() == split.labels.max() == -1:
                raise SymloraError(f"{config.task.name}: the labels of {name} are hidden; use `symlora predict`.")
            if len(split) < 2 and not config.task.labels:
                raise SymloraError(f"{name} has one row, and a correlation needs two; use `symlora predict`.")
        results = logits_of(group, _tokens(config, splits), device)
        for model, by_split in zip(group, results, strict=True):
            for name, logits in by_split.items():
                rows += _scored(model, name, logits, splits[name].labels)
    return rows


def predict(model: Trained, names: Sequence[str], file: Path | None, texts: Sequence[str], device: str) -> pd.DataFrame:
    """Predict sentences, the rows of a file, or splits of the task.

    Returns:
        `split` and `idx`, or `text`; `label` where it is known; `prediction`; the probability of each class as
        `p_<class>`.
    """
    config = model.config
    splits = {"text": _of_texts(texts, config)} if texts else _splits([model], names, file)
    if texts:
        config = replace(config, data=replace(config.data, cache_dir=None))
    [by_split] = logits_of([model], _tokens(config, splits), device)
    return pd.concat(
        [_table(config, splits[name], logits, bool(texts)) for name, logits in by_split.items()], ignore_index=True
    )


def _alike(models: Sequence[Trained], names: Sequence[str]) -> list[list[Trained]]:
    """Group models that read the same tokens of these splits."""
    groups: dict[str, list[Trained]] = {}
    for model in models:
        config = model.config
        cut = {"train", HELD_OUT} & {*names} or config.data.source == "own"  # of which `train` is read as a check
        left_out = "" if cut else "train_limit"
        data = {key: value for key, value in vars(config.data).items() if key != left_out}
        key = json.dumps([vars(config.task), data, vars(config.model), config.protocol.held_out])
        groups.setdefault(key, []).append(model)
    return list(groups.values())


def _splits(models: Sequence[Trained], names: Sequence[str], file: Path | None) -> dict[str, Split]:
    """Load splits by name, and a file's rows under its name.

    Raises:
        SymloraError: A split has other rows than the run's, which may have trained on them.
    """
    config = models[0].config
    splits = {name: _split(config, name) for name in names}
    # Test rows are never trained on, and may get their labels later.
    checked = {name: split for name, split in splits.items() if name not in config.task.test}
    if names and config.data.source == "own":  # its splits are drawn anew: with other training rows, all are others
        checked["train"] = splits.get("train") or _split(config, "train")
    for model in models:
        for name, known in (model.record or {"data": {}})["data"].items():
            if name in checked and checked[name].sha256 != known["sha256"]:
                raise SymloraError(
                    f"{model.source}: {name} has other rows in these data than in the run, which may have trained on "
                    "some of them. Give the run's own data, or score new rows with --file."
                )
    if file is not None:
        splits[file.name] = replace(read_rows([file], config.task), name=file.name)
    return splits


def _split(config: Config, name: str) -> Split:
    """Load one split, as the run had it."""
    if name != HELD_OUT and (name != "train" or not config.protocol.held_out):
        return load_splits(config.task, config.data, [name])[name]
    if not config.protocol.held_out:
        raise SymloraError(f"protocol {config.protocol.name} sets no slice aside: there is no {HELD_OUT}.")
    parts = holdout(load_splits(config.task, config.data, ["train"])["train"], config.protocol.held_out)
    return parts[name == HELD_OUT]


def _of_texts(texts: Sequence[str], config: Config) -> Split:
    """Make a split of sentences; a tab parts a pair."""
    columns = len(config.task.columns)
    rows = [text.split("\t") for text in texts]
    for number, row in enumerate(rows, 1):
        if len(row) != columns or not all(part.strip() for part in row):
            expected = "one sentence" if columns == 1 else "two sentences with a tab between them"
            raise SymloraError(f"sentence {number} ({texts[number - 1][:60]!r}): {config.task.name} takes {expected}.")
    hidden: Any = np.full(len(rows), -1, np.int64 if config.task.labels else np.float32)
    return Split("text", tuple(list(column) for column in zip(*rows, strict=True)), hidden, np.arange(len(rows)))


def _tokens(config: Config, splits: Mapping[str, Split]) -> dict[str, TokenizedSplit]:
    return tokenize_all(splits, load_tokenizer(find(config.model)), config.data)


def _scored(model: Trained, split: str, logits: Logits, labels: npt.NDArray[Any]) -> list[dict[str, Any]]:
    import evaluate as library

    task, rows = model.config.task, []
    recorded: Mapping[str, Any] = {}
    if model.record is not None:
        rule = model.record["config"]["protocol"]["selection"]
        recorded = model.record["selections"][rule]["metrics"].get(split, {})
    for name in task.metrics:
        ranked = name == "auroc"
        predicted = logits[:, -1] - logits[:, 0] if ranked else predictions_of(logits, regression=not task.labels)
        try:
            metric = library.load(GLUE, name)
        except OSError as error:
            raise SymloraError(f"evaluate cannot copy its metric: {error}. Set HF_MODULES_CACHE=<folder>.") from error
        value = metric.compute(predictions=predicted, references=labels)[name]
        interval = score_interval(name, logits, labels)
        low, high = (interval.low, interval.high) if interval else (None, None)
        row = {"source": str(model.source), "split": split, "rows": len(labels), "metric": name, "value": value}
        rows.append({**row, "low": low, "high": high, "recorded": recorded.get(name)})
    return rows


def _table(config: Config, split: Split, logits: Logits, given: bool) -> pd.DataFrame:
    names = config.task.labels
    if given:  # as sentences, not as a file or a split
        columns: dict[str, Any] = {"text": ["\t".join(row) for row in zip(*split.texts, strict=True)]}
    else:
        columns = {"split": split.name, "idx": split.idx}
        if not (split.labels == -1).all():
            columns["label"] = [names[label] for label in split.labels] if names else split.labels
    if not names:
        return pd.DataFrame(columns | {"prediction": logits[:, 0]})
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    columns["prediction"] = [names[number] for number in logits.argmax(axis=1)]
    return pd.DataFrame(columns | {f"p_{name}": shares[:, number] for number, name in enumerate(names)})
