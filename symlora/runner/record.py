"""Write a trained run's folder: adapter, scores, predictions, norms, run.json."""

import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from safetensors import SafetensorError

from symlora.config.schema import Config
from symlora.data.splits import load_splits
from symlora.data.tokens import TokenizedSplit, tokenize_all
from symlora.errors import SymloraError
from symlora.metrics.functions import chance_level
from symlora.model.run_model import RunModel
from symlora.model.source import find, load_tokenizer
from symlora.runner.model_card import write_card
from symlora.runner.norms import adapter_norms
from symlora.runner.prepare import Prepared, describe
from symlora.runner.provenance import joules, peak_memory_bytes, without_places
from symlora.runner.trained import logits_of, of_run
from symlora.store import folder as run_folders
from symlora.store.publish import begin, not_kept, publish
from symlora.training.loop import predict
from symlora.training.result import Fit, predictions_of


def keep_runs(
    prepared: Prepared, models: Sequence[RunModel], fits: Sequence[Fit | Exception]
) -> list[tuple[Path, dict[str, Any]]]:
    """Write the folder of each run; return folders and records.

    `models` is empty where they could not be built; a fit is an error where training failed. The status is `lost` where
    the folder could not be finished.
    """
    cost = _cost(prepared)
    ended: list[tuple[Path, dict[str, Any]]] = []
    for number, (folder, record) in enumerate(zip(prepared.folders, prepared.records, strict=True)):
        try:
            _write(prepared, number, models[number] if models else None, fits[number], cost)
            if prepared.processes.rank == 0:
                publish(prepared.works[number], folder)
        except (SymloraError, OSError, SafetensorError) as error:
            record = {"status": "lost", "error": str(not_kept(folder, error))}
        else:
            prepared.reporters[number].finished(folder, record)
        ended.append((folder, record))
    return ended


def _cost(prepared: Prepared) -> dict[str, Any]:
    """Return a pack's cost, and each run's share of it."""
    checkpoint, runs = prepared.checkpoint, len(prepared.configs)
    restarts, together = (0, runs) if checkpoint is None else (checkpoint.restarts, checkpoint.together)
    seconds = time.perf_counter() - prepared.started + (0.0 if checkpoint is None else checkpoint.seconds_before)
    kwh = (joules(prepared.device) - prepared.joules) / 3.6e6  # negative where RAPL's counter wrapped
    return {
        "seconds": seconds / together,
        "peak_memory_bytes": peak_memory_bytes(prepared.device),
        # Of the whole device. What stopped processes and those of other GPUs used is not known.
        "energy_kwh": kwh / together if kwh >= 0 and not restarts and prepared.processes.size == 1 else None,
        "packed_runs": together,
        "processes": prepared.processes.size,
        "restarts": restarts,
    }


def _write(
    prepared: Prepared, number: int, model: RunModel | None, result: Fit | Exception, cost: dict[str, Any]
) -> None:
    """Write all of one run's files, and complete its record."""
    config, work, record = prepared.configs[number], prepared.works[number], prepared.records[number]
    tokens = prepared.tokens
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
        if norms := list(adapter_norms(model)):  # none of methods without an adapter
            pq.write_table(pa.Table.from_pylist(norms), work / "norms.parquet", compression="zstd")
        if model.peft is not None:
            write_card(work / "adapter", record, found)
    except (SymloraError, OSError, SafetensorError):
        raise
    except Exception as error:  # diverged, or a bug
        record |= {
            "status": "failed",
            "error": without_places(f"{type(error).__name__}: {error}"),
            "traceback": without_places("".join(traceback.format_exception(error))),
        }
    else:
        record["adapter_bytes"] = sum(path.stat().st_size for path in (work / "adapter").glob("*.safetensors"))
        record["status"] = "finished"
        record["cost"] = {**cost, "train_seconds": result.train_seconds, "tokens": result.tokens}
    seal(work, record)


def seal(work: Path, record: dict[str, Any]) -> None:
    """Write the configuration and run.json."""
    # YAML that OmegaConf reads back with the same types
    OmegaConf.save(OmegaConf.create(record["config"]), work / "config.yaml")
    run_folders.seal(work, record)


def add_tests(config: Config, folder: Path) -> dict[str, Any]:
    """Add test predictions to a finished run's folder."""
    model = of_run(folder, config=config)
    record, rule = model.record, config.protocol.selection
    assert record is not None
    splits = load_splits(config.task, config.data, config.task.test)
    tokens = tokenize_all(splits, load_tokenizer(find(config.model)), config.data)
    [logits] = logits_of([model], tokens, config.device)
    work = begin(folder)
    try:
        shutil.copytree(folder, work, dirs_exist_ok=True)
        rows = {
            (rule, name): {"idx": tokens[name].idx, "label": tokens[name].labels, "logits": logits[name]}
            for name in tokens
        }
        write_predictions(work / "predictions.parquet", rows)
        record["config"]["predict_test"] = True
        record["data"] |= {name: describe(splits[name], tokens[name], config) for name in tokens}
        seal(work, record)
        publish(work, folder)
    except OSError as error:
        raise not_kept(folder, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return record


def _scores(config: Config, result: Fit, labels: npt.NDArray[Any]) -> dict[str, Any]:
    """Return all epochs' scores and the chosen ones; mark those at chance."""
    epochs = [vars(epoch) for epoch in result.epochs]
    selections: dict[str, Any] = {
        rule: {"epoch": number, "metrics": result.epochs[number - 1].metrics}
        for rule, number in sorted(result.chosen.items())
    }
    decisive, rule = config.task.validation[0], config.protocol.selection
    value, chance = selections[rule]["metrics"][decisive][config.task.score], chance_level(config.task.score, labels)
    return {
        "epochs": epochs,
        **({} if result.stopped_epoch is None else {"stopped_epoch": result.stopped_epoch}),
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
    """Return logits by rule and split, test splits' by the protocol's."""
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
    """Write predictions.parquet, or add to it.

    Columns: selection, split, idx (the hub's), label, prediction (class or score), logits (list of float32).
    """
    tables: list[pa.Table] = [pq.read_table(path)] if path.exists() else []
    for (rule, split), part in found.items():
        logits = part["logits"]
        rows = len(logits)
        columns = {
            "selection": pa.array([rule] * rows).dictionary_encode(),
            "split": pa.array([split] * rows).dictionary_encode(),
            "idx": part["idx"],
            "label": part["label"],
            "prediction": predictions_of(logits, regression=part["label"].dtype.kind == "f"),
            "logits": pa.array(list(logits), pa.list_(pa.float32())),
        }
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), path, compression="zstd")
