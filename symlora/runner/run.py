"""Runs from configuration to run folder: data, model, training, record."""

import math
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

from symlora.config.identity import config_hash
from symlora.config.schema import Config
from symlora.data.tokens import TokenizedSplit
from symlora.errors import SymloraError
from symlora.model.build import build_pack, encoder_is_frozen
from symlora.model.device import pick_device, pick_precision
from symlora.model.pack import CannotPack, Pack
from symlora.model.run_model import RunModel
from symlora.model.source import find, weights_sha256
from symlora.runner.prepare import check_vocabulary, describe, prepare_data
from symlora.runner.provenance import EnergyMeter, code_sha256, peak_memory_bytes, provenance
from symlora.runner.record import keep
from symlora.runner.reporter import Reporter
from symlora.store import folder as results
from symlora.store.locks import Busy, locked
from symlora.sweep.packing import shared
from symlora.training.checkpoint import Checkpoint
from symlora.training.checkpoint_files import clear_settled
from symlora.training.distributed import connected, launched_processes
from symlora.training.interrupt import check, graceful_stop
from symlora.training.loop import fit_pack
from symlora.training.result import Fit


def run(config: Config, reporter: Reporter) -> tuple[Path, dict[str, Any]]:
    """Trains one run and writes its folder, unless a finished one stands there already: `run_pack` of one.

    Raises:
        SymloraError: As `run_pack`; or the folder could not be finished.
    """
    folder, record = run_pack([config], [reporter])[0]
    if record["status"] == "lost":
        raise SymloraError(record["error"])
    return folder, record


