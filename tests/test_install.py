"""The wheel in fresh environments, outside of any checkout: `make install-test`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TinyFactory
from test_base_install import PIPELINE, PROGRAM

pytestmark = [pytest.mark.install, pytest.mark.timeout(900)]

FEW = ("task=mrpc", "model=minilm", "protocol=demo", "data.demo_rows={train: 64, validation: 20, test: 8}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(ROOT, sys.executable, "-m", "uv", "build", "--wheel", "-q", "-o", str(folder), str(ROOT))
    return next(folder.glob("*.whl"))


def run(cwd: Path, *words: str, status: int = 0) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["HF_HUB_OFFLINE"] = "1"
    found = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=800)
    assert found.returncode == status, found.stdout[-1000:] + found.stderr[-3000:]
    return found.stdout + found.stderr


def environment(place: Path, wheel: Path, extras: str) -> Path:
    """A new virtual environment with the wheel at the lock's versions; its folder of programs."""
    uv = (sys.executable, "-m", "uv")
    run(place, *uv, "venv", "-q", "--python", sys.executable, "venv")
    config = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"], capture_output=True, text=True, check=False
    )
    links = [word for folder in config.stdout.split() for word in ("--find-links", folder)]
    locked = ("-c", str(ROOT / "requirements.lock"))
    run(place, *uv, "pip", "install", "-q", "--python", "venv", *links, *locked, f"symlora{extras} @ file://{wheel}")
    return place / "venv" / "bin"


def test_the_base_gives_a_peft_user_symlora(wheel: Path, tiny: TinyFactory, tmp_path: Path) -> None:
    programs = environment(tmp_path, wheel, "")
    (tmp_path / "base").symlink_to(tiny("roberta"))
    run(tmp_path, str(programs / "python"), "-c", PROGRAM.format(missing=PIPELINE))
    run(tmp_path, str(programs / "symlora"), "export", "lora", "again", "--to", "symlora")
    assert "pip install 'symlora[glue]'" in run(tmp_path, str(programs / "symlora"), "train", "task=rte", status=1)


def test_the_extra_trains_outside_a_checkout(wheel: Path, tmp_path: Path) -> None:
    symlora = str(environment(tmp_path, wheel, "[glue,minilm,launchers]") / "symlora")
    run(tmp_path, symlora, "train", *FEW, "train.epochs=1")
    assert len(list((tmp_path / "results" / "runs").rglob("run.json"))) == 1
    run(tmp_path, symlora, "train", "-m", "hydra/launcher=packed", *FEW, "train.epochs=1", "seed=0,1")
    assert len(list((tmp_path / "results" / "runs").rglob("run.json"))) == 2
    assert "mrpc" in run(tmp_path, symlora, "runs")
    assert "audit.md" in run(tmp_path, symlora, "report", "audit", "--out", "out")
