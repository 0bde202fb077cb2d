"""The command `symlora`, also `python -m symlora`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from symlora.errors import SymloraError

_EXPORT = """\
Writes an adapter in another form. SOURCE is a run folder, an adapter's folder as PEFT saves it, or a checkpoint file of
LoRA's own code (loralib: .safetensors, .bin), which also needs --alpha.

  --to merged    a plain transformers model with the adapter in its weights
  --to lora      a LoRA adapter of PEFT: exact, but a SymLoRA's λ goes into base_scale.safetensors beside it
  --to symlora   a LoRA's best symmetric approximation, with the share of its energy that is kept
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a wrong input is one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(prog="symlora", description="SymLoRA adapters for PEFT.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser(
        "export",
        help="an adapter as a merged model, a LoRA or a SymLoRA",
        description=_EXPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("source", type=Path)
    export.add_argument("out", type=Path, help="a folder that is not there yet")
    export.add_argument("--to", choices=("merged", "lora", "symlora"), required=True)
    export.add_argument("--base", help="folder or hub name of the base model (default: the one the source names)")
    export.add_argument("--rank", type=int, help="--to symlora: rank to keep (default: the LoRA's)")
    export.add_argument("--full", action="store_true", help="--to symlora: keep the whole symmetric part, rank 2r")
    export.add_argument("--alpha", type=float, help="loralib: the α of its training (RoBERTa-base MNLI: 16, see docs)")
    chosen = parser.parse_args(arguments)
    try:
        _export(chosen)
    except SymloraError as error:
        sys.exit(f"error: {error}")


def _export(chosen: argparse.Namespace) -> None:
    if chosen.to != "symlora" and (chosen.rank is not None or chosen.full):
        raise SymloraError("--rank and --full go with --to symlora.")
    if chosen.source.is_file() and chosen.alpha is None:
        raise SymloraError(f"{chosen.source} is a loralib checkpoint, which does not hold its α: give --alpha.")
    if not chosen.source.is_file() and chosen.alpha is not None:
        raise SymloraError("--alpha goes with a checkpoint file of loralib; an adapter's folder holds its own.")
    from symlora.model.hub import go_offline_if_unreachable

    go_offline_if_unreachable()
    from symlora.interchange.export import export  # torch, transformers and peft take seconds

    for line in export(chosen.source, chosen.out, chosen.to, chosen.base, chosen.rank, chosen.full, chosen.alpha):
        print(line)
