"""The study apart from training: which runs a sweep stands for, what is selected, widened, refused, still to do."""

import copy
import io
import runpy
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import Mock

import pytest
from conftest import ROOT
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from rich.console import Console

from symlora.cli import main
from symlora.config.compose import CONFIG_DIR, compose
from symlora.config.identity import config_hash
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.report.choice import read_best
from symlora.runner import reporter
from symlora.store.folder import SCHEMA_VERSION, recorded_config, run_folder, seal
from symlora.store.locks import locked, read_progress
from symlora.store.selection import criterion, edge, rank
from symlora.sweep import watch
from symlora.sweep.grid import expand, tasks_of
from symlora.sweep.preflight import GridSeeds, HasBest, swept
from symlora.sweep.select import GridSearch, Point, grid_search, table, unequal, write
from symlora.sweep.status import RunStatus, costs, run_status, time_left
from symlora.sweep.status import table as status_table
from symlora.sweep.study import Study, _tried, run_study
from symlora.training.loop import StepProgress

COMMON = ("task=rte", "model=minilm", "protocol=short_holdout")


def record(config: Config, score: float | None, *, status: str = "finished", seconds: float = 10.0) -> dict[str, Any]:
    """A run.json with what selection and status read; validation says the opposite of the held-out slice."""
    metrics = {"held_out": {"accuracy": score}, "validation": {"accuracy": None if score is None else 1 - score}}
    rules = ("best", "last", "held_out") if config.protocol.held_out else ("best", "last")
    return {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "config_hash": config_hash(config),
        "config": recorded_config(config),
        "selections": {rule: {"epoch": 1, "metrics": metrics} for rule in rules},
        "score": {"value": score},
        "parameters": {},
        "cost": {"seconds": seconds},
        "error": None if status == "finished" else "Diverged: the loss is nan",
    }


def place(config: Config, score: float | None, **more: Any) -> None:
    run_folder(config).mkdir(parents=True)
    seal(run_folder(config), record(config, score, **more))


def begun(folder: Path, seeds: int) -> tuple[Study, list[Config]]:
    """A study with three finished runs and a failed one, and the runs of its grid."""
    study = Study(["rte"], "minilm", "short_holdout", seeds, args=[f"results_dir={folder}"], best_dir=folder / "best")
    configs = expand(*study.grid())
    for config in configs[:3]:
        place(config, 0.5, seconds=100.0)
    place(configs[3], None, status="failed")
    return study, configs


def grid(points: Mapping[tuple[float, int], float | None]) -> GridSearch:
    records = []
    for (lr, batch_size), score in points.items():
        run = copy.deepcopy(base())
        run.train.lr, run.train.batch_size = lr, batch_size
        records.append(record(run, score, status="finished" if score is not None else "failed"))
    return grid_search(base(), records)


@cache
def base() -> Config:
    return compose(*COMMON)


# The grid that was fixed before its runs (configs/protocol/short_holdout.yaml); another command line would not name the
# same folders.
def test_the_grid_is_the_one_that_was_fixed() -> None:
    configs = expand("sweep=grid", *COMMON)
    points = {(c.method.name, c.train.batch_size, c.train.lr) for c in configs}
    assert points == {(m, b, lr) for m in ("symlora", "lora") for b in (16, 32) for lr in (1e-3, 2e-3, 4e-3, 8e-3)}
    assert [config.seed for config in configs] == [0] * 16
    plain = compose(*COMMON, "method=lora", "train.batch_size=32", "train.lr=8e-3", "seed=0")
    assert run_folder(plain) in {run_folder(config) for config in configs}


# `methods` is a check of every method, with rates of its own, and no study.
@pytest.mark.parametrize("protocol", sorted({p.stem for p in (CONFIG_DIR / "protocol").glob("*.yaml")} - {"methods"}))
def test_every_protocol_has_a_grid(protocol: str) -> None:
    cfg = multirun_config(f"protocol={protocol}", "sweep=grid")
    values = swept(cfg.hydra.sweeper.params, [])
    assert values["method"] == ["symlora", "lora"]
    assert values.get("seed", []) == [str(seed) for seed in cfg.protocol.grid_seeds]
    assert len(values["train.lr"]) > 1 and values["train.batch_size"]
    assert cfg.hydra.launcher._target_.endswith("SymloraPackedLauncher")


