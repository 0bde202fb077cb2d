"""`make demo`: SymLoRA and LoRA on tasks that need no download, several seeds, one table.

The encoder is real (MiniLM, from a Python package); the sentences come from our own grammar (symlora/data/demo.py), so
the scores say that the pipeline works, and nothing about GLUE.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from symlora.config import compose
from symlora.errors import SymloraError
from symlora.hub import go_offline_if_unreachable
from symlora.sweep.inner import cores

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


def run_job(job: Job) -> dict[str, Any]:
    """One run, in a worker process, on one thread: two such processes do more than one with two threads."""
    import torch

    go_offline_if_unreachable()
    from symlora.reporter import Reporter
    from symlora.run import run

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
        SymloraError: A run could not start.
    """
    from tqdm import tqdm

    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the workers, and read when they import torch
    workers = min(workers or cores(), len(todo))
    terminal = sys.stderr.isatty()
    started = time.perf_counter()
    with ProcessPoolExecutor(max_workers=workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run_job, job): job for job in todo}
        try:
            bar = tqdm(as_completed(futures), total=len(todo), unit="run", disable=not terminal)
            for count, future in enumerate(bar, start=1):
                record = future.result()
                if not terminal:
                    left = (time.perf_counter() - started) * (len(todo) / count - 1)
                    print(
                        f"  {count:2}/{len(todo)}  {_line(record)}  about {left:.0f} s left",
                        file=sys.stderr,
                        flush=True,
                    )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    by_job = {job: future.result() for future, job in futures.items()}
    return [by_job[job] for job in todo]


def _line(record: dict[str, Any]) -> str:
    config = record["config"]
    score = f"{record['score']['value']:.3f}" if record["status"] == "finished" else record["status"]
    return f"{config['task']['name']:5} {config['method']['name']:8} seed {config['seed']}  {score}"
