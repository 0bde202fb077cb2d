"""All figures of a results folder, as PNG and PDF, each beside the CSV that it is drawn from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from symlora.config.compose import CONFIG_DIR
from symlora.errors import SymloraError
from symlora.report.choice import Best, choose, read_best
from symlora.report.collect import Collected, Problem, collect
from symlora.report.comparison import compare_all
from symlora.report.differences import difference_plot, differences
from symlora.report.drawing import save
from symlora.report.figure1 import AS_PAPER, FROBENIUS, LAMBDAS, RATIO, companion, figure1
from symlora.report.grid_panel import grid_panel, grid_points
from symlora.report.names import section_name, section_order
from symlora.report.norms_frame import cells, read_norms
from symlora.report.settings import Settings, load_settings
from symlora.store.files import atomic_write

_CELL = ("task", "method", "projection", "layer", "configuration", "why", "seeds", "failed")
_FIGURE1 = tuple(column.key for column in (*FROBENIUS, *AS_PAPER))
STEMS = (
    "figure1-query", "figure1-value", "figure1-query-as-paper", "figure1-value-as-paper", "companion", "differences",
    "grid",
)  # fmt: skip


def write_all(results_dir: Path, out: Path, as_paper: bool = False) -> list[Path]:
    """Draws every figure of every model and protocol under `results_dir`.

    Figure 1 and its companion from norms.parquet, the paired differences and the grids from scores; what has no runs
    has no figure. Nothing trains; the same runs give the same bytes.

    Args:
        results_dir: Run folders.
        out: Gets a folder <protocol>-<model> each; a figure of an earlier call that has no runs now is removed.
        as_paper: Also Figure 1 as the paper prints it: sums of absolute values on one common scale.

    Returns:
        The files, in the order written.

    Raises:
        SymloraError: There is no run folder, or `out` cannot be written to.
    """
    written, _ = draw_all(
        collect(results_dir), out, best=read_best(CONFIG_DIR / "best"), settings=load_settings(), as_paper=as_paper
    )
    return written


def draw_all(
    collected: Collected, out: Path, *, best: Best, settings: Settings, as_paper: bool = False
) -> tuple[list[Path], tuple[Problem, ...]]:
    """As `write_all`, from runs that are read already.

    Args:
        collected: The runs.
        out: As in `write_all`.
        best: The selection's choices (symlora.report.choice.read_best).
        settings: Margin and alpha.
        as_paper: As in `write_all`.

    Returns:
        The files, and the runs whose norms could not be used.

    Raises:
        SymloraError: `out` cannot be written to.
    """
    runs = collected.runs
    chosen = choose(runs, best)
    norms = read_norms(runs)
    pairs = compare_all(chosen, settings)
    written: list[Path] = []
    present = set(zip(runs["model"], runs["protocol"], strict=True))
    for model, protocol in (section for section in section_order(present) if section in present):
        found = cells(chosen, norms.frame, model, protocol)
        compared = differences(pairs, chosen, model, protocol, settings.margin, settings.alpha)
        notes = runs.loc[(runs["model"] == model) & (runs["protocol"] == protocol), "note"]
        note = " ".join(dict.fromkeys(text for text in notes if text))
        section = _Section(out / f"{protocol}-{model}", section_name(model, protocol), note, [])
        try:
            section.figure1(found, as_paper)
            section.draw("companion", _columns(found, (*LAMBDAS, RATIO.key)), companion)
            section.draw("differences", compared, difference_plot)
            section.draw("grid", grid_points(chosen, model, protocol), grid_panel)
            section.remove_old()
        except OSError as error:
            raise SymloraError(
                f"{section.folder} cannot be written: {error.strerror}. Set --out to a writable folder."
            ) from error
        written += section.files
    return written, norms.bad


@dataclass
class _Section:
    folder: Path
    whose: str
    note: str
    files: list[Path]

    def figure1(self, found: pd.DataFrame, as_paper: bool) -> None:
        if found.empty:
            return
        frame = self.csv("figure1", _columns(found, _FIGURE1))
        for projection in dict.fromkeys(frame["projection"]):
            for printed in (False, True) if as_paper else (False,):
                figure = figure1(frame, projection, self.whose, self.note, printed)
                self.files += save(figure, self.folder / f"figure1-{projection}{'-as-paper' if printed else ''}")

    def draw(self, stem: str, frame: pd.DataFrame, figure: Callable[[pd.DataFrame, str, str], Figure]) -> None:
        if len(frame):
            self.files += save(figure(self.csv(stem, frame), self.whose, self.note), self.folder / stem)

    def csv(self, stem: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Writes the frame and gives what the file says: what is drawn is what is there to read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{stem}.csv"
        with atomic_write(path) as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
        self.files.append(path)
        return read_drawn(path)

    def remove_old(self) -> None:
        for stem in ("figure1", *STEMS):
            for kind in ("csv", "png", "pdf"):
                path = self.folder / f"{stem}.{kind}"
                if path not in self.files:
                    path.unlink(missing_ok=True)


def read_drawn(path: Path) -> pd.DataFrame:
    """A CSV beside a figure, to draw it again: every number to the last bit."""
    return pd.read_csv(path)


def _columns(found: pd.DataFrame, quantities: Iterable[str]) -> pd.DataFrame:
    return found[[*_CELL, *(name for quantity in quantities for name in (quantity, f"{quantity}_s"))]]
