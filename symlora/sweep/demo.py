"""Run `make demo`: one sweep that needs no download.

The encoder is real (MiniLM, from a Python package); the sentences come from our own grammar (symlora/data/demo.py), so
the scores show that the pipeline works, and nothing about GLUE.
"""

import argparse
import time
from pathlib import Path

from symlora.config.overrides import check_words
from symlora.data.demo import DEMO_RULES
from symlora.runner.train import command as train
from symlora.store.folder import scan
from symlora.store.listing import table
from symlora.sweep.grid import expand
from symlora.training.interrupt import Stopped

INTRODUCTION = """\
SymLoRA, LoRA (rank 8, query and value) and the head alone on a frozen MiniLM: {tasks} demo tasks, {runs} short runs.
The sentences come from a grammar of ours in the shape of GLUE's tasks; these are not GLUE scores."""

NEXT = """\
Next: GLUE_DIR=<folder> make glue TASK=rte MODEL=minilm, or with a hub: make glue TASK=rte. make help lists the rest."""


def command(chosen: argparse.Namespace) -> int:
    """Run `symlora demo`: train what is not finished, and print the table."""
    started = time.perf_counter()
    sweep = ["sweep=demo", f"results_dir={chosen.results_dir}", *chosen.overrides]
    check_words(["-m", *sweep])
    runs = expand(*sweep)
    folder = Path(runs[0].results_dir)
    tasks = dict.fromkeys(config.task.name for config in runs)
    print(INTRODUCTION.format(tasks=len(tasks), runs=len(runs)))
    print(*(f"  {task}: {DEMO_RULES[task]}" for task in tasks), sep="\n", flush=True)
    status = 0
    try:
        train(["-m", *sweep])
    except Stopped:
        raise
    except SystemExit as ended:  # Hydra's, where a run failed
        if isinstance(ended.code, str):  # nothing was trained; the text says why
            raise
        status = 1 if ended.code else 0
    records = [record for _, record in scan(folder)]
    print(f"\n{table(records)}\n")
    seconds = time.perf_counter() - started
    print(f"{len(records)} runs, {seconds:.0f} s; one folder each in {folder}\n{NEXT}")
    return status
