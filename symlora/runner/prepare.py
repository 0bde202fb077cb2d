"""Prepare a pack of runs for training: work folders, data, records, checkpoint."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from symlora.config.identity import NOT_IDENTITY_TRAIN, config_hash
from symlora.config.rows import Split
from symlora.config.schema import HELD_OUT, Config
from symlora.data.splits import holdout, load_splits
from symlora.data.tokens import TokenizedSplit, tokenize_all
from symlora.errors import SymloraError
from symlora.model.build import encoder_is_frozen
from symlora.model.device import pick_device, pick_precision
from symlora.model.run_model import RunModel
from symlora.model.source import find, load_tokenizer, weights_sha256
from symlora.model.tokenizer import describe_tokenizer
from symlora.runner.provenance import code_sha256, joules, provenance, reset_peak_memory
from symlora.runner.reporter import Reporter
from symlora.store import folder as run_folders
from symlora.store import publish
from symlora.training.checkpoint import Checkpoint
from symlora.training.distributed import Processes


@dataclass
class Prepared:
    """All that runs of one pack need, before any model is built."""

    configs: Sequence[Config]
    reporters: Sequence[Reporter]
    folders: list[Path]  # where each run's record will stand
    works: list[Path]  # where each run is written until it is complete
    records: list[dict[str, Any]]  # the contents of each run.json so far
    tokens: dict[str, TokenizedSplit]  # of every split, test splits among them
    device: torch.device
    precision: str
    processes: Processes
    joules: float  # the energy counter at the start of the run
    started: float  # time.perf_counter()
    checkpoint: Checkpoint | None = None  # None where several processes train

    @property
    def scored(self) -> dict[str, TokenizedSplit]:
        """Return the training split and those scored after each epoch."""
        return {name: split for name, split in self.tokens.items() if name not in self.configs[0].task.test}


@contextmanager
def prepare_pack(configs: Sequence[Config], reporters: Sequence[Reporter], processes: Processes) -> Iterator[Prepared]:
    """Prepare a pack: work folders, data, records, checkpoint.

    At the end of the block, work folders that were not published vanish and the reporters are closed.

    Raises:
        SymloraError: The data, the encoder or the disk has a problem; disk errors within the block are included.
    """
    first = configs[0]
    folders = [run_folders.run_folder(config) for config in configs]
    place = folders[0]
    with ExitStack() as unfinished:
        for reporter in reporters:
            unfinished.callback(reporter.close)
        try:
            device = pick_device(first.device)
            precision = pick_precision(first.precision, device) if encoder_is_frozen(first.method) else "fp32"
            reset_peak_memory(device)
            started, energy, origin = time.perf_counter(), joules(device), provenance(device)
            works, records = list[Path](), list[dict[str, Any]]()
            for place, config in zip(folders, configs, strict=True):
                # Only the first process writes: a second work folder next to it would be taken for a leftover.
                work = publish.begin(place) if processes.rank == 0 else Path(tempfile.mkdtemp(prefix="symlora-"))
                unfinished.callback(shutil.rmtree, work, ignore_errors=True)
                works.append(work)
                records.append(
                    {
                        "schema_version": run_folders.SCHEMA_VERSION,
                        "config_hash": config_hash(config),
                        "config": run_folders.recorded_config(config),
                        "precision": precision,
                        "provenance": {**origin},
                    }
                )
            splits, tokens, described = prepare_data(first)
            weights = weights_sha256(find(first.model))
            for record in records:
                record["provenance"] |= {"weights_sha256": weights, **described}
                record["data"] = {name: describe(splits[name], tokens[name], first) for name in tokens}
            of_runs = (configs, reporters, folders, works, records)
            prepared = Prepared(*of_runs, tokens, device, precision, processes, energy, started)
            if processes.size == 1:
                prepared.checkpoint = _checkpoint(prepared)
            yield prepared
        except (OSError, SafetensorError) as error:
            raise publish.not_kept(place, error) from error


def prepare_data(config: Config) -> tuple[dict[str, Split], dict[str, TokenizedSplit], dict[str, Any]]:
    """Load, tokenize and describe the splits that a run needs.

    `train`, then the task's validation splits, then `held_out` where the protocol sets a slice aside, then test splits
    where they are asked for.
    """
    names = ["train", *config.task.validation, *(config.task.test if config.predict_test else [])]
    splits = load_splits(config.task, config.data, names)
    parts = ", ".join(f"{name} {len(split):,} of {config.task.splits[name]:,} rows" for name, split in splits.items())
    if config.protocol.held_out:
        splits["train"], splits[HELD_OUT] = holdout(splits["train"], config.protocol.held_out)
        if len(splits[HELD_OUT]) < 10:
            raise SymloraError(
                f"protocol.held_out={config.protocol.held_out} sets {len(splits[HELD_OUT])} rows aside: too few to "
                "choose an epoch with. Give a larger share."
            )
    source = find(config.model)
    tokenizer = load_tokenizer(source)
    tokens = tokenize_all(splits, tokenizer, config.data)
    described = describe_tokenizer(tokenizer, source, tokens["train"])
    if config.data.allow_subset:
        described["notes"].append(f"data.allow_subset: these need not be the official splits ({parts})")
    return splits, tokens, described


def describe(split: Split, tokens: TokenizedSplit, config: Config) -> dict[str, Any]:
    """Describe a split for run.json."""
    names, classes = config.task.labels, {}
    if config.data.source == "own" and names and split.labels.min() >= 0:
        counts = np.bincount(split.labels, minlength=len(names))
        classes = {"classes": dict(zip(names, counts.tolist(), strict=True))}
    return {
        **classes,
        "rows": len(split),
        "sha256": split.sha256,
        "truncated_rows": tokens.truncated,
        "mean_tokens": float(tokens.lengths.mean()),
    }


def check_model(prepared: Prepared, models: Sequence[RunModel]) -> None:
    """Check the models, record their sizes and announce the runs.

    Raises:
        SymloraError: The tokenizer is another model's, or there is no room on the disk.
    """
    largest = max(int(split.input_ids.max()) for split in prepared.tokens.values())
    size = models[0].encoder.model.get_input_embeddings().weight.shape[0]  # an adapted embedding has no num_embeddings
    if largest >= size:
        raise SymloraError(
            f"model={prepared.configs[0].model.name}: its tokenizer gives token {largest}, but the encoder has {size}. "
            "The tokenizer's files next to the weights are another model's."
        )
    # Trained weights in float32, and 16 MiB a run for the rest.
    needed = sum(4 * model.counts().total + 16 * 2**20 for model in models)
    place = prepared.works[0]
    if (free := shutil.disk_usage(place).free) < needed:
        runs = "a run needs" if len(models) == 1 else f"{len(models)} runs need"
        room = f"{free / 2**20:.0f} MiB left, {runs} {needed / 2**20:.0f}"
        raise SymloraError(f"{place.parent} has {room}. Free space or set results_dir.")
    for number, model in enumerate(models):
        record, loaded, counts = prepared.records[number], model.encoder.model.loaded, model.counts()
        record["parameters"] = {**vars(counts), "total": counts.total}
        origin = record["provenance"]
        origin |= {"head": loaded["head"], "notes": [*origin["notes"], *loaded["notes"]]}
        prepared.reporters[number].started(prepared.folders[number], record, counts)


def _checkpoint(prepared: Prepared) -> Checkpoint:
    config, record = prepared.configs[0], prepared.records[0]
    root, origin = Path(config.results_dir), record["provenance"]
    runs = [str(folder.relative_to(root)) for folder in prepared.folders]
    fingerprint = {
        "configurations": {run: record["config_hash"] for run, record in zip(runs, prepared.records, strict=True)},
        "data": {name: record["data"][name]["sha256"] for name in prepared.scored},
        "tokenizer": {name: split.sha256 for name, split in prepared.scored.items()},  # what it made of the data
        "weights": origin["weights_sha256"],
        "precision": record["precision"],
        "device": origin["device"],
        "threads": origin["threads"],
        "packages": origin["packages"],
        "code": code_sha256(),
        **{key: getattr(config.train, key) for key in NOT_IDENTITY_TRAIN},  # another rounding
        "force": config.force,  # a forced repeat takes up its own checkpoint alone
    }
    return Checkpoint(root, runs, fingerprint, config.checkpoint.seconds, resume=config.checkpoint.resume)
