"""Check the live view of a study on made-up states."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from test_sweep_select import place

from symlora.cli import main
from symlora.runner import reporter
from symlora.store.folder import run_folder
from symlora.store.locks import locked, read_progress
from symlora.sweep import watch
from symlora.sweep.grid import expand
from symlora.sweep.status import RunStatus
from symlora.sweep.study import Study
from symlora.training.loop import StepProgress


def test_the_live_view_shows_packs_losses_time_left_and_why_runs_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(["rte"], "minilm", "short_holdout", 2, args=[f"results_dir={tmp_path}"], best_dir=tmp_path / "best")
    configs = expand(*study.grid())
    for config in configs[:3]:
        place(config, 0.5, seconds=100.0)
    place(configs[3], None, status="failed")
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
    assert [line[-5:] for line in lines if "starts" in line][0][-4:] == ["1", "min", "40", "s"]
    assert "failed: 1" in shown and "Diverged" in shown
    assert read_progress(tmp_path, run_folder(configs[4])) == {}  # gone with the lock


def test_the_live_view_ends_when_all_is_done_and_on_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    slept: list[float] = []

    def look() -> tuple[list[RunStatus], dict[tuple[str, str], list[float]]]:
        looks.append("finished" if len(looks) == 2 else "missing")
        return [RunStatus("grid", "rte", "lora", None, looks[-1])], {}

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("symlora.sweep.watch.time.sleep", slept.append)
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    watch.watch(look, 1, console)
    assert len(looks) == 3 and len(slept) == 2 and "Nothing is left to do." in shown.getvalue()
    monkeypatch.setattr("symlora.sweep.watch.time.sleep", stop)
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
