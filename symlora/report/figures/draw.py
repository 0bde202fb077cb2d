"""Draw all figures of a results folder, each with its CSV."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from symlora.audit.names import section_folder, section_name, section_order
from symlora.report.build import Report
from symlora.report.captions import FIGURES
from symlora.report.figures.cost import cost_panel, cost_points
from symlora.report.figures.differences import difference_plot, differences
from symlora.report.figures.norms import AS_PAPER, DECAYS, FROBENIUS, LAMBDA, RATIO, companion, figure1
from symlora.report.figures.norms_frame import cells, read_norms
from symlora.report.figures.scores import curve_panel, curves, grid_panel, grid_points
from symlora.report.figures.style import save
from symlora.store.files import atomic_write, writing

_CELL = ("task", "method", "projection", "layer", "configuration", "why", "seeds", "failed")
_NAMES = ("task", "method", "metric", "configuration")
_FIGURE1 = tuple(column.key for column in (*FROBENIUS, *AS_PAPER))
_COMPANION = (LAMBDA.key, *DECAYS, RATIO.key)
# A frame, and what draws it by the stem of each picture's files.
Source = tuple[pd.DataFrame, Mapping[str, Callable[..., Figure]]]


def draw_all(report: Report, out: Path, as_paper: bool = False) -> tuple[list[Path], tuple[str, ...]]:
    """Draw every figure of every model and protocol, in <out>/<protocol>-<model>.

    What has no runs has no figure, and a figure of an earlier call is removed. The same runs give the same bytes. With
    `as_paper`, Figure 1 is also drawn as the paper prints it. Returns the files, and the runs whose norms could not be
    used.
    """
    runs, chosen, criteria = report.collected.runs, report.chosen, report.criteria
    norms, bad = read_norms(runs)
    written: list[Path] = []
    present = set(zip(runs["model"], runs["protocol"], strict=True))
    for model, protocol in (section for section in section_order(present) if section in present):
        found = cells(chosen, norms, model, protocol)
        figure1s = {
            f"figure1-{projection}{'-as-paper' * printed}": partial(figure1, projection=projection, as_paper=printed)
            for projection in dict.fromkeys(found["projection"])
            for printed in (False, True)[: 1 + as_paper]
        }
        compared = differences(report.pairs, chosen, model, protocol, criteria.margin, criteria.alpha)
        sources: dict[str, Source] = {
            "figure1": (_columns(found, _FIGURE1), figure1s),
            "companion": (_columns(found, _COMPANION), {"companion": companion}),
            "differences": (compared, {"differences": difference_plot}),
            "grid": (grid_points(chosen, model, protocol), {"grid": grid_panel}),
            "curves": (curves(chosen, model, protocol), {"curves": curve_panel}),
            "cost": (cost_points(chosen, model, protocol), {"cost": cost_panel}),
        }
        notes = runs.loc[(runs["model"] == model) & (runs["protocol"] == protocol), "note"]
        note = " ".join(dict.fromkeys(text for text in notes if text))
        folder = out / section_folder(model, protocol)
        with writing(folder):
            written += _draw_section(folder, sources, section_name(model, protocol), note)
    return written, bad


def _draw_section(folder: Path, sources: Mapping[str, Source], whose: str, note: str) -> list[Path]:
    files: list[Path] = []
    for stem, (frame, pictures) in sources.items():
        if frame.empty:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{stem}.csv"
        with atomic_write(path) as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
        files.append(path)
        # What is drawn is what the file says; a task may be called NA or 007.
        drawn = pd.read_csv(path, dtype=dict.fromkeys(_NAMES, str), keep_default_na=False, na_values=[""])
        for name, draw in pictures.items():
            files += save(draw(drawn, whose=whose, note=note), folder / name)
    for stem in ("figure1", *FIGURES):
        for kind in ("csv", "png", "pdf", "svg"):
            if (old := folder / f"{stem}.{kind}") not in files:
                old.unlink(missing_ok=True)
    return files


def _columns(found: pd.DataFrame, quantities: Iterable[str]) -> pd.DataFrame:
    return found[[*_CELL, *(name for quantity in quantities for name in (quantity, f"{quantity}_s"))]]
