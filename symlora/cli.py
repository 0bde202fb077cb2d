"""Run the command `symlora`, also `python -m symlora`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.training.interrupt import Stopped, say_stopped, stop_at_once

RUNS = Path("results/runs")
COMMANDS = {  # where each command is (imported when it is called), and what `symlora --help` says of it
    "demo": ("sweep.demo:command", "train SymLoRA, LoRA and the head on demo tasks, and print the table"),
    "study": ("sweep.study:command_study", "train a grid, choose its best points, then train their seeds; resumable"),
    "paper": ("sweep.paper:command", "reproduce the paper's Table 1: estimate, then studies, zips and report"),
    "select": ("sweep.study:command_select", "choose the best grid point of each method and task, into configs/best"),
    "status": ("sweep.study:command_status", "count a study's runs and estimate the time left"),
    "runs": ("cli:runs", "list run folders: mean and spread of the score over seeds, then unfinished runs"),
    "verify": ("store.verify:command", "hash every file of every run again, and compare with its record"),
    "methods": ("model.catalog:command", "list the methods: equation, trained parameters, merges, packs"),
    "evaluate": ("runner.scoring:command_evaluate", "score runs or adapters, without training"),
    "predict": ("runner.scoring:command_predict", "predict sentences, a table or a split"),
    "report": ("report.write:command", "write tables, figures and the audit from run folders"),
    "submission": ("submission.write:command", "make or check the zip that the GLUE server takes"),
    "export": ("interchange.export:command", "write an adapter as a merged model, a LoRA or a SymLoRA"),
}
DETAILS = {  # what `symlora <command> --help` adds
    "demo": "Sentences come from our own grammar, so these are not GLUE scores. Finished runs are not trained again.",
    "paper": """Every task, SymLoRA and LoRA, grid and seeds under protocol paper; then RTE, MRPC and STS-B from
