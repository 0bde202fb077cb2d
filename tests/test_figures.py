"""Check the figures: frames, scales, labels, gaps and bytes."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from report_runs import RUNS, committed, edit_run, read_record
from torch import nn

from symlora import stats
from symlora.config.compose import CONFIG_DIR
from symlora.config.schema import MethodConfig, TrainConfig
from symlora.config.typed import read_yaml
from symlora.errors import SymloraError
from symlora.report.build import build
from symlora.report.choice import choose
from symlora.report.collect import collect, frame_of
from symlora.report.comparison import Criteria, Paired, compare_all
from symlora.report.figures.differences import difference_plot, differences, limit
from symlora.report.figures.draw import _draw_section, draw_all
from symlora.report.figures.norms import companion, figure1, matrix
from symlora.report.figures.norms_frame import QUANTITIES, cells, decay_to_zero, read_norms
from symlora.report.figures.scores import curve_panel, curves, grid_panel, grid_points
from symlora.report.figures.style import COLOURS, compact, minus, save, scale_of, text_colour
from symlora.training.optimizer import AdamW, linear_schedule

SECTION = ("minilm", "short")


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    runs = committed().runs
    return cells_of(runs[runs["protocol"] == "short"])


@pytest.fixture
def gappy(found: pd.DataFrame) -> pd.DataFrame:
    """Take LoRA's RTE away from them."""
    frame = found.copy()
    gone = (frame["method"] == "lora") & (frame["task"] == "rte")
    frame.loc[gone, [*QUANTITIES, *(f"{name}_s" for name in QUANTITIES)]] = math.nan
    frame.loc[gone, "seeds"] = 0
    return frame


def copy_runs(target: Path, *tasks: str) -> Path:
    """Copy the committed runs of these tasks, without weights."""
    for task in tasks:
        for method in ("symlora", "lora"):
            place = Path("short", "minilm", method, task)
            shutil.copytree(RUNS / "archive" / place, target / place, ignore=shutil.ignore_patterns("adapter"))
    for path in target.rglob("run.json"):
        edit_run(path.parent)
    return target


def one_run(root: Path, method: str, task: str) -> Path:
    return next(root.glob(f"short/minilm/{method}/{task}/*/seed-0"))


def cells_of(runs: pd.DataFrame) -> pd.DataFrame:
    return cells(choose(runs, {}), read_norms(runs)[0], *SECTION)


def run_row(method: str, lr: float, batch: int, score: float, *, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "protocol": "p", "model": "m", "method": method, "task": "rte", "configuration": f"{lr}-{batch}", "grid": "g",
        "seed": seed, "status": "finished", "lr": lr, "batch_size": batch, "epochs": 1, "metric": "accuracy",
        "split": "validation", "selection": "held_out", "score": score, "criterion": score, "at_chance": False,
        "note": "", "folder": Path(f"{method}/{lr}/{batch}/{seed}"), **more,
    }  # fmt: skip


def texts(figure: Figure) -> list[str]:
    """List the texts of a figure, title and caption first."""
    inside = [text.get_text() for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels())]
    return [figure.get_suptitle(), figure.get_supxlabel().replace("\n", " "), *inside]


def maps(figure: Figure) -> list[tuple[Any, Any]]:
    """List the heat maps: axes and cells."""
    return [(axes, axes.collections[0]) for axes in figure.axes if axes.patch.get_hatch()]


def missing(figure: Figure) -> int:
    """Count the cells through which the hatching is seen."""
    return sum(int(np.ma.getmaskarray(mesh.get_array()).sum()) for _, mesh in maps(figure))


