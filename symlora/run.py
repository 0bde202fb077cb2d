"""Runs from configuration to run folder: data, model, training, record."""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from symlora import results
from symlora.config import HELD_OUT, Config
from symlora.data.splits import Split, holdout, load_splits
from symlora.data.tokens import TokenizedSplit, tokenize
from symlora.errors import SymloraError
from symlora.identity import config_hash
from symlora.locks import Busy, locked
from symlora.model.build import RunModel, build_pack, encoder_is_frozen, pick_device, pick_precision
from symlora.model.source import find, load_tokenizer, weights_sha256
from symlora.provenance import EnergyMeter, code_sha256, peak_memory_bytes, provenance
from symlora.reporter import Reporter
from symlora.run_files import keep
from symlora.signals import check, stopping_gently
from symlora.sweep.packing import shared
from symlora.training.checkpoint import Checkpoint
from symlora.training.distributed import connected, launched_processes
from symlora.training.loop import fit_pack
from symlora.training.result import Fit


def run(config: Config, reporter: Reporter) -> tuple[Path, dict[str, Any]]:
    """Trains one run and writes its folder, unless a finished one stands there already: `run_pack` of one."""
    return run_pack([config], [reporter])[0]


def run_pack(configs: Sequence[Config], reporters: Sequence[Reporter]) -> list[tuple[Path, dict[str, Any]]]:
    """Trains runs in one pass over one frozen encoder and writes a folder for each. Finished ones are left as they are.

    Args:
        configs: The runs: of one encoder, task, data, protocol, method and batch size; they may differ in seed,
            learning rates, decay, warm-up and clipping.
        reporters: One a run. They tell the user, and W&B where it is on.

    Returns:
        For each run its folder and the content of its run.json; the status is `failed` where training diverged.

    Raises:
        SymloraError: Something is wrong with the configuration, the data, the model or the disk. Runs whose folders
            were complete by then are kept.
        ValueError: These runs cannot share a pass (symlora.model.pack).

    Any other error in training leaves folders whose run.json says `failed`, with the traceback. Of a run that another
    process trains at this moment, the content is `{"status": "busy", "error": ...}`.

    Started by torchrun or accelerate launch, one run is trained by all processes (symlora.training.distributed); the
    first writes the folder.
    """
    if launched_processes().size > 1 and len(configs) > 1:
        raise SymloraError("several processes (torchrun, accelerate launch) train one run, not a pack: leave -m out.")
    if len({shared(config) for config in configs}) > 1:
        raise ValueError(
            "these runs differ in more than seed, rates, decay, warm-up and clipping: they cannot share a pass"
        )
    done: dict[int, tuple[Path, dict[str, Any]]] = {}
    with ExitStack() as locks:
        for number, (config, reporter) in enumerate(zip(configs, reporters, strict=True)):
            folder = results.run_folder(config)
            finished = results.finished_record(config)
            if finished is None and launched_processes().rank == 0:
                try:
                    locks.enter_context(locked(Path(config.results_dir), folder))
                except Busy as busy:
                    done[number] = folder, {"status": "busy", "error": f"{folder}: {busy}"}
                    continue
                results.recover(folder)
                finished = results.finished_record(config)  # by the process that held the lock until now, or recovered
            if finished is not None:
                done[number] = folder, finished
                reporter.skipped(folder, finished)
        todo = [number for number in range(len(configs)) if number not in done]
        if todo:
            trained = _train([configs[number] for number in todo], [reporters[number] for number in todo])
            done |= zip(todo, trained, strict=True)
    return [done[number] for number in range(len(configs))]


def _train(
    configs: Sequence[Config], reporters: Sequence[Reporter], *, retry: bool = True
) -> list[tuple[Path, dict[str, Any]]]:
    """Trains a pack; once more in two halves, if it needs more memory than there is."""
    try:
        return _train_once(configs, reporters, retry=retry and len(configs) > 1)
    except _OutOfMemory as error:
        print(f"{error}; trained again in two halves", file=sys.stderr)
    half = (len(configs) + 1) // 2
    parts = (slice(None, half), slice(half, None))
    return [ended for part in parts for ended in _train(configs[part], reporters[part], retry=False)]


class _OutOfMemory(Exception):
    """A pack needs more memory than there is."""


