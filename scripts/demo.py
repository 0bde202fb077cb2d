"""Trains SymLoRA and LoRA on three demo tasks with three seeds each and prints the comparison."""

import argparse
import sys
import time

from symlora.errors import SymloraError


def main() -> None:
    """Runs the demo; finished runs are not run again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--results-dir", default="results/demo", help="where the run folders go")
    parser.add_argument("--workers", type=int, help="runs at once (one thread each); one per core if not given")
    arguments = parser.parse_args()

    from symlora import demo

    started = time.perf_counter()
    print(
        f"SymLoRA and LoRA (rank 8, query and value) on a frozen MiniLM: {len(demo.TASKS)} demo tasks, {len(demo.SEEDS)} seeds.\n"
        "The sentences come from a grammar of ours in the shape of GLUE's tasks; these are not GLUE scores.",
        flush=True,
    )
    records = demo.run_demo(arguments.results_dir, arguments.workers)
    print(
        f"\n{demo.table(records)}\n\n{len(records)} runs, {time.perf_counter() - started:.0f} s; one folder each in {arguments.results_dir}"
    )
    print(
        "Next: GLUE_DIR=<folder> make glue TASK=rte MODEL=minilm, or make glue TASK=rte with a hub; make help lists the rest."
    )


if __name__ == "__main__":
    try:
        main()
    except SymloraError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Finished runs are kept; make demo goes on with the others.")