def test_norms_are_those_of_the_run_folders() -> None:
    runs = committed().runs
    mine, bad = read_norms(runs)
    adapted = runs[~runs["chose"] & (runs["method"] != "head")]  # the head alone adapts no matrix
    matrices = adapted["model"].map({"minilm": 12, "mpnet": 24})  # query and value of each layer
    assert bad == () and len(mine) == matrices.sum() and set(mine["projection"]) == {"query", "value"}
    assert not mine["seed"].isin([100, 101]).any()
    (path,) = (RUNS / "archive/short/minilm/symlora/cola").glob("*/seed-1/norms.parquet")
    stored = pd.read_parquet(path)
    for key, value in {"protocol": "short", "task": "cola", "method": "symlora", "seed": 1}.items():
        mine = mine[mine[key] == value]
    assert list(mine["layer"]) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert list(mine["projection"]) == ["query", "value"] * 6
    wanted: dict[str, Any] = {
        "lambda": stored["lambda"],
        "difference_frobenius": abs(stored["lambda"]) * stored["w0_frobenius"] - stored["delta_frobenius"],
        "log10_ratio": np.log10(stored["delta_frobenius"] / stored["w0_frobenius"]),
        "difference_l1": stored["lambda"] * stored["w0_l1"] - stored["delta_l1"],
    }
    for key, values in wanted.items():
        assert mine[key].to_numpy() == pytest.approx(values.to_numpy()), key


def test_lambda_keeps_its_sign_in_the_printed_form_alone_and_no_update_has_no_logarithm(tmp_path: Path) -> None:
    root = copy_runs(tmp_path, "mrpc")
    path = one_run(root, "symlora", "mrpc") / "norms.parquet"
    stored = pd.read_parquet(path)
    w0, w0_l1 = (float(stored[key].iloc[0]) for key in ("w0_frobenius", "w0_l1"))
    changes = {"lambda": -0.5, "lambda_w0_frobenius": 0.5 * w0, "delta_frobenius": 0.0, "delta_l1": 0.0}
    stored.loc[0, list(changes)] = list(changes.values())
    stored.to_parquet(path)
    edit_run(path.parent)
    frame = read_norms(collect(root).runs)[0]
    row = frame[frame["method"] == "symlora"].iloc[0]
    assert row["difference_frobenius"] == pytest.approx(0.5 * w0)
    assert row["difference_l1"] == pytest.approx(-0.5 * w0_l1)
    assert math.isnan(row["log10_ratio"])


def test_decay_alone_is_what_the_optimizer_does_to_a_lambda_without_gradient() -> None:
    values = {"lr": 0.02, "batch_size": 4, "epochs": 3, "warmup_ratio": 0.2, "weight_decay": 0.3, "max_grad_norm": 1.0}
    train = TrainConfig(**values)  # type: ignore[arg-type]
    parameter = nn.Parameter(torch.ones(1))
    optimizer = AdamW([("layer.symlora_lambda.default", parameter)], train, MethodConfig(lambda_decay="zero"))
    schedule = linear_schedule(optimizer, train, 30)
    for epoch in (1, 2, 3):
        for _ in range(10):
            parameter.grad = torch.zeros(1)
            optimizer.step()
            schedule.step()
        alone = decay_to_zero(values, 38, epoch)  # 10 steps an epoch, the last batch short
        assert alone == pytest.approx(float(parameter.detach()), rel=1e-3) and alone < 0.98


@pytest.mark.parametrize(("decay", "wanted"), [("none", 1.0), ("one", 1.0), ("zero", None)])
def test_decay_as_run(decay: str, wanted: float | None, tmp_path: Path) -> None:
    root = copy_runs(tmp_path, "mrpc")
    folder = one_run(root, "symlora", "mrpc")
    edit_run(folder, lambda record: record["config"]["method"].update(lambda_decay=decay))
    alone = decay_to_zero(read_record(folder)["config"]["train"], 3668, 1)
    frame = read_norms(collect(root).runs)[0]
    mine = frame[frame["method"] == "symlora"]
    assert set(mine["decay_to_zero"]) == {alone} and set(mine["decay_only"]) == {wanted or alone}
    assert frame.loc[frame["method"] == "lora", ["decay_only", "decay_to_zero"]].isna().all(axis=None)  # it has no λ


