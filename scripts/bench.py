"""This trainer beside Hugging Face's Trainer with PEFT: speed, memory and share of the machine's peak."""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    numbers = {"type": _numbers, "metavar": "N,N"}
    parser.add_argument("--quick", action="store_true", help="two tasks, few steps: under 2 minutes, rough figures")
    parser.add_argument("--tasks", help="for example rte,cola (rte,mrpc,stsb,cola if not given)")
    parser.add_argument("--runs", **numbers, help="K of the packs (1,4,8,16,32 if not given)")  # type: ignore[arg-type]
    parser.add_argument("--rounds", type=int, help="times that everything is measured (3 if not given)")
    parser.add_argument("--steps", type=int, help="batches in a pass over the rows (4 if not given)")
    parser.add_argument("--min-seconds", type=float, help="a measurement repeats passes for about this time (1)")
    parser.add_argument("--method", default="symlora", choices=("symlora", "lora"), help="of our side")
    parser.add_argument("--model", default="minilm", help="a file in configs/model")
    parser.add_argument("--model-path", help="a folder with another encoder and its tokenizer")
    parser.add_argument("--model-shape", metavar="LAYERSxWIDTH", help="random weights of this size, say 12x768")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of our fast rows")
    parser.add_argument("--cores", type=int, help="cores that each side uses; all if not given")
    parser.add_argument("--no-growth", action="store_true", help="without growth with length and layers")
    parser.add_argument("--checkpoints", action="store_true", help="only what checkpoints cost, for the first task")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder, or file ending in .json")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Measures, prints the tables and writes the record."""
    given = arguments()
    go_offline_if_unreachable()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    from symlora.bench.measure import planned, run
    from symlora.bench.record import derive
    from symlora.bench.settings import Settings
    from symlora.bench.table import text
    from symlora.store.folder import write_json

    chosen = {
        "tasks": given.tasks and tuple(given.tasks.split(",")),
        "runs": given.runs,
        "rounds": given.rounds,
        "steps": given.steps,
        "min_seconds": given.min_seconds,
        "model_shape": given.model_shape and tuple(int(part) for part in given.model_shape.split("x")),
        "growth": ((), ()) if given.no_growth else None,
    }
    quick = {"tasks": ("rte", "cola"), "runs": (1, 8), "rounds": 2, "steps": 2, "min_seconds": 0.3}
    values: dict[str, Any] = {**(quick | {"growth": ((16, 64), (2, 6))} if given.quick else {})}
    values |= {key: value for key, value in chosen.items() if value is not None}
    same = ("method", "model", "model_path", "device", "precision", "cores")
    settings = Settings(**values, **{key: getattr(given, key) for key in same})
    if given.checkpoints:
        from symlora.bench.checkpoints import cost

        for runs in given.runs or (1, 8):
            print(cost(settings, runs, settings.rounds), flush=True)
        return
    progress = Progress(planned(settings))
    record = derive(run(settings, progress.say))
    path = given.out if given.out.suffix == ".json" else given.out / f"{_slug(record['provenance']['device'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    print(f"\n{text(record)}\n\n{path}, {time.perf_counter() - progress.started:.0f} s")


class Progress:
    """Lines with the time left, told by the share of the planned lines that are done."""

    def __init__(self, lines: int) -> None:
        self.lines, self.done, self.started = lines, 0, time.perf_counter()

    def say(self, line: str) -> None:
        """One line, said when its work begins."""
        elapsed = time.perf_counter() - self.started
        left = elapsed / self.done * (self.lines - self.done) if self.done > 2 else None
        about = "" if left is None else f", about {max(0, left):.0f} s left"
        print(f"[{self.done + 1}/{self.lines}, {elapsed:.0f} s{about}] {line}", flush=True)
        self.done += 1


def _slug(device: str) -> str:
    """`Intel(R) Xeon(R) Processor` becomes `intel-xeon-processor`."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", device.lower())).strip("-")


if __name__ == "__main__":
    try:
        main()
    except SymloraError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: nothing was written.")
