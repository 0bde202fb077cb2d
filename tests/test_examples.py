"""scripts/examples as users run them, on a small encoder of random weights, MiniLM's vocabulary and the demo's rows."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT, run_program
from layers import CLASSIFIER
from peft import PeftModel
from safetensors.torch import load_file

from symlora.data.demo import demo_split

EXAMPLES = ROOT / "scripts" / "examples"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MRPC and CoLA in the layout of the hub dataset."""
    folder = tmp_path_factory.mktemp("glue")
    for task in ("mrpc", "cola"):
        (folder / task).mkdir()
        for split, rows in (("train", 40), ("validation", 6)):
            table = pd.DataFrame(demo_split(task, split, rows))
            table.to_parquet(folder / task / f"{split}-00000-of-00001.parquet")
    return folder


def check_adapter(folder: Path, encoder: Path) -> None:
    """It loads as PEFT loads, and has learned: Λ starts at 0."""
    tensors = load_file(folder / "adapter_model.safetensors")
    diagonals = [t for name, t in tensors.items() if name.endswith("symlora_diag")]
    assert len(diagonals) == 4 and all(t.any() for t in diagonals)
    assert {name.split(".")[2] for name in tensors} == {"bert", "classifier"}
    model = PeftModel.from_pretrained(CLASSIFIER.from_pretrained(encoder, num_labels=2), folder).eval()
    assert torch.isfinite(model(torch.tensor([[101, 2028, 102]])).logits).all()


@pytest.mark.parametrize("task", ["mrpc", "cola"])
def test_trainer_example(
    task: str, tiny_bert_dir: Path, data: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    arguments = ["--model", str(tiny_bert_dir), "--task", task, "--data", str(data), "--max-steps", "3"]
    monkeypatch.setattr(sys, "argv", ["trainer.py", *arguments, "--out", str(tmp_path / "out")])
    runpy.run_path(str(EXAMPLES / "trainer.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "trainable params: 1,126 ||" in printed  # 4 matrices of (32 + 1) 8 + 1, and a head of 66
    assert ("'eval_accuracy': 0." if task == "mrpc" else "'eval_matthews_correlation': ") in printed
    check_adapter(tmp_path / "out", tiny_bert_dir)


def test_accelerate_example_under_accelerate_launch(tiny_bert_dir: Path, data: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    arguments = ["--model", str(tiny_bert_dir), "--data", str(data), "--max-steps", "4", "--out", str(tmp_path / "out")]
    command = [*launch, str(EXAMPLES / "accelerate_loop.py"), *arguments]
    cache, home = str(tmp_path / "cache"), str(tmp_path / "home")  # no configuration of the user's for accelerate
    done = run_program(*command, cwd=tmp_path, HF_DATASETS_CACHE=cache, HF_HOME=home)
    assert done.stdout.count("step 4: loss") == 1  # the first process alone prints
    check_adapter(tmp_path / "out", tiny_bert_dir)