def test_a_run_with_broken_norms_is_named_and_its_cells_are_gaps(tmp_path: Path) -> None:
    root = copy_runs(tmp_path, "mrpc", "stsb")
    mrpc, stsb = (one_run(root, "lora", task) for task in ("mrpc", "stsb"))
    (mrpc / "norms.parquet").write_bytes(b"PAR1 no more")
    (stsb / "norms.parquet").unlink()
    for folder in (mrpc, stsb):
        edit_run(folder)  # else the whole run is left out
    runs = collect(root).runs
    norms, bad = read_norms(runs)
    # A record that names no norms is that of a method without a matrix.
    assert [problem.split("/")[2:4] for problem in bad] == [["lora", "mrpc"]]
    assert all("norms.parquet cannot be used" in problem for problem in bad)
    frame = cells(choose(runs, {}), norms, *SECTION)
    lora = frame[frame["method"] == "lora"]
    assert set(lora["seeds"]) == {0} and lora[list(QUANTITIES)].isna().all(axis=None)
    assert set(frame.loc[frame["method"] == "symlora", "seeds"]) == {1}


def test_cells_are_means_over_the_seeds_of_the_chosen_configuration(found: pd.DataFrame) -> None:
    assert len(found) == 4 * 2 * 2 * 6
    assert list(dict.fromkeys(found["task"])) == ["mrpc", "cola", "rte", "stsb"]  # Table 1's order
    assert list(dict.fromkeys(found["method"])) == ["symlora", "lora"]
    place = (found["task"] == "cola") & (found["method"] == "symlora") & (found["projection"] == "value")
    cell = found[place & (found["layer"] == 6)].iloc[0]
    values = [
        pd.read_parquet(path)["delta_frobenius"].iloc[-1]
        for path in (RUNS / "archive/short/minilm/symlora/cola").glob("*/seed-*/norms.parquet")
    ]
    assert (cell["seeds"], cell["failed"], cell["why"]) == (3, 0, "the only configuration")
    assert cell["delta_frobenius"] == pytest.approx(np.mean(values))
    assert cell["delta_frobenius_s"] == pytest.approx(np.std(values, ddof=1))
    assert found.loc[found["task"] == "mrpc", "delta_frobenius_s"].isna().all()  # one seed


def test_a_grid_at_one_seed_takes_no_part_in_the_means(tmp_path: Path) -> None:
    root = copy_runs(tmp_path, "cola")
    own = next(root.glob("short/minilm/symlora/cola/*"))
    other = own.with_name("lr-9e-3_bs-16_ep-4_00000000") / "seed-0"
    shutil.copytree(own / "seed-0", other)
    edit_run(other, lambda record: record["config"]["train"].update(lr=9e-3) or record.update(config_hash="00000000"))
    mine = cells_of(collect(root).runs).query("method == 'symlora'")
    assert set(mine["configuration"]) == {own.name.rsplit("_", 1)[1]} and set(mine["seeds"]) == {3}
    assert set(mine["why"]) == {"most seeds of 2 configurations"}


def test_scales_are_a_columns_own_and_shared_by_the_methods_or_one_as_printed(found: pd.DataFrame) -> None:
    mine = found[found["projection"] == "query"]
    drawn = [mesh.norm for _, mesh in maps(figure1(found, "query", ""))]
    for column, key in enumerate(("lambda_w0_frobenius", "delta_frobenius")):
        for scale in drawn[column::3]:
            assert (scale.vmin, scale.vmax) == (mine[key].min(), mine[key].max())
    for scale in drawn[2::3]:
        assert isinstance(scale, CenteredNorm)
        assert (scale.vcenter, scale.halfrange) == (0.0, mine["difference_frobenius"].abs().max())
    printed = mine[["lambda_w0_l1", "delta_l1", "difference_l1"]]
    for _, mesh in maps(figure1(found, "query", "", as_paper=True)):
        assert mesh.get_clim() == (printed.min(axis=None), printed.max(axis=None))