def run_pack(
    configs: Sequence[Config], reporters: Sequence[Reporter], began: float = math.inf
) -> list[tuple[Path, dict[str, Any]]]:
    """Trains runs in one pass over one frozen encoder and writes a folder for each. Finished ones are left as they are.

    Args:
        configs: The runs: of one encoder, task, data, protocol, method and batch size; they may differ in seed,
            learning rates, decay, warm-up and clipping.
        reporters: One a run. They tell the user, and W&B where it is on.
        began: When the sweep began, in seconds since the epoch: what another process has trained since then, and
            failed or was forced to train again, is not trained once more.

    Returns:
        For each run its folder and the content of its run.json; the status is `failed` where training diverged.

    Raises:
        SymloraError: Something is wrong with the configuration, the data, the model or the disk. Runs whose folders
            were complete by then are kept.
        ValueError: These runs cannot share a pass (symlora.model.pack).

    Any other error in training leaves folders whose run.json says `failed`, with the traceback. Of a run that another
    process trains at this moment, the content is `{"status": "busy", "error": ...}`; of one that was trained and whose
    folder could not be finished, `{"status": "lost", "error": ...}`.

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
                # By the process that held the lock until now, or recovered.
                finished = results.finished_record(config) or results.record_since(config, began)
            if finished is not None:
                done[number] = folder, finished
                reporter.skipped(folder, finished)
        todo = [number for number in range(len(configs)) if number not in done]
        if todo:
            trained = _train([configs[number] for number in todo], [reporters[number] for number in todo])
            done |= zip(todo, trained, strict=True)
    if launched_processes().rank == 0:
        for root in {Path(config.results_dir) for config in configs}:
            clear_settled(root)
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
    ended: list[tuple[Path, dict[str, Any]]] = []
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
                except (SymloraError, OSError, SafetensorError) as error:
                    record = {"status": "lost", "error": str(_not_kept(place, error))}
                else:
                    reporter.finished(place, record)
                ended.append((place, record))
        except (OSError, SafetensorError) as error:
            raise _not_kept(place, error) from error
    # A fault in writing the folders is tried again from the trained checkpoint; what diverged would diverge again.
    if checkpoint is not None and all(results.is_settled(record) for _, record in ended):
        checkpoint.remove()
    return ended


def _not_kept(folder: Path, error: Exception) -> SymloraError:
    """A full disk, a folder that went away."""
    if isinstance(error, SymloraError):
        return error
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
) -> tuple[Checkpoint | None, Iterator[dict[str, Any] | Exception]]:
    """Trains; then the record of each run, once everything of it is in its work folder, or why it is not."""
    first = configs[0]
    device = pick_device(first.device)
    precision = pick_precision(first.precision, device) if encoder_is_frozen(first.method) else "fp32"
    started, energy = time.perf_counter(), EnergyMeter(device)
    records = [_begun(config, work, device, precision) for config, work in zip(configs, works, strict=True)]
    splits, tokens = prepare_data(first)
    weights = weights_sha256(find(first.model))
    described = {name: describe(splits[name], tokens[name]) for name in tokens}
    for record in records:
        record["provenance"]["weights_sha256"] = weights
        record["data"] = described
    checkpoint = _checkpoint(configs, folders, records, tokens) if launched_processes().size == 1 else None
    models: Sequence[RunModel] = ()
    fits: Sequence[Fit | Exception]
    try:
        pack = build_pack(configs, device, precision)
        models = list(pack.runs)
        check_vocabulary(first, models[0], tokens)
        check_space(works[0], models)
        for record, model, folder, reporter in zip(records, models, folders, reporters, strict=True):
            record["parameters"] = {**vars(model.counts()), "total": model.counts().total}
            reporter.started(folder, record)
        fits = _trained(configs, reporters, pack, tokens, device, checkpoint)
    except (SymloraError, OSError, SafetensorError, CannotPack):
        raise
    except Exception as error:  # out of memory, a fault of ours: a run that failed is a result too
        if retry and is_out_of_memory(error):
            raise _OutOfMemory(f"not enough memory for {len(configs)} runs at once") from None
        fits = [error] * len(configs)
    cost = _cost(started, energy, device, checkpoint, len(configs))

    def kept() -> Iterator[dict[str, Any] | Exception]:
        for number, (config, work, record) in enumerate(zip(configs, works, records, strict=True)):
            try:
                keep(config, work, record, models[number] if models else None, fits[number], tokens, cost)
            except (SymloraError, OSError, SafetensorError) as error:
                yield error
            else:
                yield record

    return checkpoint, kept()


def _begun(config: Config, work: Path, device: torch.device, precision: str) -> dict[str, Any]:
    """The record of a run that begins, also on the disk."""
    record = {
        "schema_version": results.SCHEMA_VERSION,
        "status": "running",
        "config_hash": config_hash(config),
        "config": results.recorded_config(config),
        "precision": precision,
        "provenance": provenance(device),
    }
    results.write_json(work / results.RUN_FILE, record)
    return record


def _trained(
    configs: Sequence[Config],
    reporters: Sequence[Reporter],
    pack: Pack,
    tokens: Mapping[str, TokenizedSplit],
    device: torch.device,
    checkpoint: Checkpoint | None,
) -> list[Fit]:
    processes, tests = launched_processes(), configs[0].task.test
    with connected(processes, device), graceful_stop():
        try:
            return fit_pack(
                configs,
                {name: tokens[name] for name in tokens if name not in tests},
                pack,
                lambda number, progress: reporters[number].step(progress),
                lambda number, epoch: reporters[number].epoch(epoch),
                processes,
                checkpoint,
            )
        except Exception:
            check()  # of several processes one may stop before the other, whose error is then no failure of the run
            raise


def _cost(
    started: float, energy: EnergyMeter, device: torch.device, checkpoint: Checkpoint | None, runs: int
) -> dict[str, Any]:
    """What a pack took, and each run's share of it."""
    restarts, together = (0, runs) if checkpoint is None else (checkpoint.restarts, checkpoint.together)
    seconds = time.perf_counter() - started + (0.0 if checkpoint is None else checkpoint.seconds_before)
    kwh = None if restarts else energy.kwh()  # what the stopped processes used is not known
    return {
        "seconds": seconds / together,
        "peak_memory_bytes": peak_memory_bytes(device),
        "energy_kwh": None if kwh is None else kwh / together,
        "packed_runs": together,
        "processes": launched_processes().size,
        "restarts": restarts,
    }


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or this machine, had no memory left: torch's own error on a GPU, a RuntimeError on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _checkpoint(
    configs: Sequence[Config],
    folders: Sequence[Path],
    records: Sequence[dict[str, Any]],
    tokens: Mapping[str, TokenizedSplit],
) -> Checkpoint:
    root = Path(configs[0].results_dir)
    runs = [str(folder.relative_to(root)) for folder in folders]
    record = records[0]
    came_from = record["provenance"]
    made_with = {
        "configurations": {run: record["config_hash"] for run, record in zip(runs, records, strict=True)},
        "data": {name: described["sha256"] for name, described in record["data"].items()},
        "tokenizer": {name: split.sha256 for name, split in tokens.items()},  # what it made of the data
        "weights": came_from["weights_sha256"],
        "precision": record["precision"],
        "device": came_from["device"],
        "threads": came_from["threads"],
        "packages": came_from["packages"],
        "code": code_sha256(),
        "force": configs[0].force,  # a forced repeat takes up its own checkpoint alone
    }
    return Checkpoint(root, runs, made_with, configs[0].checkpoint.seconds, resume=configs[0].checkpoint.resume)


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
