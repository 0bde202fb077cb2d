"""What a trained run writes into its folder: adapter, scores, predictions, norms."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError

from symlora.config.schema import Config
from symlora.data.tokens import TokenizedSplit
from symlora.errors import SymloraError
from symlora.metrics.functions import chance_level
from symlora.model.run_model import RunModel
from symlora.runner.model_card import write_card
from symlora.runner.norms import adapter_norms
from symlora.runner.provenance import without_places
from symlora.store import folder as results
from symlora.training.loop import predict
from symlora.training.result import Fit, predictions_of


def keep(
    config: Config,
    work: Path,
    record: dict[str, Any],
    model: RunModel | None,
    result: Fit | Exception,
    tokens: Mapping[str, TokenizedSplit],
    cost: dict[str, Any],
) -> None:
    """Writes all of one run's files, and completes its record."""
    try:
        if isinstance(result, Exception):
            raise result
        if result.error is not None:
            raise result.error
        assert model is not None  # it trained
        model.load_state(result.state[config.protocol.selection])
        model.save(work / "adapter")
        record |= _scores(config, result, tokens[config.task.validation[0]].labels)
        found = predictions(config, result, model, tokens)
        write_predictions(work / "predictions.parquet", found)
        write_norms(work / "norms.parquet", model)
        if model.peft is not None:
            write_card(work / "adapter", record, found)
    except (SymloraError, OSError, SafetensorError):
        raise
    except Exception as error:  # diverged, or a fault of ours
        record |= {
            "status": "failed",
            "error": without_places(f"{type(error).__name__}: {error}"),
            "traceback": without_places("".join(traceback.format_exception(error))),
        }
    else:
        record["adapter_bytes"] = sum(path.stat().st_size for path in (work / "adapter").glob("*.safetensors"))
        record["status"] = "finished"
        record["cost"] = {**cost, "train_seconds": result.train_seconds, "tokens": result.tokens}
    write_config(work / "config.yaml", record["config"])
    results.seal(work, record)


def _scores(config: Config, result: Fit, labels: npt.NDArray[Any]) -> dict[str, Any]:
    """What run.json says of the scores: every epoch, and validation at the epoch that each rule takes.

    A score that is not above what a constant prediction gets is marked `at_chance`.
    """
    epochs = [vars(epoch) for epoch in result.epochs]
    selections: dict[str, Any] = {
        rule: {"epoch": number, "metrics": result.epochs[number - 1].metrics}
        for rule, number in sorted(result.chosen.items())
    }
    decisive, rule = config.task.validation[0], config.protocol.selection
    value, chance = selections[rule]["metrics"][decisive][config.task.score], chance_level(config.task.score, labels)
    return {
        "epochs": epochs,
        "selections": selections,
        "score": {
            "metric": config.task.score,
            "split": decisive,
            "selection": rule,
            "value": value,
            "chance": chance,
            "at_chance": not value > chance,  # NaN too: a constant prediction has no correlation
        },
    }


def predictions(
    config: Config, result: Fit, model: RunModel, tokens: Mapping[str, TokenizedSplit]
) -> dict[tuple[str, str], Any]:
    """Logits by (rule, split): those scored in training, and the test splits by the protocol's own rule."""
    found: dict[tuple[str, str], Any] = {
        (rule, split): logits for rule, by_split in sorted(result.logits.items()) for split, logits in by_split.items()
    }
    rule = config.protocol.selection
    tests = [name for name in tokens if name in config.task.test]
    if tests:
        model.load_state(result.state[rule])
        found |= {(rule, name): predict(model.encoder, tokens[name]) for name in tests}
    return {
        (rule, split): {"idx": tokens[split].idx, "label": tokens[split].labels, "logits": logits}
        for (rule, split), logits in found.items()
    }


def write_predictions(path: Path, found: dict[tuple[str, str], Any]) -> None:
    """Columns: selection, split, idx (the hub's), label, prediction (class or score), logits (list of float32)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: list[pa.Table] = []
    for (rule, split), part in found.items():
        logits = part["logits"]
        rows = len(logits)
        tables.append(
            pa.table(
                {
                    "selection": pa.array([rule] * rows).dictionary_encode(),
                    "split": pa.array([split] * rows).dictionary_encode(),
                    "idx": part["idx"],
                    "label": part["label"],
                    "prediction": predictions_of(logits, regression=part["label"].dtype.kind == "f"),
                    "logits": pa.array(list(logits), pa.list_(pa.float32())),
                }
            )
        )
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), path, compression="zstd")


def write_norms(path: Path, model: RunModel) -> None:
    """One row per adapted projection (symlora.runner.norms); no file for methods without an adapter."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(adapter_norms(model))
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def write_config(path: Path, content: dict[str, Any]) -> None:
    """YAML that OmegaConf reads back with the same types."""
    from omegaconf import OmegaConf

    OmegaConf.save(OmegaConf.create(content), path)
