"""Run `symlora export`: choose the conversion and report its result."""

import math
import re
import shutil
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging

from symlora.errors import SymloraError
from symlora.interchange.loralib import loralib_to_lora
from symlora.interchange.merged import base_source, export_merged, load_base
from symlora.interchange.push import CARD, check_name, push, write_card
from symlora.interchange.to_lora import Reconstruction, base_scales, check_base, symlora_to_lora
from symlora.interchange.to_symlora import Kept, lora_to_symlora
from symlora.interchange.write import new_folder
from symlora.store.adapter_folder import BASE_SCALE, CONFIG, WEIGHTS, StoredAdapter, read_adapter


def command(chosen: Namespace) -> int:
    """Run `symlora export`."""
    is_file, push_to = chosen.source.is_file(), chosen.push
    if not chosen.source.exists():
        raise SymloraError(f"{chosen.source} does not exist.")
    if chosen.to != "symlora" and (chosen.rank is not None or chosen.full):
        raise SymloraError("--rank and --full go with --to symlora.")
    if is_file and chosen.alpha is None:
        raise SymloraError(f"{chosen.source} is a loralib checkpoint, which does not hold its α: give --alpha.")
    if not is_file and chosen.alpha is not None:
        raise SymloraError("--alpha goes with a checkpoint file of loralib; an adapter's folder holds its own.")
    if chosen.confirm and push_to is None:
        raise SymloraError("--confirm goes with --push USER/NAME.")
    if push_to is not None:
        check_name(push_to)
        if is_file and chosen.to == "merged":
            raise SymloraError("--push: export the checkpoint --to lora first, then that folder --to merged.")
    logging.set_verbosity_error()  # the missing-head warning is expected
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers 5.23 about its own names
    for line in _from_checkpoint(chosen) if is_file else _from_adapter(read_adapter(chosen.source), chosen):
        print(line)
    if push_to is not None:
        write_card(chosen.out, read_adapter(chosen.out if is_file else chosen.source), chosen.base)
        for line in push(chosen.out, push_to, chosen.confirm):
            print(line)
    return 0


def _from_checkpoint(chosen: Namespace) -> Iterator[str]:
    """Convert a checkpoint of loralib, yielding lines for the user."""
    if chosen.to == "merged" and chosen.base is None:
        raise SymloraError(f"{chosen.source} does not name its base model. Give its folder or hub name (--base).")
    with tempfile.TemporaryDirectory() as folder:
        lora = chosen.out if chosen.to == "lora" else Path(folder) / "lora"
        modules, left_out = loralib_to_lora(chosen.source, lora, chosen.alpha, chosen.base)
        if left_out:
            yield (
                f"left out: {len(left_out)} other tensors of the encoder, taken to be the base model's "
                "(right if only LoRA and the head were trained)"
            )
        if chosen.to == "lora":
            yield f"{len(modules)} matrices, alpha {chosen.alpha:g}"
            yield f"LoRA adapter: {chosen.out}"
        else:
            yield from _from_adapter(read_adapter(lora), chosen)


def _from_adapter(adapter: StoredAdapter, chosen: Namespace) -> Iterator[str]:
    """Convert an adapter, yielding lines for the user."""
    out = chosen.out
    if chosen.to == "adapter":
        with new_folder(out) as work:
            for name in (CONFIG, BASE_SCALE, *[CARD] * (adapter.run is not None)):  # PEFT's own card is empty
                if (adapter.folder / name).is_file():
                    shutil.copyfile(adapter.folder / name, work / name)
            tensors = {name: tensor.contiguous().clone() for name, tensor in adapter.tensors.items()}  # none shared
            save_file(tensors, work / WEIGHTS, metadata={"format": "pt"})
        yield f"{adapter.method} adapter: {out}"
    elif chosen.to == "merged":
        export_merged(adapter, out, chosen.base)
        yield f"merged model ({adapter.method} in its weights): {out}"
    elif chosen.to == "lora":
        weights, why = (None, "") if adapter.method != "SYMLORA" else _base_weights(adapter, chosen.base)
        report = symlora_to_lora(adapter, out, weights)
        yield from reconstruction_table(report)
        yield from [why] if why else []
        yield f"LoRA adapter: {out}"
        if any(row.base_scale != 1.0 for row in report):
            yield (
                f"λ is not 1: call symlora.interchange.base_scale.apply_base_scale(base, {str(out)!r}) on the base "
                "model before PEFT loads the adapter, or use --to merged."
            )
    else:
        try:
            kept = lora_to_symlora(adapter, out, chosen.rank, full=chosen.full)
        except (ValueError, TypeError, AttributeError, re.error) as error:  # from fields that LoraConfig does not check
            raise SymloraError(f"{adapter.folder} cannot be converted to SymLoRA: {error}") from error
        yield from kept_table(kept)
        yield f"SymLoRA adapter: {out}"


def _base_weights(adapter: StoredAdapter, base: str | None) -> tuple[Mapping[str, Tensor] | None, str]:
    """Return W0 if a λ needs it; else None, and why."""
    found = adapter.factors()
    if all(float(value) == 1.0 for value in base_scales(adapter, found).values()):
        return None, ""
    try:
        weights: Mapping[str, Tensor] = load_base(adapter, base_source(adapter, base)).state_dict()
        check_base(adapter, found, weights)
    except SymloraError as error:
        if base is not None:
            raise
        return None, f"The error without the base scale is unknown because W0 is not available: {error}"
    return weights, ""


def reconstruction_table(report: Sequence[Reconstruction]) -> Iterator[str]:
    """Yield ‖ΔW of the export - ΔW‖ / ‖ΔW‖ by matrix and in total.

    The total is the root of the summed squares. A dash stands where λ is not 1 and W0 is unknown.
    """
    rows: list[Any] = [(r.module, r.rank, f"{r.base_scale:.6g}", r.change, r.error, r.error_unscaled) for r in report]
    total = (math.hypot(*values) for values in list(zip(*rows, strict=True))[3:])
    width = max(len(row.module) for row in report)
    yield f"{'relative error of ΔW':{width}}  rank  λ         with base scale  LoRA alone"
    for module, rank, scale, change, error, alone in [*rows, ("total", "", "", *total)]:
        yield f"{module:{width}}  {rank:4}  {scale:<8}  {_share(error, change):>15}  {_share(alone, change):>10}"


def _share(error: float, change: float) -> str:
    if math.isnan(error) or math.isnan(change):
        return "-"
    return f"{error / change:.1e}" if change else "0"


def kept_table(report: Sequence[Kept]) -> Iterator[str]:
    """Yield shares of ‖ΔW‖² by matrix, and in total."""
    rows = [(row.module, row.rank, row.energy, row.symmetric, row.kept) for row in report]
    total = (sum(values) for values in list(zip(*rows, strict=True))[2:])
    width = max(len(row.module) for row in report)
    yield f"{'share of ‖ΔW‖²':{width}}  rank  symmetric part    kept"
    for module, rank, energy, *parts in [*rows, ("total", "", *total)]:
        symmetric, kept = (f"{100 * part / energy:.1f} %" if energy else "-" for part in parts)
        yield f"{module:{width}}  {rank:4}  {symmetric:>14}  {kept:>6}"