@pytest.mark.parametrize("as_paper", [False, True])
def test_figure1_writes_every_number_and_hatches_every_gap(gappy: pd.DataFrame, as_paper: bool) -> None:
    figure = figure1(gappy, "query", "MiniLM, protocol short", "A note.", as_paper)
    drawn = maps(figure)
    assert len(drawn) == 6 and len(figure.axes) == 6 + 3  # colour bars
    assert missing(figure) == 3 * 6
    key = "delta_l1" if as_paper else "delta_frobenius"
    axes, mesh = drawn[1]
    values = matrix(gappy, "symlora", "query", key)
    mrpc = gappy.query("method == 'symlora' and projection == 'query' and task == 'mrpc'").set_index("layer")[key]
    assert values.shape == (6, 4) and list(values[:, 0]) == [mrpc[layer] for layer in (6, 5, 4, 3, 2, 1)]
    assert np.array_equal(mesh.get_array(), values)
    assert [text.get_text() for text in axes.texts] == [compact(value) for value in values.ravel()]
    assert not any("nan" in text for text in texts(figure)) and axes.get_aspect() == 1  # square cells
    left = [label.get_text() for label in drawn[0][0].get_yticklabels()]
    assert left == ["head  6", "5", "4", "3", "2", "embeddings  1"] and drawn[0][0].get_ylim() == (6, 0)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["MRPC", "CoLA", "RTE", "STS-B"]
    assert [axes.get_ylabel() for axes, _ in drawn[::3]] == ["SymLoRA, layer", "LoRA, layer"]
    said = " ".join(texts(figure))
    assert "MiniLM, protocol short" in said and "A note." in said and "Hatched: no finished run (LoRA on RTE)" in said
    assert ("as printed" in said) == as_paper
    assert "Mean over 1 to 3 seeds" in said and "Tasks not shown: MNLI, SST-2, QNLI, QQP." in said


def test_a_dot_marks_cells_that_differ_much_between_seeds(found: pd.DataFrame) -> None:
    frame = found.copy()
    frame["delta_frobenius_s"] = 0.3 * frame["delta_frobenius"]
    frame[["lambda_w0_frobenius_s", "difference_frobenius_s"]] = 0.0
    dots = [sum(len(axes.lines) for axes in figure1(frame, "query", "").axes)]
    frame.loc[frame["layer"] == 2, "delta_frobenius_s"] *= 1.2
    dots.append(sum(len(axes.lines) for axes in figure1(frame, "query", "").axes))
    assert dots == [0, 4 * 2]


def test_the_companion_centres_lambda_at_1_over_what_decay_alone_makes_of_it(gappy: pd.DataFrame) -> None:
    figure = companion(gappy, "MiniLM, protocol short", "A note.")
    drawn = maps(figure)
    assert len(drawn) == 2 + 4 and missing(figure) == 2 * 6  # λ; the ratio of both methods, without LoRA's RTE
    axes, mesh = drawn[0]
    assert [label.get_text() for label in axes.get_yticklabels()][-2:] == ["decay, as run", "decay to 0"]
    zero = matrix(gappy, "symlora", "query", "decay_to_zero")[0]
    assert [text.get_text() for text in axes.texts][-8:] == ["1.000"] * 4 + [f"{value:.3f}" for value in zero]
    assert isinstance(mesh.norm, CenteredNorm) and mesh.norm.vcenter == 1.0
    lambdas = gappy.loc[gappy["method"] == "symlora", ["lambda", "decay_only", "decay_to_zero"]]
    assert mesh.norm.halfrange == pytest.approx((lambdas - 1).abs().max(axis=None))
    assert "LoRA has no λ" in texts(figure)


def test_differences_are_paired_by_seed_and_judged_over_the_tasks() -> None:
    criteria = replace(read_yaml(CONFIG_DIR / "report.yaml", Criteria), resamples=100)
    chosen = {key: cell for key, cell in choose(committed().runs, {}).items() if key[:2] == SECTION}
    pairs = compare_all(chosen, criteria)
    frame = differences(pairs, chosen, *SECTION, criteria.margin, criteria.alpha)
    assert list(frame["task"]) == ["mrpc"] + ["cola"] * 3 + ["rte"] * 3 + ["stsb"]
    cola, pair = frame[frame["task"] == "cola"], pairs[*SECTION, "cola", "symlora"]
    assert list(cola["seed"]) == list(pair.seeds) and list(cola["difference"]) == list(np.subtract(*pair.scores))
    assert set(cola["verdict"]) == {"inconclusive"} and set(cola["n"]) == {3} and set(cola["level"]) == {0.95}
    assert (cola["low"].iloc[0], cola["high"].iloc[0]) == (pair.difference.low, pair.difference.high)
    assert set(frame.loc[frame["task"] == "rte", "verdict"]) == {"none"}
    assert set(frame.loc[frame["task"] == "rte", "obstacle"]) == {"5 at chance"}
    single = frame[frame["task"] == "mrpc"].iloc[0]
    assert single["verdict"] == "one seed: no test" and math.isnan(single["low"])