def test_a_sweep_is_expanded_as_the_command_line_says() -> None:
    given = ("method=lora", "train.lr=3e-3", "method.peft_config.r=2,4", "precision=fp32")
    found = {(c.train.lr, c.method.peft_config["r"], c.precision) for c in expand("sweep=grid", *COMMON, *given)}
    assert found == {(3e-3, 2, "fp32"), (3e-3, 4, "fp32")}
    assert swept({"seed": "range(5)"}, ["seed=range(2)"]) == {"seed": ["0", "1"]}
    assert len(expand(*COMMON, "++train.weight_decay=0.1,0.2", "logger=none,wandb")) == 4
    for wrong in ("train.no_such=1", "train.no_such=1,2", "train.lr=1e-3,abc"):
        with pytest.raises(SymloraError, match="no_such|abc"):
            expand("sweep=grid", wrong)


def test_tasks_are_the_recipes_own() -> None:
    assert tasks_of("short_holdout") == ["cola", "rte", "mrpc", "stsb"]
    assert len(tasks_of("holdout")) == 8 and "wnli" not in tasks_of("paper")


def test_a_score_that_is_not_defined_chooses_nothing() -> None:
    # Optuna counts None as a failed trial, and ends the search at NaN.
    metrics = {"validation": {"pearson": float("nan")}}
    task = {"score": "pearson", "validation": ["validation"]}
    record = {"config": {"task": task, "protocol": {"selection": "last"}}, "selections": {"last": {"metrics": metrics}}}
    assert criterion(record) == (None, "validation")
    metrics["validation"]["pearson"] = 0.5
    assert criterion(record) == (0.5, "validation")


def test_the_best_point_is_chosen_on_the_held_out_slice() -> None:
    choice = grid({(1e-3, 16): 0.5, (2e-3, 16): 0.7, (4e-3, 16): 0.6})
    assert (choice.best.lr, choice.best.score) == (2e-3, 0.7)
    assert choice.edge("lr") == "inside" and choice.edge("batch_size") == "only value"
    assert [edge(rate, {1e-3, 2e-3, 4e-3}) for rate in (5e-4, 2e-3, 8e-3)] == ["lowest", "inside", "highest"]
    assert choice.rule == "held_out at the held_out epoch, seed 0"


def test_without_a_held_out_slice_validation_decides() -> None:
    runs = [compose("task=rte", "model=minilm", "protocol=paper", f"train.lr={lr}") for lr in (1e-3, 2e-3)]
    choice = grid_search(runs[0], [record(run, score) for run, score in zip(runs, (0.2, 0.9), strict=True)])
    assert choice.best.lr == 1e-3 and choice.best.score == pytest.approx(0.8)  # `record` turns validation round


def test_ties_go_to_the_smaller_rate_then_the_larger_batch() -> None:
    choice = grid({(2e-3, 16): 0.7, (1e-3, 16): 0.7, (1e-3, 32): 0.7, (4e-3, 32): 0.1})
    assert (choice.best.lr, choice.best.batch_size) == (1e-3, 32)
    assert (choice.edge("lr"), choice.edge("batch_size")) == ("lowest", "highest")
    # Means that are equal but for rounding tie too.
    first, second = (fmean([a / 249, b / 249]) for a, b in ((139, 159), (125, 173)))
    assert first != second and rank(first, 1e-3, 16) < rank(second, 4e-3, 16)


def test_failed_runs_are_points_and_never_chosen() -> None:
    choice = grid({(1e-3, 16): 0.1, (2e-3, 16): None, (4e-3, 16): None})
    assert len(choice.points) == 3 and choice.best.lr == 1e-3
    assert table([choice]).splitlines()[1].split()[3:8] == ["3", "2", "10.00", "0.001", "16"]
    with pytest.raises(SymloraError, match="none of 1 grid points has a score.*make sweep TASK=rte"):
        _ = grid({(1e-3, 16): None}).best


def test_other_settings_and_seeds_are_no_points() -> None:
    given = (("method.peft_config.r=4", "train.lr=1e-3"), ("seed=1", "train.lr=1e-3"), ("train.lr=4e-3",))
    choice = grid_search(base(), [record(compose(*COMMON, *overrides), 0.9) for overrides in given])
    assert [point.lr for point in choice.points] == [4e-3] and choice.others == 1


