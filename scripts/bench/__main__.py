"""Compare this trainer with Hugging Face's Trainer and PEFT: speed, memory and share of the machine's peak."""

import argparse
import os
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python scripts/bench` has only this folder itself

from symlora.cli import positive
from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable

QUICK = dict[str, Any](tasks=("rte", "cola"), runs=(1, 8), rounds=2, steps=2, min_seconds=0.3, compiled=False)


def arguments() -> dict[str, Any]:
    """Parse the command line; an option that is not given is not in what it returns."""
    parser = argparse.ArgumentParser("bench", description=__doc__, argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    add("--quick", action="store_true", help="two tasks, few steps: under 2 minutes, rough figures, a file of its own")
    add("--tasks", type=lambda text: tuple(text.split(",")), help="(default: rte,mrpc,stsb,cola)")
    add("--runs", type=_numbers, metavar="N,N", help="K of the packs (default: 1,8,16)")
    add("--rounds", type=positive, help="times that everything is measured (default: 3)")
    add("--steps", type=positive, help="batches in a pass over the rows (default: 4)")
    add("--min-seconds", type=float, help="a measurement repeats passes for about this time (default: 1)")
    add("--method", choices=("symlora", "lora"), help="method of our side (default: symlora)")
    add("--model", help="a file in configs/model (default: minilm)")
    add("--model-path", help="a folder with another encoder and its tokenizer")
    add("--model-shape", type=_numbers, metavar="LAYERSxWIDTH", help="random weights of this size, say 12x768")
    add("--device", help="auto, cpu, cuda or cuda:<number> (default: auto)")
    add("--precision", choices=("auto", "fp32", "bf16"), help="precision of our fast rows (default: auto)")
    add("--cores", type=positive, help="cores that each side uses (default: all)")
    add("--no-compiled", dest="compiled", action="store_false", help="skip the rival that takes minutes to compile")
    add("--checkpoints", action="store_true", help="only what checkpoints cost, for the first task")
    add("--out", type=Path, help="folder, or file ending in .json (default: results/bench)")
    return vars(parser.parse_args())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(positive, re.split("[,x]", text)))


def _name(device: str, settings: Any, *, quick: bool) -> str:
    model = settings.model_path or (settings.model if settings.model != "minilm" else "")
    size = "x".join(map(str, settings.model_shape or ()))
    words = [re.sub(r"\((r|tm)\)", "", device), Path(model).name, size, "quick" if quick else ""]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def main() -> None:
    """Measure, print the tables and write the record."""
    given = arguments()
    go_offline_if_unreachable()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    from tqdm import tqdm

    from bench.cases import Settings
    from bench.measure import checkpoint_cost, planned, run
    from bench.report import text
    from symlora.store.files import writing
    from symlora.store.folder import write_json

    chosen = {field.name: given[field.name] for field in fields(Settings) if field.name in given}
    settings = Settings(**{**(QUICK if "quick" in given else {}), **chosen})
    if settings.model_shape and len(settings.model_shape) != 2:
        raise SymloraError("--model-shape: give layers and width, such as 12x768")
    if "checkpoints" in given:
        for runs in given.get("runs", (1, 8)):
            print(checkpoint_cost(settings, runs), flush=True)
        return
    out = given.get("out", Path("results/bench"))
    with writing(out):
        (out.parent if out.suffix == ".json" else out).mkdir(parents=True, exist_ok=True)
    with tqdm(total=planned(settings), bar_format="[{n}/{total}, {elapsed}, about {remaining} left] {desc}") as bar:

        def say(line: str) -> None:
            bar.set_description_str(line)
            bar.update()

        record = run(settings, say)
    name = _name(record["provenance"]["device"], settings, quick="quick" in given)
    path = out if out.suffix == ".json" else out / f"{name}.json"
    write_json(path, record)
    print(f"\n{text(record)}\n\n{path}")


if __name__ == "__main__":
    try:
        main()
    except SymloraError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: nothing was written.")