def test_the_plot_of_differences_shows_margin_verdicts_and_cut_intervals() -> None:
    scores = {("symlora", 0): 0.60, ("symlora", 1): 0.70, ("symlora", 2): 0.5, ("lora", 0): 0.62, ("lora", 1): 0.64}
    rows = [run_row(method, 1e-3, 16, score, seed=seed) for (method, seed), score in scores.items()]
    rows.append({**run_row("symlora", 1e-3, 16, 0.9), "task": "cola"})
    chosen = choose(frame_of(rows), {})
    a, b = np.array([60.0, 70.0]), np.array([62.0, 64.0])
    key = ("m", "p", "rte", "symlora")
    (decision,) = stats.decide([2.0], [0.7], [0.6])
    pairs = {key: Paired(key, (0, 1), (a, b), stats.t_interval(a - b), 0.7, 0.6, None, None, None, "", decision)}
    frame = differences(pairs, chosen, "m", "p", 1.0, 0.05)
    assert list(frame["verdict"]) == ["no pair", "inconclusive", "inconclusive"]
    assert list(frame["n"]) == [0, 2, 2]
    figure = difference_plot(frame, "Model, protocol p", "A note.")
    (axes,) = figure.axes
    reach = limit(frame)
    assert reach == pytest.approx(1.15 * 6.0) and axes.get_xlim() == (-reach, reach)
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-1.0, 1.0))
    wanted = ["CoLA, accuracy\nno pair", "RTE, accuracy\ninconclusive (n = 2)"]
    assert [label.get_text() for label in axes.get_yticklabels()] == wanted
    assert [str(line.get_marker()) for line in axes.lines if line.get_marker() in ("<", ">")] == ["<", ">"]
    assert "A note." in texts(figure)[1] and "±1 points" in texts(figure)[1]


def test_the_grid_has_its_optimum_its_edges_and_its_gaps() -> None:
    rows = [run_row("symlora", lr, 16, score) for lr, score in ((1e-3, 0.5), (2e-3, 0.6), (4e-3, 0.7))]
    rows += [run_row("symlora", 1e-3, 32, 0.55)]
    rows += [run_row("lora", lr, 16, score) for lr, score in ((1e-3, 0.5), (2e-3, 0.8), (4e-3, 0.6))]
    rows += [run_row("lora", 4e-3, 32, math.nan, status="failed"), run_row("lora", 4e-3, 16, 0.9, seed=1)]
    points = grid_points(choose(frame_of(rows), {}), "m", "p")
    best = points[points["optimum"]]
    assert list(best["method"]) == ["symlora", "lora"]
    assert list(best["lr"]) == [4e-3, 2e-3] and list(best["value"]) == pytest.approx([70.0, 80.0])
    assert list(best["edge"]) == ["edge: lr highest of 3", "lr inside 3"]
    assert list(points.loc[points["chosen"], "lr"]) == [4e-3, 4e-3]  # LoRA's, by its two seeds, is not its optimum
    assert set(points["seeds"]) == {"0"} and set(points["on"]) == {"the held-out slice"}
    (axes,) = grid_panel(points, "Model, protocol p", "A note.").axes
    lines: dict[Any, list[Any]] = {}
    for line in axes.lines:
        lines.setdefault(line.get_marker(), []).append(line)
    scores = {(line.get_color(), line.get_linestyle()): line.get_ydata() for line in lines["."]}
    np.testing.assert_allclose(scores[COLOURS["lora"], "-"], [50.0, 80.0, 60.0])
    np.testing.assert_allclose(scores[COLOURS["symlora"], "--"], [55.0])
    assert [rate for line in lines["x"] for rate in line.get_xdata()] == [4e-3]  # LoRA's failed point
    rings = [(rate, line.get_markeredgecolor()) for line in lines["o"] for rate in line.get_xdata()]
    assert rings == [(4e-3, "#d6002a"), (2e-3, "black")]
    assert [rate for line in lines["D"] for rate in line.get_xdata()] == [4e-3]
    legend = axes.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["SymLoRA: edge: lr highest of 3", "LoRA: lr inside 3"]


