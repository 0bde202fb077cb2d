"""`make demo`: SymLoRA and LoRA on tasks that need no download, several seeds, one table.

The encoder is real (MiniLM, from a Python package); the sentences come from our own grammar (symlora/data/demo.py), so
the scores say that the pipeline works, and nothing about GLUE.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from symlora.config.compose import compose
from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.sweep.launchers import cores
from symlora.training.interrupt import graceful_stop, raise_if_stopped

TASKS = ("mrpc", "qnli", "stsb")
METHODS = ("symlora", "lora", "head")
SEEDS = (0, 1, 2)

Job = tuple[str, ...]


def jobs(results_dir: str) -> list[Job]:
    """The command lines of all demo runs. The head alone runs once: it shows that the adapter is needed."""
    fixed = ("model=minilm", "protocol=demo", "device=cpu", f"results_dir={results_dir}")
    return [
        (f"task={task}", f"method={method}", f"seed={seed}", *fixed)
        for seed in SEEDS
        for task in TASKS
        for method in METHODS
        if method != "head" or seed == SEEDS[0]
    ]


def rules() -> dict[str, str]:
    """What decides the label in each of the demo's tasks."""
    from symlora.data.demo import DEMO_RULES

    return {task: DEMO_RULES[task] for task in TASKS}


def run_job(job: Job, stop_file: Path) -> dict[str, Any]:
    """One run, in a worker process, on one thread: two such processes do more than one with two threads.

    Raises:
        Stopped: `stop_file` appeared; the checkpoint is written.
        SymloraError: The run could not start.
    """
    with graceful_stop(stop_file):
        raise_if_stopped()  # the pool hands a run out before the one before it has ended
        import torch

        go_offline_if_unreachable()
        from symlora.runner.reporter import Reporter
        from symlora.runner.run import run

        raise_if_stopped()  # the imports take seconds
        torch.set_num_threads(1)
        config = compose(*job)
        record = run(config, Reporter(config, quiet=True))[1]
    if record["status"] == "busy":
        raise SymloraError(record["error"])
    return record


def run_all(todo: Sequence[Job], workers: int | None = None) -> list[dict[str, Any]]:
    """Runs every job (a finished one is read from its folder), as many at once as there are cores.

    Returns:
        The content of each run.json, in the order of `todo`.

    Raises:
        SymloraError: A run could not start; the others have stopped, with checkpoints.
        Stopped: A signal asked for it (symlora.training.interrupt). No worker is left.
    """
    from tqdm import tqdm

    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the workers, and read when they import torch
    workers = min(workers or cores(), len(todo))
    terminal = sys.stderr.isatty()
    started = time.perf_counter()
    failed: BaseException | None = None
    with tempfile.TemporaryDirectory(prefix="symlora-demo-") as folder:
        stop_file = Path(folder) / "stop"
        with graceful_stop(stop_file, announce=True), _pool(workers) as pool:
            with _signals_held():
                futures = [pool.submit(run_job, job, stop_file) for job in todo]
            bar = tqdm(as_completed(futures), total=len(todo), unit="run", disable=not terminal)
            for count, future in enumerate(bar, start=1):
                if (error := future.exception()) is not None:
                    failed = failed or error
                    stop_file.touch()  # all others end too, and soon: the loop goes on until the last has
                elif not terminal:
                    left = (time.perf_counter() - started) * (len(todo) / count - 1)
                    print(
                        f"  {count:2}/{len(todo)}  {_line(future.result())}  about {left:.0f} s left",
                        file=sys.stderr,
                        flush=True,
                    )
            raise_if_stopped()
            if isinstance(failed, BrokenProcessPool):
                raise SymloraError(
                    "a worker was killed, perhaps because memory ran out: try --workers 1. Finished runs are kept."
                ) from failed
            if failed is not None:
                raise failed
    return [future.result() for future in futures]


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; leaving it by an exception kills them, where the executor's own end would wait for them."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Processes that start within it never see Ctrl-C and SIGTERM: a stop reaches workers by the stop file alone.

    A terminal sends Ctrl-C to every process, also to one that still imports, or that has just ended a run: it would die
    with a traceback, and break the pool while others write checkpoints.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Ends this worker when the demo is gone, however that ended: it would wait for its next run for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _line(record: dict[str, Any]) -> str:
    config = record["config"]
    score = f"{record['score']['value']:.3f}" if record["status"] == "finished" else record["status"]
    return f"{config['task']['name']:5} {config['method']['name']:8} seed {config['seed']}  {score}"
