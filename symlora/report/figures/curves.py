"""Draw the score after each epoch."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from symlora.audit.names import METHODS
from symlora.config.schema import HELD_OUT
from symlora.report.choice import Chosen, Key
from symlora.report.figures.style import COLOURS, plot_style, task_row
from symlora.store.folder import read_run


def curves(chosen: Mapping[Key, Chosen], model: str, protocol: str) -> pd.DataFrame:
    """List the scores of SymLoRA and LoRA after each epoch, by seed.

    Columns: on (the split that chooses the epoch), score (in points), train_loss. Runs are the finished ones of each
    method's own configuration, of two epochs or more.
    """
    rows = []
    for key, cell in chosen.items():
        if key[:2] != (model, protocol) or key[3] not in COLOURS:
            continue
        for run in cell.finished.to_dict("records"):
            epochs = (read_run(run["folder"]) or {}).get("epochs") or []
            split = HELD_OUT if epochs and HELD_OUT in epochs[0]["metrics"] else run["split"]
            rows += [
                {
                    **{name: run[name] for name in ("task", "metric", "method", "seed")},
                    "on": "the held-out slice" if split == HELD_OUT else "validation",
                    "epoch": epoch["number"],
                    "score": 100 * epoch["metrics"][split][run["metric"]],
                    "train_loss": epoch["train_loss"],
                }
                for epoch in (epochs if len(epochs) > 1 else ())
            ]
    return pd.DataFrame(rows)


def curve_panel(points: pd.DataFrame, whose: str, note: str = "") -> Figure:
    """Draw each task's curves: thin for seeds, thick for the mean.

    The points are those of `curves`; `whose` is for the title, and `note` must stand beside this model's scores.
    """
    caption = (
        f"Score in points on {' or '.join(sorted(set(points['on'])))} after each epoch, at each method's own "
        f"configuration. Thin: one seed; thick: the mean. {note}"
    )
    with plot_style():
        figure, row = task_row(points, f"Training curves: {whose}", 2.0, caption)
        for mine, axes in row:
            for method, own in mine.groupby("method", sort=False):
                colour = COLOURS[str(method)]
                scores = own.pivot(index="epoch", columns="seed", values="score")
                axes.plot(scores.index, scores, color=colour, lw=0.4, alpha=0.5)
                axes.plot(scores.index, scores.mean(axis=1), color=colour, lw=1.6, label=METHODS[str(method)])
            axes.set_xlabel("epoch", labelpad=2)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0][1].legend(frameon=False)
    return figure