def _train_once(
    configs: Sequence[Config], reporters: Sequence[Reporter], *, retry: bool
) -> list[tuple[Path, dict[str, Any]]]:
    folders = [results.run_folder(config) for config in configs]
    finished: list[tuple[Path, dict[str, Any]]] = []
    lost: SymloraError | None = None
    with ExitStack() as unfinished:
        for reporter in reporters:
            unfinished.callback(reporter.close)
        works = []
        place = folders[0]
        try:
            for place in folders:
                # The first process alone writes; beside its folder another's would be taken for a leftover.
                mine = launched_processes().rank == 0
                works.append(results.begin(place) if mine else Path(tempfile.mkdtemp(prefix="symlora-")))
                unfinished.callback(results.discard, works[-1])
            checkpoint, records = _fit(configs, works, folders, reporters, retry=retry)
            for place, work, reporter, record in zip(folders, works, reporters, records, strict=True):
                try:  # what goes wrong in keeping one run must not cost the others
                    if isinstance(record, Exception):
                        raise record
                    if launched_processes().rank == 0:
                        results.publish(work, place)
                except (OSError, SafetensorError) as error:
                    lost = lost or _not_kept(place, error)
                    continue
                reporter.finished(place, record)
                finished.append((place, record))
        except (OSError, SafetensorError) as error:
            raise _not_kept(place, error) from error
    if lost is not None:
        raise lost
    # A fault in writing the folders is tried again from the trained checkpoint; what diverged would diverge again.
    settled = all(record["status"] == "finished" or record["error"].startswith("Diverged:") for _, record in finished)
    if checkpoint is not None and settled:
        checkpoint.remove()
    return finished


def _not_kept(folder: Path, error: Exception) -> SymloraError:
    """A full disk, a folder that went away."""
    return SymloraError(
        f"{folder} could not be finished: {error}. If the disk is full or read-only, free space or set results_dir."
    )


def _fit(
    configs: Sequence[Config],
    works: Sequence[Path],
    folders: Sequence[Path],
    reporters: Sequence[Reporter],
    *,
    retry: bool,
) -> tuple[Checkpoint | None, Iterator[dict[str, Any] | OSError | SafetensorError]]:
    """Trains; then the record of each run, once everything of it is in its work folder, or why it is not."""
    first = configs[0]
    device = pick_device(first.device)
    precision = pick_precision(first.precision, device) if encoder_is_frozen(first.method) else "fp32"
    started = time.perf_counter()
    records: list[dict[str, Any]] = []
    for config, work in zip(configs, works, strict=True):
        records.append(
            {
                "schema_version": results.SCHEMA_VERSION,
                "status": "running",
                "config_hash": config_hash(config),
                "config": results.recorded_config(config),
                "precision": precision,
                "provenance": provenance(device),
            }
        )
        results.write_json(work / results.RUN_FILE, records[-1])
    splits, tokens = prepare_data(first)
    weights = weights_sha256(find(first.model))
    pack = build_pack(configs, device, precision)
    models = list(pack.runs)
    described = {name: _described(splits[name], tokens[name]) for name in tokens}
    for record, model, folder, reporter in zip(records, models, folders, reporters, strict=True):
        record["parameters"] = {**vars(model.counts()), "total": model.counts().total}
        record["provenance"]["weights_sha256"] = weights
        record["data"] = described
        reporter.started(folder, record)
    check_vocabulary(first, models[0], tokens)
    check_space(works[0], models)
    trained_on = {name: tokens[name] for name in tokens if name not in first.task.test}
    energy = EnergyMeter(device)
    processes = launched_processes()
    checkpoint = _checkpoint(configs, folders, records) if processes.size == 1 else None
    fits: Sequence[Fit | Exception]
    try:
        with connected(processes, device), stopping_gently():
            try:
                fits = fit_pack(
                    configs,
                    trained_on,
                    pack,
                    lambda number, progress: reporters[number].step(progress),
                    lambda number, epoch: reporters[number].epoch(epoch),
                    processes,
                    checkpoint,
                )
            except Exception:
                check()  # of several processes one may stop before the other, whose error is then no failure of the run
                raise
    except (SymloraError, OSError, SafetensorError):
        raise
    except Exception as error:  # out of memory, a fault of ours: a run that failed is a result too
        if retry and is_out_of_memory(error):
            raise _OutOfMemory(f"not enough memory for {len(configs)} runs at once") from None
        fits = [error] * len(configs)
    restarts, together = (0, len(configs)) if checkpoint is None else (checkpoint.restarts, checkpoint.together)
    seconds = time.perf_counter() - started + (0.0 if checkpoint is None else checkpoint.seconds_before)
    kwh = None if restarts else energy.kwh()  # what the stopped processes used is not known
    cost = {
        "seconds": seconds / together,
        "peak_memory_bytes": peak_memory_bytes(device),
        "energy_kwh": None if kwh is None else kwh / together,
        "packed_runs": together,
        "processes": processes.size,
        "restarts": restarts,
    }

    def kept() -> Iterator[dict[str, Any] | OSError | SafetensorError]:
        for config, work, record, model, result in zip(configs, works, records, models, fits, strict=True):
            try:
                keep(config, work, record, model, result, tokens, cost)
            except (OSError, SafetensorError) as error:
                yield error
            else:
                yield record

    return checkpoint, kept()


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or this machine, had no memory left: torch's own error on a GPU, a RuntimeError on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _checkpoint(configs: Sequence[Config], folders: Sequence[Path], records: Sequence[dict[str, Any]]) -> Checkpoint:
    root = Path(configs[0].results_dir)
    runs = [str(folder.relative_to(root)) for folder in folders]
    record = records[0]
    came_from = record["provenance"]
    made_with = {
        "configurations": {run: record["config_hash"] for run, record in zip(runs, records, strict=True)},
        "data": {name: described["sha256"] for name, described in record["data"].items()},
        "weights": came_from["weights_sha256"],
        "precision": record["precision"],
        "device": came_from["device"],
        "threads": came_from["threads"],
        "packages": came_from["packages"],
        "code": code_sha256(),
        "force": configs[0].force,  # a forced repeat takes up its own checkpoint alone
    }
    return Checkpoint(root, runs, made_with, configs[0].checkpoint.seconds, resume=configs[0].checkpoint.resume)