each method's MNLI run (protocol paper_mnli). Every part can be stopped; run the same command again to continue.""",
    "select": "Prints whether each point lies on the grid's edge. Trains nothing, unless --widen --run.",
    "verify": "Exit status 1 if anything differs from run.json.",
    "evaluate": """SOURCE is a run folder, a results folder (all its finished runs with an adapter), a PEFT adapter
folder (with --task), or a checkpoint of LoRA's own code (with --task, --alpha and --base). Models of one encoder
and method share a pass.""",
    "predict": """SOURCE is as in `symlora evaluate`. Takes sentences, the lines of stdin (-), a table (--file) or
splits (--split), and gives labels with probabilities, or scores.""",
    "report": """table1    Table 1 and its companions 2 to 4: <out>/tables/*.md, .tex, .csv, .html
figure1   Figure 1 and its companions: <out>/figures/*/*.png, .svg, .pdf, .csv
audit     what the paper's printed numbers imply: <out>/audit.md and audit.html (needs no run)
report    all of these, the symmetry of the updates, and the page that holds them: <out>/report.html""",
    "submission": """From the runs of one protocol, model and method, one run per task: the best seed (held-out slice,
else validation) of the configuration that the report shows. Runs need predict_test=true. WNLI gets its majority
class, the MNLI run predicts AX. Exit status: 0 complete; 3 files are missing (-partial.zip); 1 nothing was written.""",
    "export": """SOURCE is a run folder, a PEFT adapter's folder, or a checkpoint of loralib (with --alpha).

  --to adapter   a copy of the adapter as it is, for --push
  --to merged    a plain transformers model with the adapter in its weights
  --to lora      a PEFT LoRA adapter, exact; a SymLoRA's λ goes into base_scale.safetensors next to it
  --to symlora   a LoRA's best symmetric approximation; prints the share of its energy that is kept""",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; wrong input is one line and exit status 1."""
    if arguments is None:  # a program of its own, and not a call from Python
        stop_at_once()  # before the imports, which take a second or more
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["train"]:  # Hydra reads these words
            from symlora.runner.train import command

            command(words[1:])
            return
        chosen = parser().parse_args(words)
        if chosen.command in ("evaluate", "predict", "export"):
            go_offline_if_unreachable()  # before the imports of what asks the hub
        run: Callable[[argparse.Namespace], int] = resolve_name(f"symlora.{COMMANDS[chosen.command][0]}")
        if status := run(chosen):
            sys.exit(status)
        sys.stdout.flush()
    except BrokenPipeError:  # what reads the output, such as `head`, has had enough
        os._exit(1)  # without the flush of an exit, which would fail again
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "symlora":
            raise
        sys.exit(f"error: the package {error.name} is missing. This command needs: pip install 'symlora[glue]'")
    except SymloraError as error:
        sys.exit(f"error: {error}")
    except Stopped:
        say_stopped()
        raise


def parser() -> argparse.ArgumentParser:
    """Build the parser of all subcommands."""
    made = argparse.ArgumentParser(prog="symlora", description="Low-rank adapters on GLUE, and SymLoRA for PEFT.")
    commands = made.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("train", help="train one run, or several with -m: `symlora train --help`", add_help=False)

    demo = _add(commands, "demo")
    demo.add_argument("--results-dir", type=Path, default=Path("results/demo"), help="default: %(default)s")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.train_limit=256, which is faster")

    study = _add(commands, "study")
    _study_options(study)
    _seeds_option(study)

    paper = _add(commands, "paper")
    paper.add_argument("--tasks", default="", help="with commas or spaces (default: all eight)")
    paper.add_argument("--model", default="roberta-base", help="default: %(default)s")
    paper.add_argument("--estimate", action="store_true", help="only estimate time and disk space on this machine")
    _seeds_option(paper)
    paper.add_argument("overrides", nargs="*", metavar="key=value", help="as given to `symlora train`, for every run")

    select = _add(commands, "select")
    _study_options(select)
    select.add_argument("--widen", action="store_true", help="print commands that go beyond the grid's edges")
    select.add_argument("--axis", choices=("lr", "batch_size", "both"), default="lr", help="default: %(default)s")
    select.add_argument("--run", action="store_true", dest="run_widened", help="with --widen: run these commands")
    status = _add(commands, "status")
    _study_options(status)
    _seeds_option(status)
    status.add_argument("--workers", type=positive, help="packs at a time (default: one a GPU, else one a core)")
    status.add_argument("--watch", action="store_true", help="refresh the table until all runs are done, or Ctrl-C")

    runs = _add(commands, "runs")
    verify = _add(commands, "verify")
    for command in (runs, verify):
        command.add_argument("results_dir", nargs="?", type=Path, default=RUNS, help="default: %(default)s")

    methods = _add(commands, "methods")
    methods.add_argument("--markdown", action="store_true", help="as a Markdown table")
    methods.add_argument("--method", metavar="NAME", help="one method in detail, with its settings")

    _model_options(evaluate := _add(commands, "evaluate"))
    evaluate.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="run folder, adapter folder or file")
    evaluate.add_argument("--out", type=Path, metavar="FILE.json", help="also write the scores, with all digits")

    _model_options(predict := _add(commands, "predict"))
    predict.add_argument("source", type=Path, metavar="SOURCE", help="run folder, adapter folder or file")
    predict.add_argument("texts", nargs="*", metavar="TEXT", help="sentences (a pair: tab-separated), - for stdin")
    predict.add_argument("--out", type=Path, metavar="FILE", help=".parquet, .csv or .jsonl (default: print)")

    report = _add(commands, "report")
    report.add_argument("what", nargs="?", choices=("table1", "figure1", "audit", "report"), default="report")
    submission = _add(commands, "submission")
    for name, default in (("protocol", "paper"), ("model", "roberta-base"), ("method", "symlora")):
        submission.add_argument(f"--{name}", default=default, help=f"{name} of the runs (default: %(default)s)")
    for command, out, use in ((report, "results", "output folder"), (submission, "results/submission", "zip folder")):
        command.add_argument(
            "--results-dir", type=Path, default=RUNS, help="folder that contains the run folders (default: %(default)s)"
        )
        command.add_argument("--out", type=Path, default=Path(out), help=f"{use} (default: %(default)s)")
    report.add_argument(
        "--tasks", help="those of Table 1's eight that are expected, for example cola,rte (default: all)"
    )
    report.add_argument("--strict", action="store_true", help="exit with 1 when a run is missing, failed or left out")
    report.add_argument("--as-paper", action="store_true", help="Figure 1 with the paper's norm and one common scale")
    report.add_argument("--checkpoint", type=Path, help="a released LoRA (folder or file) for the symmetry table")
    submission.add_argument("--check", type=Path, metavar="FILE.zip", help="check this zip, and make none")

    export = _add(commands, "export")
    export.add_argument("source", type=Path)
    export.add_argument("out", type=Path, help="folder to write: new or empty")
    export.add_argument("--to", choices=("adapter", "merged", "lora", "symlora"), required=True)
    export.add_argument("--base", help="folder or hub name of the base model (default: the one the source names)")
    export.add_argument("--rank", type=int, help="--to symlora: rank to keep (default: the LoRA's)")
    export.add_argument("--full", action="store_true", help="--to symlora: keep the whole symmetric part, rank 2r")
    export.add_argument("--push", metavar="USER/NAME", help="list what would go to this repository of the hub")
    export.add_argument("--confirm", action="store_true", help="--push: upload it (log in first: hf auth login)")
    export.add_argument("--alpha", type=float, help="loralib: the α of its training (RoBERTa-base MNLI: 16, see docs)")
    return made


def _add(commands: Any, name: str) -> argparse.ArgumentParser:
    says = COMMANDS[name][1]
    about = f"{says[0].upper()}{says[1:]}.\n\n{DETAILS.get(name, '')}"
    shown = {"description": about, "formatter_class": argparse.RawDescriptionHelpFormatter}
    made: argparse.ArgumentParser = commands.add_parser(name, help=says, **shown)
    return made


def _study_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--tasks", default="", help="names, with commas or spaces; all of the protocol's if not given")
    made.add_argument("--methods", default="symlora,lora", help="default: %(default)s")
    made.add_argument("--model", default="roberta-base", help="default: %(default)s")
    made.add_argument("--protocol", default="paper", help="default: %(default)s")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="as given to `symlora train` in the sweep")


def _seeds_option(made: argparse.ArgumentParser) -> None:
    made.add_argument("--seeds", type=positive, default=5, help="seeds of each selected point (default: %(default)s)")


def positive(text: str) -> int:
    """Read a whole number of at least 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of at least 1")
    return int(text)


def _model_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--split", default="", help="names, separated by commas (evaluate: validation by default)")
    made.add_argument("--file", type=Path, help="a table with the task's columns (.csv, .tsv, .jsonl, .parquet)")
    made.add_argument("--data", help="folder or file of the task's data, as data.dir (default: GLUE_DIR, else the hub)")
    made.add_argument("--base", help="folder or hub name of the encoder (default: the one the source names)")
    made.add_argument("--task", help="task of an adapter that is not a run: a name in configs/task")
    made.add_argument("--alpha", type=float, help="α that a loralib checkpoint was trained with")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")


def runs(chosen: argparse.Namespace) -> int:
    """Run `symlora runs`."""
    from symlora.store.listing import command
    from symlora.training.checkpoint_files import unfinished

    return command(chosen.results_dir, unfinished(chosen.results_dir))
