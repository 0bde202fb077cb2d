"""Train runs from configuration to run folder.

    claim  →  prepare  →  build  →  train  →  keep

Each step is one call in `run_pack`, and each is in a module of its own: prepare.py, model/build.py, training/loop.py,
record.py.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from symlora.config.identity import pack_key
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.model.build import build_pack
from symlora.model.fused import fusing, pick_compile
from symlora.model.packable import CannotPack
from symlora.model.run_model import RunModel
from symlora.runner.prepare import check_model, prepare_pack
from symlora.runner.record import add_tests, keep_runs
from symlora.runner.reporter import Reporter
from symlora.store import folder as run_folders
from symlora.store.locks import Busy, locked
from symlora.store.publish import recover
from symlora.training.checkpoint_files import clear_settled
from symlora.training.distributed import Processes, connected, launched_processes
from symlora.training.interrupt import graceful_stop, raise_if_stopped
from symlora.training.loop import fit_pack
from symlora.training.result import Fit

Ended = tuple[Path, dict[str, Any]]  # a run's folder, and the content of its run.json


def run(config: Config, reporter: Reporter) -> Ended:
    """Train one run: `run_pack` of one.

    Raises:
        SymloraError: As `run_pack`; or the folder could not be finished.
    """
    folder, record = run_pack([config], [reporter])[0]
    if record["status"] == "lost":
        raise SymloraError(record["error"])
    return folder, record


def run_pack(configs: Sequence[Config], reporters: Sequence[Reporter], began: float = math.inf) -> list[Ended]:
    """Train runs together on one frozen encoder; write one folder each.

    Finished runs are left as they are. A pack that needs more memory than there is trains again in two halves.

    Args:
        configs: The runs: of one encoder, task, data, protocol, method and batch size; they may differ in seed,
            learning rates, decay, warm-up, clipping and patience.
        reporters: One a run. They tell the user, and W&B where it is on.
        began: When the sweep began, in seconds since the epoch. Runs that another process trained since then,
            and that failed or were forced, are not trained again.

    Returns:
        For each run its folder and the content of its run.json. The status is `failed` where training diverged or
        raised an error, with the traceback. It is `busy` (with an `error`, nothing more) where another process trains
        the run at this moment, and `lost` where it was trained and its folder could not be finished.

    Raises:
        SymloraError: Something is wrong with the configuration, the data, the model or the disk. Runs whose folders
            were complete by then are kept.
        ValueError: These runs cannot share a pass (symlora.model.pack).

    Started by torchrun or accelerate launch, one run is trained by all processes (symlora.training.distributed); the
    first writes the folder.
    """
    processes = launched_processes()
    if processes.size > 1 and len(configs) > 1:
        raise SymloraError("several processes (torchrun, accelerate launch) train one run, not a pack: leave -m out.")
    if processes.size > configs[0].train.batch_size:
        raise SymloraError(f"{processes.size} processes share a batch of {configs[0].train.batch_size}: start fewer.")
    if len({pack_key(config) for config in configs}) > 1:
        raise ValueError(
            "runs that differ in more than seed, rates, decay, warm-up, clipping and patience cannot share a pass"
        )
    with ExitStack() as locks:
        ended = {
            number: settled
            for number, config in enumerate(configs)
            if (settled := _claim(config, reporters[number], began, processes, locks)) is not None
        }
        groups = [[number for number in range(len(configs)) if number not in ended]]
        while any(groups):
            group = groups.pop(0)
            own, tell = [configs[number] for number in group], [reporters[number] for number in group]
            try:
                ended |= zip(group, _train(own, tell, processes), strict=True)
            except Exception as error:
                if len(group) == 1 or isinstance(error, SymloraError) or not is_out_of_memory(error):
                    raise
                half = (len(group) + 1) // 2
                groups = [group[:half], group[half:], *groups]
                print(f"not enough memory for {len(group)} runs at once; trained again in two halves", file=sys.stderr)
    if processes.rank == 0:
        for root in {Path(config.results_dir) for config in configs}:
            clear_settled(root)
    return [ended[number] for number in range(len(configs))]


def _train(configs: Sequence[Config], reporters: Sequence[Reporter], processes: Processes) -> list[Ended]:
    """Train runs together and write their folders.

    An error that no memory is left is raised for several runs; for one it is the run's result.
    """
    with prepare_pack(configs, reporters, processes) as prepared:
        models: list[RunModel] = []
        fits: Sequence[Fit | Exception]
        try:
            pack = build_pack(configs, prepared.device, prepared.precision)
            models += pack.runs  # a run that diverges leaves the pack
            check_model(prepared, models)
            sentences = len(prepared.scored["train"]) * configs[0].train.epochs
            compiles = pick_compile(configs[0].train.compile, prepared.device, prepared.precision, sentences)
            for record in prepared.records:
                record["provenance"]["compiled"] = compiles
            with _training(processes, prepared.device), fusing(compiles):
                fits = fit_pack(
                    configs,
                    prepared.scored,
                    pack,
                    on_step=lambda number, step: reporters[number].step(step),
                    on_epoch=lambda number, epoch: reporters[number].epoch(epoch),
                    processes=processes,
                    checkpoint=prepared.checkpoint,
                )
        except (SymloraError, OSError, SafetensorError, CannotPack):
            raise
        except Exception as error:  # out of memory, or a bug: a run that failed is a result too
            if is_out_of_memory(error) and len(configs) > 1:
                raise
            fits = [error] * len(configs)
        return keep_runs(prepared, models, fits)


def _claim(config: Config, reporter: Reporter, began: float, processes: Processes, locks: ExitStack) -> Ended | None:
    """Lock a run; return its record if there is nothing to train."""
    folder = run_folders.run_folder(config)
    finished = run_folders.finished_record(config)
    if finished is None and processes.rank == 0:
        try:
            locks.enter_context(locked(Path(config.results_dir), folder))
        except Busy as busy:
            return folder, {"status": "busy", "error": f"{folder}: {busy}"}
        recover(folder)
        # By the process that held the lock until now, or recovered.
        finished = run_folders.finished_record(config) or run_folders.record_since(config, began)
        if finished is None and run_folders.lacks_tests(config):
            try:
                finished = add_tests(config, folder)
            except SymloraError as error:  # of this run alone
                return folder, {"status": "lost", "error": str(error)}
    elif finished is None and run_folders.lacks_tests(config):  # the first process predicts
        finished = run_folders.read_run(folder)
    if finished is None:
        return None
    reporter.skipped(folder, finished)
    return folder, finished


@contextmanager
def _training(processes: Processes, device: torch.device) -> Iterator[None]:
    """Connect the processes; let a signal end training gently."""
    with connected(processes, device), graceful_stop():
        try:
            yield
        except Exception:
            raise_if_stopped()  # of several processes one may stop before the other, whose error is then no failure
            raise


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that no memory was left."""
    # A CPU, MPS and cuBLAS raise a RuntimeError.
    texts = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in texts)
