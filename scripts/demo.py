"""Trains SymLoRA and LoRA on three demo tasks with three seeds each and prints the comparison."""

import sys

from symlora.training.interrupt import Stopped, stop_at_once

if __name__ == "__main__":
    stop_at_once()  # before the other imports, and before the workers start

import argparse
import time

from symlora.errors import SymloraError

INTRODUCTION = """\
SymLoRA and LoRA (rank 8, query and value) on a frozen MiniLM: {tasks} demo tasks, {seeds} seeds, {runs} short runs.
The sentences come from a grammar of ours in the shape of GLUE's tasks; these are not GLUE scores."""

NEXT = """\
Next: GLUE_DIR=<folder> make glue TASK=rte MODEL=minilm, or with a hub: make glue TASK=rte. make help lists the rest."""


def main() -> None:
    """Runs the demo; finished runs are not run again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--results-dir", default="results/demo", help="where the run folders go")
    parser.add_argument("--workers", type=int, help="runs at once (one thread each); one per core if not given")
    arguments = parser.parse_args()

    from symlora import demo
    from symlora.store.listing import table

    started = time.perf_counter()
    jobs = demo.jobs(arguments.results_dir)
    print(INTRODUCTION.format(tasks=len(demo.TASKS), seeds=len(demo.SEEDS), runs=len(jobs)), flush=True)
    for task, rule in demo.rules().items():
        print(f"  {task}: {rule}", flush=True)
    records = demo.run_all(jobs, arguments.workers)
    print(f"\n{table(records)}\n")
    seconds = time.perf_counter() - started
    print(f"{len(records)} runs, {seconds:.0f} s; one folder each in {arguments.results_dir}\n{NEXT}")
    if any(record["status"] != "finished" for record in records):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except SymloraError as error:
        sys.exit(f"error: {error}")
    except Stopped:
        print("\nStopped. Finished runs are kept; the same command goes on from the last checkpoint.", file=sys.stderr)
        raise
