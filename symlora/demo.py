"""`make demo`: SymLoRA and LoRA on tasks that need no download, several seeds, one table.

The encoder is real (MiniLM, from a Python package); the sentences come from our own grammar (symlora/data/demo.py), so the
scores say that the pipeline works, and nothing about GLUE.
"""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import numpy as np

from symlora.config import compose

TASKS = ("cola", "rte", "mrpc")
METHODS = ("symlora", "lora")
SEEDS = (0, 1, 2)


def overrides(task: str, method: str, seed: int, results_dir: str) -> tuple[str, ...]:
    """The command line of one demo run."""
    return (
        f"task={task}",
        f"method={method}",
        f"seed={seed}",
        "model=minilm",
        "protocol=demo",
        "device=cpu",
        f"results_dir={results_dir}",
    )


def run_one(arguments: Sequence[str]) -> dict[str, Any]:
    """One run, in a worker process, on one thread: two such processes do more than one with two threads."""
    import torch

    from symlora.reporter import Reporter
    from symlora.run import run

    torch.set_num_threads(1)
    config = compose(*arguments)
    return run(config, Reporter(config, quiet=True))[1]


def run_demo(results_dir: str = "results/demo", workers: int | None = None) -> list[dict[str, Any]]:
    """Runs (or finds finished) every demo run, as many at once as there are cores, and returns their records.

    Raises:
        SymloraError: A run could not start.
    """
    from tqdm import tqdm

    jobs = [overrides(t, m, s, results_dir) for t in TASKS for m in (*METHODS, "head") for s in _seeds(m)]
    spawn = multiprocessing.get_context("spawn")
    workers = workers or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the workers; read when they import torch
    with ProcessPoolExecutor(max_workers=min(workers, len(jobs)), mp_context=spawn) as pool:
        futures = [pool.submit(run_one, job) for job in jobs]
        try:
            done = as_completed(futures)
            return [
                future.result() for future in tqdm(done, total=len(jobs), unit="run", disable=not sys.stderr.isatty())
            ]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _seeds(method: str) -> tuple[int, ...]:
    return SEEDS if method != "head" else SEEDS[:1]  # the head alone is there to show that the adapter is needed


def table(records: Sequence[dict[str, Any]]) -> str:
    """Scores in points, one line per task and method: mean and standard deviation over the seeds."""
    lines = [
        f"{'task':6} {'metric':22} {'method':8} {'adapter':>8} {'trained':>8} {'seeds':>5}  score (mean ± s, points)"
    ]
    for task in TASKS:
        for method in (*METHODS, "head"):
            runs = [
                r for r in records if (r["config"]["task"]["name"], r["config"]["method"]["name"]) == (task, method)
            ]
            good = [100 * r["score"]["value"] for r in runs if r["status"] == "finished"]
            failed = f"  ({len(runs) - len(good)} failed)" if len(good) < len(runs) else ""
            spread = f" ± {np.std(good, ddof=1):.1f}" if len(good) > 1 else ""
            parameters, name = runs[0]["parameters"], runs[0]["config"]["task"]["score"]
            score = f"{np.mean(good):.1f}{spread}" if good else "none"
            lines.append(
                f"{task:6} {name:22} {method:8} {parameters['adapter']:>8,} {parameters['total']:>8,} {len(good):>5}  {score}{failed}"
            )
    return "\n".join(lines)