def test_a_point_is_chosen_by_the_mean_of_the_protocols_seeds() -> None:
    def run(lr: float, seed: int) -> Config:
        config = compose(*COMMON, f"train.lr={lr}", f"seed={seed}")
        config.protocol.grid_seeds = [100, 101]
        return config

    scores = {(1e-3, 100): 0.9, (1e-3, 101): 0.5, (2e-3, 100): 0.8, (2e-3, 101): 0.8, (4e-3, 100): 0.95}
    more = {(8e-3, 100): 0.9, (8e-3, 101): None, (1e-3, 0): 1.0}
    records = [
        record(run(*at), score, status="failed" if score is None else "finished")
        for at, score in (scores | more).items()
    ]
    choice = grid_search(run(1e-3, 0), records)
    assert [(point.lr, point.score) for point in choice.points] == [(1e-3, 0.7), (2e-3, 0.8), (8e-3, None)]
    assert choice.best.lr == 2e-3 and choice.rule == "held_out at the held_out epoch, mean of seeds 100, 101"
    assert run_folder(run(1e-3, 0)) == run_folder(compose(*COMMON, "train.lr=1e-3"))  # not a part of what is computed


def test_widening_goes_one_step_beyond_the_edge() -> None:
    low, high = {(1e-3, 16): 0.9, (2e-3, 16): 0.1}, {(1e-3, 16): 0.1, (4e-3, 32): 0.9}
    assert grid(low).widened("lr") == [5e-4]
    assert grid(high).widened("lr") == [1.6e-2] and grid(high).widened("batch_size") == [64]
    assert grid({(1e-3, 16): 0.1, (2e-3, 16): 0.9, (4e-3, 16): 0.2}).widened("lr") == []
    assert grid({(1e-3, 16): 0.1}).widened("lr") == []


def test_all_methods_are_widened_alike() -> None:
    study = Study(["rte"], "minilm", "short_holdout", args=["device=cpu"])
    points = (Point(1e-3, 16, 0.9), Point(2e-3, 16, 0.1))
    inside = (Point(1e-3, 16, 0.1), Point(2e-3, 16, 0.9), Point(4e-3, 16, 0.1))
    choices = [GridSearch("symlora", "rte", "accuracy", "", points), GridSearch("lora", "rte", "accuracy", "", inside)]
    (command,) = study.widened(choices)
    assert {"task=rte", "method=symlora,lora", "train.lr=0.0005", "train.batch_size=16", "device=cpu"} <= set(command)
    assert {(c.method.name, c.train.lr) for c in expand(*command)} == {("symlora", 5e-4), ("lora", 5e-4)}
    assert study.widened([choices[1]]) == []


def test_unequal_budgets_are_warned_of() -> None:
    one, same = (GridSearch(name, "rte", "accuracy", "", (Point(1e-3, 16, 0.9),)) for name in ("symlora", "lora"))
    more = GridSearch("lora", "rte", "accuracy", "", (Point(1e-3, 16, 0.1), Point(2e-3, 16, 0.2)))
    assert unequal([one, same]) == []
    assert "symlora 1, lora 2" in unequal([one, more])[0]


def test_the_choice_is_a_configuration_that_the_seeds_take(tmp_path: Path) -> None:
    choice = grid({(1e-3, 16): 0.5, (7e-3, 32): 0.75, (2e-3, 16): None})
    path = tmp_path / "best/holdout/minilm/symlora-rte.yaml"
    write(choice, path)
    text = path.read_text()
    assert "the best of 3 grid points" in text and "train.lr highest of 0.001, 0.002, 0.007" in text
    assert "     0.007     32    75.00  *" in text and "failed" in text
    write(choice, path)
    assert path.read_text() == text and len(list(path.parent.iterdir())) == 1
    holdout = ("task=rte", "model=minilm", "protocol=holdout")  # nothing is chosen there
    common = [*holdout, "method=symlora", f"hydra.searchpath=[file://{tmp_path}]"]
    configs = expand("sweep=seeds", "seed=range(3)", *common)
    assert [(c.seed, c.train.lr, c.train.batch_size) for c in configs] == [(s, 7e-3, 32) for s in range(3)]
    plain = compose(*holdout, "train.lr=7e-3", "train.batch_size=32")
    assert run_folder(configs[0]) == run_folder(plain)  # the grid's own run is seed 0