def test_every_batch_size_of_the_grid_has_a_line() -> None:
    rows = [run_row("lora", lr, 2**size, 0.5) for size in range(8) for lr in (1e-3, 2e-3)]
    (axes,) = grid_panel(grid_points(choose(frame_of(rows), {}), "m", "p"), "").axes
    assert sum(line.get_marker() == "." and np.size(line.get_xdata()) == 2 for line in axes.lines) == 8


def test_of_equal_points_the_chosen_one_is_the_optimum_and_one_point_is_no_grid() -> None:
    rows = [run_row("symlora", lr, 16, 0.6) for lr in (1e-3, 2e-3, 4e-3)] + [run_row("symlora", 2e-3, 16, 0.6, seed=1)]
    points = grid_points(choose(frame_of(rows), {}), "m", "p")
    assert list(points.loc[points["optimum"], "lr"]) == [2e-3]
    assert grid_points(choose(frame_of([run_row("symlora", 1e-3, 16, 0.6)]), {}), "m", "p").empty
    rows = [run_row("lora", lr, 16, lr * 100, criterion=math.nan) for lr in (1e-3, 2e-3)]  # no held-out slice
    points = grid_points(choose(frame_of(rows), {}), "m", "p")
    assert set(points["on"]) == {"validation"} and list(points["value"]) == pytest.approx([10.0, 20.0])
    assert "Score in points on validation, seed 0 (several: their mean)." in texts(grid_panel(points, ""))[1]


def drawn(root: Path, out: Path, **more: Any) -> tuple[list[Path], tuple[Any, ...]]:
    return draw_all(build(root, best=root / "nowhere"), out, **more)


def test_the_same_runs_give_the_same_bytes_and_what_the_csv_says(tmp_path: Path) -> None:
    root, out = copy_runs(tmp_path / "runs", "rte"), tmp_path / "figures"
    folder = out / "short-minilm"
    folder.mkdir(parents=True)
    (folder / "grid.png").write_bytes(b"of an earlier call")
    written, bad = drawn(root, out)
    stems = ("figure1-query", "figure1-value", "companion", "differences", "curves", "cost")
    wanted = {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf", "svg")}
    wanted |= {"figure1.csv", "companion.csv", "differences.csv", "curves.csv", "cost.csv"}
    assert {path.name for path in folder.iterdir()} == {path.name for path in written} == wanted
    assert {path.parent for path in written} == {folder} and bad == ()
    frame = pd.read_csv(folder / "figure1.csv")
    runs = collect(root).runs
    assert frame["delta_frobenius"].to_list() == cells_of(runs)["delta_frobenius"].to_list()  # to the last bit
    note = runs["note"].iloc[0]
    pictures = {
        "differences": difference_plot(pd.read_csv(folder / "differences.csv"), "MiniLM, protocol short", note),
        "companion": companion(pd.read_csv(folder / "companion.csv"), "MiniLM, protocol short", note),
    }
    for stem, picture in pictures.items():
        for path in save(picture, tmp_path / stem):
            assert path.read_bytes() == (folder / path.name).read_bytes()
    svg = (folder / "differences.svg").read_text()
    assert ">RTE, accuracy</text>" in svg and f"{note}</dc:description>" in svg
    pdf = (folder / "figure1-query.pdf").read_bytes()
    assert b"CreationDate" not in pdf and b"/Type3" not in pdf and b"CIDFontType2" in pdf
    assert str(Path.home()).encode() not in pdf


def test_as_paper_is_written_beside_and_every_section_has_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symlora.report.figures.draw.save", lambda figure, stem: [stem.with_suffix(".png")])
    root = copy_runs(tmp_path / "runs", "mrpc")
    shutil.copytree(root / "short", root / "other")
    for path in (root / "other").rglob("run.json"):
        edit_run(path.parent, lambda record: record["config"]["protocol"].update(name="other"))
    written, _ = drawn(root, tmp_path / "out", as_paper=True)
    assert {path.parent.name for path in written} == {"short-minilm", "other-minilm"}
    names = {path.name for path in written if path.parent.name == "short-minilm"}
    assert {"figure1-query.png", "figure1-query-as-paper.png", "figure1-value-as-paper.png"} <= names


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SymloraError, match="out/short-minilm cannot be written"):
        drawn(copy_runs(tmp_path / "runs", "mrpc"), tmp_path / "out")