def check_vocabulary(config: Config, model: RunModel, tokens: Mapping[str, TokenizedSplit]) -> None:
    """Refuses a tokenizer that gives tokens which the encoder does not have.

    Raises:
        SymloraError: The tokenizer beside the weights is another model's.
    """
    largest = max(int(split.input_ids.max()) for split in tokens.values())
    size = model.encoder.model.get_input_embeddings().num_embeddings
    if largest >= size:
        raise SymloraError(
            f"model={config.model.name}: its tokenizer gives token {largest}, but the encoder has {size}. The "
            "tokenizer's files beside the weights are another model's."
        )


def check_space(work: Path, models: Sequence[RunModel]) -> None:
    """Refuses to train what could not be saved: trained weights in float32, and 16 MiB a run for the rest.

    Raises:
        SymloraError: There is less room.
    """
    needed = sum(4 * model.counts().total + 16 * 2**20 for model in models)
    free = shutil.disk_usage(work).free
    if free < needed:
        runs = "a run needs" if len(models) == 1 else f"{len(models)} runs need"
        room = f"{free / 2**20:.0f} MiB left, {runs} {needed / 2**20:.0f}"
        raise SymloraError(f"{work.parent} has {room}. Free space or set results_dir.")


def prepare_data(config: Config) -> tuple[dict[str, Split], dict[str, TokenizedSplit]]:
    """The splits that a run needs, checked, and their tokens.

    `train`, then the task's validation splits, then `held_out` where the protocol sets a slice aside, then test splits
    where they are asked for.
    """
    names = ["train", *config.task.validation, *(config.task.test if config.predict_test else [])]
    splits = load_splits(config.task, config.data, names)
    if config.protocol.held_out:
        splits["train"], splits[HELD_OUT] = holdout(splits["train"], config.protocol.held_out)
        if len(splits[HELD_OUT]) < 10:
            raise SymloraError(
                f"protocol.held_out={config.protocol.held_out} sets {len(splits[HELD_OUT])} rows aside: too few to "
                "choose an epoch with. Give a larger share."
            )
    tokenizer = load_tokenizer(find(config.model))
    tokens = {
        name: tokenize(split, tokenizer, config.data.max_length, config.data.cache_dir)
        for name, split in splits.items()
    }
    return splits, tokens


def _described(split: Split, tokens: TokenizedSplit) -> dict[str, Any]:
    return {
        "rows": len(split),
        "sha256": split.sha256,
        "truncated_rows": tokens.truncated,
        "mean_tokens": float(tokens.lengths.mean()),
    }