def test_a_selection_that_is_replaced_says_what_it_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lora-rte.yaml"
    choices = [grid({(1e-3, 16): 0.5}), grid({(1e-3, 16): 0.5}), grid({(1e-3, 16): 0.5, (2e-3, 32): 0.6})]
    for choice in choices:
        write(choice, path)
    assert capsys.readouterr().out == f"{path} is replaced; it held lr: 0.001 batch_size: 16\n"


def multirun_config(*overrides: str) -> Any:
    """What a callback is handed at the start of a multirun; compose() refuses sweeps, Hydra's command line does not."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    fixed = [text for text, override in zip(overrides, parsed, strict=True) if not override.is_sweep_override()]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = hydra_compose("config", fixed, return_hydra_config=True)
    cfg.hydra.overrides.task = [text for text in overrides if not text.startswith("hydra")]
    return cfg


def test_an_installed_package_keeps_its_selections_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come before the selections that were shipped with it."""
    plugin = runpy.run_path(str(ROOT / "scripts/hydra_plugins/symlora_packed_launcher.py"))["SymloraSelected"]
    Plugins.instance().register(plugin)  # an installed copy may be an older one
    seeds, place = ("sweep=seeds", *COMMON, "method=lora", "seed=1"), tmp_path / "größe" / "best"
    (shipped,) = expand(*seeds)
    monkeypatch.setattr("symlora.config.compose.BEST_DIR", place)
    assert expand(*seeds) == [shipped]
    write(grid({(1e-3, 16): 0.5, (7e-3, 16): 0.7}), place / "short_holdout/minilm/lora-rte.yaml")
    assert shipped.train.lr != 7e-3 == expand(*seeds)[0].train.lr


CHOSEN_BY = ("protocol.grid_seeds=[100,101]", *COMMON)


@pytest.mark.parametrize(
    ("check", "overrides", "says"),
    [
        (GridSeeds, ("sweep=grid", *COMMON, "seed=3"), None),
        (GridSeeds, ("sweep=grid", *COMMON, "seed=0,1"), "2 seeds.*never multiplied"),
        (GridSeeds, ("sweep=grid", *CHOSEN_BY, "seed=100,101"), None),
        (GridSeeds, ("sweep=grid", *CHOSEN_BY, "seed=0"), "mean of the seeds 100, 101. Leave out seed"),
        (HasBest, ("sweep=seeds", *CHOSEN_BY, "seed=0,101"), "seed 101: it chose the point"),
        (HasBest, ("sweep=seeds", *COMMON, "train.lr=1e-3"), "seeds are trained at what"),
        (HasBest, ("sweep=seeds", *COMMON, "++train.lr=1e-3"), "seeds are trained at what"),
        (HasBest, ("sweep=seeds", *COMMON, "train.batch_size=16"), "seeds are trained at what"),
    ],
)
def test_grid_and_seeds_are_checked_before_they_start(check: Any, overrides: tuple[str, ...], says: str | None) -> None:
    with pytest.raises(SystemExit, match=says) if says else nullcontext():
        check().on_multirun_start(multirun_config(*overrides))


def test_seeds_need_a_selection(tmp_path: Path) -> None:
    command = ("sweep=seeds", "protocol=smoke", "model=minilm", "task=rte", f"hydra.searchpath=[file://{tmp_path}]")
    path = tmp_path / "best/smoke/minilm/symlora-rte.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\n")
    with pytest.raises(SystemExit, match="best/smoke/minilm/lora-rte.yaml.*make select TASK=rte MODEL=minilm"):
        HasBest().on_multirun_start(multirun_config(*command))
    HasBest().on_multirun_start(multirun_config(*command, "method=symlora"))


def test_a_selection_from_a_part_of_the_grid_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, _ = begun(tmp_path, seeds=5)
    assert [len(choice.points) for choice in _tried(study)] == [4]
    assert "WARNING: 12 of 16 runs of the grid are missing" in capsys.readouterr().err