def test_short_numbers() -> None:
    texts = {0: "0", 0.0312: "0.031", 4.721: "4.72", 38.14: "38.1", 412.4: "412", 11_341: "11.3k", 123_456: "123k"}
    texts |= {999_600: "1.0M", -0.6: "−0.60"}
    assert {value: compact(value) for value in texts} == texts


def test_scales_of_empty_constant_and_one_sided_values() -> None:
    for nothing in (np.full((2, 2), np.nan), np.empty(0)):
        assert (scale_of(nothing).vmin, scale_of(nothing).vmax) == (0.0, 1.0)
    assert scale_of(np.array([[3.0]]))(3.0) == 0.5
    scale = scale_of(np.array([[1.2, np.nan, 1.1]]), 1.0)
    assert (scale.vmin, scale(1.0), scale.vmax) == pytest.approx((0.8, 0.5, 1.2))


def test_text_stands_out() -> None:
    assert text_colour((1.0, 1.0, 1.0)) == text_colour((1.0, 1.0, 0.0)) == "black"
    assert text_colour((0.0, 0.0, 0.0)) == text_colour((0.0, 0.0, 0.6)) == "white"
    assert minus("-1e-3") == "−1e−3"


def test_curves_are_the_epochs_of_the_chosen_runs(tmp_path: Path) -> None:
    root = copy_runs(tmp_path, "rte")
    points = curves(choose(collect(root).runs, {}), *SECTION)
    assert set(points["method"]) == {"lora", "symlora"} and set(points["on"]) == {"validation"}
    for (method, seed), own in points.groupby(["method", "seed"]):
        (folder,) = root.glob(f"*/*/{method}/rte/*/seed-{seed}")
        epochs = read_record(folder)["epochs"]
        assert own["epoch"].to_list() == [epoch["number"] for epoch in epochs]
        assert own["score"].to_list() == [100 * epoch["metrics"]["validation"]["accuracy"] for epoch in epochs]
    (axes,) = curve_panel(points, "MiniLM").axes
    drawn = {line.get_label(): np.asarray(line.get_ydata(), np.float64) for line in axes.lines}
    lora = points[points["method"] == "lora"].groupby("epoch")["score"].mean()
    np.testing.assert_allclose(drawn["LoRA"], lora)
    # As a correlation of equal predictions.
    edit_run(one_run(root, "lora", "rte"), lambda run: run["epochs"][0]["metrics"]["validation"].update(accuracy=None))
    again = curves(choose(collect(root).runs, {}), *SECTION)
    assert again["score"].isna().sum() == 1 and len(again) == len(points)


@pytest.mark.parametrize("name", ["NA", "007", "None"])
def test_a_task_may_be_called_what_pandas_reads_as_a_value(name: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"task": [name], "metric": ["accuracy"], "epoch": [1], "score": [math.nan]})
    draw = Mock(return_value=Figure())
    _draw_section(tmp_path, {"curves": (frame, {"curves": draw})}, "whose", "")
    pd.testing.assert_frame_equal(draw.call_args.args[0], frame)


def test_a_method_on_one_projection_has_finished_runs(gappy: pd.DataFrame) -> None:
    cells_of = gappy.copy()
    cells_of.loc[(cells_of["method"] == "symlora") & (cells_of["projection"] == "value"), "seeds"] = 0
    assert "Hatched: no finished run (LoRA on RTE)." in " ".join(texts(figure1(cells_of, "query", "", "")))
