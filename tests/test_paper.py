"""`make paper` from the estimate to the report, on RoBERTa of two layers with random weights."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import ROOT

from symlora.errors import PARTIAL, SymloraError
from symlora.store.folder import scan
from symlora.sweep import paper
from symlora.sweep.grid import expand
from symlora.sweep.paper import Paper
from symlora.sweep.study import FAILED_RUN, Study

# Each of the dozen commands is a fork of one process that has imported everything, instead of a start of 8 seconds.
FORKED = """
import os, sys
import symlora.runner.run, symlora.report.write, symlora.submission.write
import symlora.sweep.study as study, symlora.sweep.paper as paper
from symlora.cli import main

def forked(*words):
    sys.stdout.flush()
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 0
    try:
        main(words)
    except SystemExit as error:
        status = error.code or 0
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    os._exit(status)

study.symlora = paper.symlora = forked
main(sys.argv[1:])
"""


def test_a_partial_zip_does_not_end_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def called(*words: str) -> int:
        said.append(words[0])
        return PARTIAL if words[0] == "submission" else 0

    monkeypatch.setattr(paper, "symlora", called)
    studied = Mock(return_value=0)
    monkeypatch.setattr(paper, "run_study", studied)
    assert Paper(["cola"], "minilm").run() == 0
    assert said == ["submission", "submission", "report"]
    assert Paper(["cola"], "minilm", args=["train.lr=1e-4,2e-4"]).run() == 0
    assert [call.kwargs["widen"] for call in studied.call_args_list] == [3, 0]  # own rates are all there are


def test_a_run_that_diverged_stops_no_other_task(monkeypatch: pytest.MonkeyPatch) -> None:
    studied: list[str] = []

    def diverges(study: Study, widen: int) -> int:
        studied.extend(study.tasks)
        return FAILED_RUN if "cola" in study.tasks else 0

    monkeypatch.setattr(paper, "run_study", diverges)
    monkeypatch.setattr(paper, "symlora", lambda *_: 0)
    assert Paper(["cola", "sst2"], "minilm").run() == FAILED_RUN and studied == ["cola", "sst2"]
    monkeypatch.setattr(paper, "run_study", lambda study, widen: 130)  # stopped
    assert Paper(["cola", "sst2"], "minilm").run() == 130


def test_the_calibration_is_not_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[list[str]] = []

    def multirun(words: list[str]) -> int:
        swept.append(words)
        return 0

    monkeypatch.setattr(paper, "multirun", multirun)
    monkeypatch.setattr(paper, "finished_record", lambda config: None)
    with pytest.raises(SymloraError, match="no grid point of cola"):
        Paper(["cola"], "minilm", args=["force=true"]).estimate()
    assert not any(config.force for config in expand(*swept[0]))


@pytest.mark.timeout(600)
def test_paper_estimates_trains_and_reports(tiny_roberta_dir: Path, tmp_path: Path) -> None:
    for name in ("symlora", "configs", "scripts", "results/published"):  # `make select` writes into configs/best
        shutil.copytree(ROOT / name, tmp_path / name)
    overrides = [
        *("model.name=tiny", f"model.path={tiny_roberta_dir}", "data.source=demo", "device=cpu", "precision=fp32"),
        *("+data.demo_rows={train: 24, validation: 12, test: 4}", "hydra.launcher.inner=basic"),
        *("train.lr=1e-3", "train.batch_size=8", "train.epochs=1"),
    ]
    command = [sys.executable, "-c", FORKED, "paper", "--tasks", "mnli,rte", "--model", "local", "--seeds", "2"]
    done = subprocess.run(
        [*command, *overrides],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    # Two methods with one point and one more seed; RTE twice, since it also starts from MNLI.
    found = [line.split()[:2] for line in done.stdout.splitlines() if line[:4] in ("mnli", "rte ", "all ")]
    assert found[:3] == [["mnli", "4"], ["rte", "8"], ["all", "12"]]
    runs = [record for _, record in scan(tmp_path / "results/runs")]
    assert [record["status"] for record in runs] == ["finished"] * 12
    # LoRA's adapter would be refused as SymLoRA's start, and the other way round.
    started = [record["config"]["protocol"]["name"] for record in runs if record["config"]["init_from"]]
    assert started == ["paper_mnli"] * 4
    # The zips are refused: 4 demo rows are no test split.
    assert (tmp_path / "results/report.html").is_file() and not (tmp_path / "results/submission").exists()