def test_an_own_table_has_its_own_selection(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\n" + "".join(f"film {n},{('bad', 'good')[n % 2]}\n" for n in range(40)))
    args = [f"data.dir={table}", "task.columns=[text]", "task.name=reviews", f"results_dir={tmp_path}/runs"]
    study = Study(["custom"], "minilm", "short_holdout", 2, ["lora"], [*args, "train.epochs=1"], tmp_path / "best")
    for config, score in zip(expand(*study.grid("train.lr=1e-3,7e-3", "train.batch_size=16")), (0.5, 0.7), strict=True):
        place(config, score)
    (choice,) = study.chosen()
    (wider,) = study.widened([choice])
    assert "task=custom" in wider and "train.lr=0.049" in wider
    write(choice, study.best_file(choice.method, choice.task))
    search = f"hydra.searchpath=[file://{tmp_path}]"
    for given in (study.repeats(), [word for word in study.repeats() if not word.startswith("task.name")]):
        assert {(c.task.name, c.train.lr) for c in expand(*given, search)} == {("reviews", 7e-3)}
        HasBest().on_multirun_start(multirun_config(*given, search))
    other = [word.replace("reviews", "tweets") for word in study.repeats() if "data.dir" not in word]
    with pytest.raises(SystemExit, match="lora-custom.yaml was selected for task.name=reviews, not tweets"):
        HasBest().on_multirun_start(multirun_config(*other, f"data.dir={table}", search))
    assert [*read_best(tmp_path / "best")] == [("minilm", "short_holdout", "reviews", "lora")]


def test_a_grid_of_the_command_line_reaches_neither_selection_nor_seeds(tmp_path: Path) -> None:
    """`make study ARGS="train.lr=..."`: the points are the grid's, and seeds are never multiplied with them."""
    args = ["train.lr=1e-4,1e-3", "seed=0", f"results_dir={tmp_path}"]
    study = Study(["rte"], "minilm", "short_holdout", 3, args=args, best_dir=tmp_path)
    assert {(c.train.lr, c.train.batch_size) for c in expand(*study.grid())} == {
        (lr, batch) for lr in (1e-4, 1e-3) for batch in (16, 32)
    }
    assert [choice.method for choice in study.chosen()] == ["symlora", "lora"]
    assert not [text for text in study.repeats() if text.startswith("train.")]
    assert [text for text in study.repeats() if text.startswith("seed=")] == ["seed=range(3)"]
    with pytest.raises(SymloraError, match="one set of values"):
        Study(["rte"], "minilm", "short_holdout", args=["method.peft_config.r=4,8"]).chosen()
    assert [text for text in study.grid("train.lr=5e-5") if text.startswith("train.lr")] == ["train.lr=5e-5"]
    other = Study(["rte"], "minilm", "short_holdout", args=["grid=paper", f"results_dir={tmp_path}"])
    assert {config.train.lr for config in expand(*other.grid())} == {config.train.lr for config in expand(*PAPER_GRID)}
    assert len(other.chosen()) == 2 and not [text for text in other.repeats() if text.startswith("grid=")]


PAPER_GRID = ("sweep=grid", "task=rte", "model=minilm", "protocol=paper")


@pytest.mark.parametrize("command", ["study", "select", "status", "paper"])
@pytest.mark.parametrize("word", ["model=minilm", "task=rte", "+protocol=study", "method=lora", "sweep=seeds"])
def test_names_that_options_give_are_no_overrides(command: str, word: str) -> None:
    with pytest.raises(SystemExit, match=r"this command sets \w+ itself"):
        main([command, word])


def test_a_stopped_grid_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of the child is that of the command: nothing is selected, and nothing else is started."""
    for rate, score in ((1e-3, 0.9), (2e-3, 0.1)):
        for method in ("symlora", "lora"):
            place(compose(*COMMON, f"method={method}", f"train.lr={rate}", f"results_dir={tmp_path}"), score)
    monkeypatch.setattr("symlora.sweep.study.BEST_DIR", tmp_path / "best")
    stopped = Mock(return_value=130)
    for module in ("study", "paper"):
        monkeypatch.setattr(f"symlora.sweep.{module}.multirun", stopped)
    words = ["--model", "minilm", f"results_dir={tmp_path}"]
    for command in (["select", "--protocol", "short_holdout", "--widen", "--run"], ["paper"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--tasks", "rte", *words])
        assert ended.value.code == 130
    assert stopped.call_count == 2 and not (tmp_path / "best").exists()


@pytest.mark.parametrize("status", ["finished", "failed", "missing"])
def test_a_study_goes_beyond_its_edges_a_few_times(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger the rate the better, and always beyond the edge; or no point beyond it can be trained."""
    started: list[list[str]] = []

    def multirun(words: list[str]) -> int:
        started.append(words)
        for config in expand(*words) if words[0] == "sweep=grid" else []:
            beyond = config.train.lr > 8e-3 and status != "finished"
            if not run_folder(config).exists() and not (beyond and status == "missing"):
                place(config, None if beyond else config.train.lr, status="failed" if beyond else "finished")
        return 0

    monkeypatch.setattr("symlora.sweep.study.multirun", multirun)
    args = [f"results_dir={tmp_path}"]
    study = Study(["rte"], "minilm", "short_holdout", 2, args=args, best_dir=tmp_path / "best")
    if status == "missing":
        with pytest.raises(SymloraError, match="grid points have no result"):
            run_study(study, widen=3)
        return
    assert run_study(study, widen=3) == 0
    rates = [word.split("=")[1] for words in started for word in words if word.startswith("train.lr=")]
    assert rates == (["0.016", "0.032", "0.064"] if status == "finished" else ["0.016"])
    assert started[-1][0] == "sweep=seeds" and len(started) == 2 + len(rates)
    best = "6.4e-2" if status == "finished" else "8e-3"
    assert f"lr: {float(best)}" in study.best_file("lora", "rte").read_text()


def test_status_counts_what_is_done(tmp_path: Path) -> None:
    study, configs = begun(tmp_path, seeds=5)
    now = time.time() + 40.0
    killed = run_folder(configs[5]).with_name(".seed-0.0a1b2c3d")  # a work folder that nobody works in
    killed.mkdir(parents=True)
    seal(killed, record(configs[5], None, status="running"))
    with locked(tmp_path, run_folder(configs[4])):
        runs = study.runs(now)
    states = [run.state for run in runs if run.stage == "grid"]
    assert [states.count(s) for s in ("finished", "running", "failed", "missing")] == [3, 1, 1, 11]
    assert len([run for run in runs if run.stage == "seeds" and run.folder is None]) == 10
    with pytest.raises(SymloraError, match="12 grid points have no result"):
        study.require_grid()
    full = record(configs[3], None, status="failed") | {"error": "RuntimeError: CUDA out of memory"}
    seal(run_folder(configs[3]), full)  # not that it diverged
    with pytest.raises(SymloraError, match="13 grid points have no result"):
        study.require_grid()
    known = costs([record(config, 0.5, seconds=100.0) for config in configs[:3]])
    left, unknown = time_left(runs, known, 2)
    assert left == pytest.approx((11 * 100 + 60 + 10 * 100) / 2, abs=5.0) and unknown == 0
    printed = status_table(runs, known, 2)
    assert "waits for make select" in printed and "About 18 min 00 s left with 2 workers" in printed

    choices = [choice for choice in study.chosen() if choice.points]
    write(choices[0], study.best_file(choices[0].method, choices[0].task))
    assert len([run for run in study.runs(now) if run.stage == "seeds" and run.folder is None]) == 5


def test_a_run_of_both_stages_is_counted_once_and_the_unknown_is_said(tmp_path: Path) -> None:
    shared = tmp_path / "seed-0"
    runs = [
        RunStatus("grid", "rte", "lora", shared),
        RunStatus("seeds", "rte", "lora", shared),
        RunStatus("grid", "cola", "lora", None),
    ]
    known = {("rte", "symlora"): [30.0]}
    assert time_left(runs, known, 1) == (30.0, 1)
    assert "Not counted: 1 runs" in status_table(runs, known, 1)
    done = [RunStatus("grid", "rte", "lora", shared, "finished")]
    assert "Nothing is left to do." in status_table(done, known, 1)
    failed = [*done, RunStatus("grid", "rte", "lora", tmp_path / "seed-1", "failed")]
    assert status_table(failed, known, 1).endswith("Only failed runs are left: the next sweep trains them again.")


def test_a_pack_ends_at_once(tmp_path: Path) -> None:
    """The time left of its runs is the pack's; a finished run's seconds are its share of its pack's."""

    def pack(**more: Any) -> list[RunStatus]:
        places = [tmp_path / f"seed-{seed}" for seed in range(8)]
        return [RunStatus("seeds", "rte", "lora", each, "running", by="host 1", **more) for each in places]

    known = {("rte", "lora"): [100.0]}
    diverged = replace(pack()[0], progress={"left": 900.0})
    assert time_left([diverged, *pack(progress={"left": 600.0})[1:]], known, 1) == (600.0, 0)
    assert time_left(pack(elapsed=300.0), known, 1) == (500.0, 0)
    assert time_left(pack(elapsed=300.0), {}, 1) == (0.0, 8)


def test_a_run_that_ends_while_it_is_looked_at_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(*COMMON, f"results_dir={tmp_path}")
    monkeypatch.setattr("symlora.sweep.status.holder", lambda root, folder: place(config, 0.5))
    assert run_status("grid", config, 0.0).state == "finished"


def test_a_forced_repeat_does_not_hide_a_finished_run(tmp_path: Path) -> None:
    config = compose(*COMMON, f"results_dir={tmp_path}")
    place(config, 0.5)
    work = run_folder(config).with_name(".seed-0.0a1b2c3d")
    work.mkdir()
    seal(work, record(config, None, status="running"))
    assert run_status("grid", config, 0.0).state == "finished"


def test_the_live_view_shows_packs_losses_time_left_and_why_runs_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, configs = begun(tmp_path, seeds=2)
    monkeypatch.setattr(reporter, "SHARE_EVERY", -1.0)
    told = reporter.Reporter(configs[4], quiet=True)
    told._started = time.perf_counter() - 60.0
    with locked(tmp_path, run_folder(configs[4])), locked(tmp_path, run_folder(configs[5])):
        for step in range(1, 51):
            told.step(StepProgress(epoch=1, step=step, steps=200, loss=1.0 - step / 100, score=None))
        console = Console(file=io.StringIO(), width=140, record=True)
        console.print(watch.view(study.runs(), study.costs(), 2))
        shown = console.export_text()
        assert read_progress(tmp_path, run_folder(configs[4]))["share"] == 0.25
    lines = [line.split() for line in shown.splitlines()]
    assert [word for word in lines[0] if word.isdecimal()] == ["3", "2", "1", "14"]  # the seeds wait, 2 of 2 methods
    (row,) = [line for line in lines if "25%" in line]
    assert row[:4] == ["1", "rte", configs[4].method.name, "grid"] and row[4].startswith("lr-")
    assert row[5:8] == ["0", f"1/{configs[4].train.epochs}", "25%"]
    assert row[8].startswith("█") and row[8].endswith("▁") and row[-4:-2] == ["3", "min"]
    assert [line[-4:-2] for line in lines if "starts" in line] == [["3", "min"]]  # of the same pack
    assert "failed: 1" in shown and "Diverged" in shown
    assert read_progress(tmp_path, run_folder(configs[4])) == {}  # gone with the lock


def test_the_live_view_ends_when_all_is_done_and_on_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    slept: list[float] = []

    def look() -> tuple[list[RunStatus], dict[tuple[str, str], list[float]]]:
        looks.append("finished" if len(looks) == 2 else "missing")
        return [RunStatus("grid", "rte", "lora", None, looks[-1])], {}

    monkeypatch.setattr("symlora.sweep.watch.time.sleep", slept.append)
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    watch.watch(look, 1, console)
    assert len(looks) == 3 and len(slept) == 2 and "Nothing is left to do." in shown.getvalue()
    monkeypatch.setattr("symlora.sweep.watch.time.sleep", Mock(side_effect=KeyboardInterrupt))
    watch.watch(look, 1, console)
    assert len(looks) == 4


def test_without_a_terminal_watch_prints_the_table_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["status", "--tasks", "rte", "--model", "minilm", "--protocol", "short_holdout", "--watch"]
    main([*words, f"results_dir={tmp_path}"])
    head, columns = capsys.readouterr().out.splitlines()[:2]
    assert head == "protocol short_holdout, model minilm" and "missing" in columns


@pytest.mark.parametrize(
    ("values", "drawn"), [([], ""), ([1.0], "▁"), ([0.0, 1.0, None, 0.5], "▁█ ▅"), ([*range(8)], "▁▂▃▄▅▆▇█")]
)
def test_a_sparkline_spans_its_values(values: list[float | None], drawn: str) -> None:
    assert watch.sparkline(values) == drawn
    assert len(watch.sparkline(values * 99)) == min(watch.WIDTH, len(values) * 99)


def test_scripts_have_no_name_of_the_standard_library() -> None:
    """scripts/ is first on the path of each of them: a select.py there would be imported for Python's own."""
    names = {path.stem for path in (CONFIG_DIR.parent / "scripts").glob("*.py")}
    assert not names & set(sys.stdlib_module_names)
