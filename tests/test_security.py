"""No code from files: what the project may not call, checked on its own source; and nothing personal in its records."""

import ast
import platform
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_program
from omegaconf import OmegaConf
from test_run import small, train

SOURCES = sorted([*(ROOT / "symlora").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
PLACES = {str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())} - {"/"}
BANNED = """import pickle
from cloudpickle import load
import numpy as np; np.load(path)
from joblib import load as read
import yaml; yaml.load(text)
import yaml; yaml.load(text, Loader=yaml.Loader)
import yaml; yaml.load_all(text)
import yaml; yaml.full_load(text)
eval(text)
import hydra.utils; hydra.utils.instantiate(cfg)
from hydra import utils
import subprocess; subprocess.run(text, shell=True)
"""


def refused(*words: str, status: int) -> set[str]:
    """Numbers of the lines at which ruff's rules of pyproject.toml refuse what may run code from a file."""
    command = (sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise")
    told = run_program(*command, *words, status=status)
    return set(re.findall(r":(\d+):\d+: (?:S\d+|TID251) ", told.stdout))


def test_ruff_refuses_what_runs_code_from_files(tmp_path: Path) -> None:
    (tmp_path / "source.py").write_text(BANNED)
    config = ("--config", str(ROOT / "pyproject.toml"), str(tmp_path))
    assert refused(*config, status=1) == {str(number + 1) for number in range(BANNED.count("\n"))}
    assert not refused("symlora", "scripts", status=0)


def offences(source: str) -> list[str]:
    """What ruff does not see."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in ("eval", "exec", "compile", "__import__"):
            found += [node.id] * isinstance(node.ctx, ast.Load)
        if isinstance(node, ast.Call):
            given = {item.arg: ast.unparse(item.value) for item in node.keywords}
            found += ["remote code"] * (given.get("trust_remote_code", "False") != "False")
            found += ["any object"] * (given.get("weights_only", "True") != "True")
            model = re.search(r"AutoModel.*\.from_pretrained$", ast.unparse(node.func))
            found += ["not safetensors"] * (model is not None and given.get("use_safetensors") != "True")
    return found


def test_no_source_runs_code_from_files() -> None:
    for line in (
        "f = eval",
        "torch.load(f, weights_only=False)",
        "f(trust_remote_code=x)",
        "AutoModel.from_pretrained(x)",
    ):
        assert len(offences(line)) == 1, line
    safe = "torch.load(path, weights_only=True)\nre.compile('x')\nmodel.eval()\nf(trust_remote_code=False)"
    assert offences(safe) == []
    assert {path: found for path in SOURCES if (found := offences(path.read_text()))} == {}


def test_configurations_name_no_code_and_pin_what_they_fetch() -> None:
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        text = path.read_text()
        targets = re.findall(r"_target_: (\S+)", text)  # Hydra's own callbacks: checks before a sweep
        assert all(target.startswith("symlora.sweep.preflight.") for target in targets), path
        assert "!!python" not in text, path
    for path in sorted((ROOT / "configs" / "model").glob("*.yaml")):
        model = OmegaConf.load(path)
        if OmegaConf.select(model, "hub"):
            assert re.fullmatch("[0-9a-f]{40}", str(OmegaConf.select(model, "revision"))), path
    assert re.fullmatch("[0-9a-f]{40}", str(OmegaConf.load(ROOT / "configs/config.yaml").data.revision))


@pytest.mark.parametrize(("rate", "status"), [("1e-3", "finished"), ("1e30", "failed")])
def test_records_name_no_user_machine_or_folder(
    rate: str, status: str, minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("HF_TOKEN", "hf_" + secret)
    monkeypatch.setenv("USER", "somebodys-name")
    monkeypatch.setattr(platform, "node", lambda: "this-machines-name")
    folder, record = train(small(tmp_path, "task=rte", "train.epochs=1", f"train.lr={rate}"))
    assert record["status"] == status
    assert status == "finished" or 'File "symlora/runner/record.py"' in record["traceback"], "it should still say where"
    names = [secret, "somebodys-name", "this-machines-name", str(tmp_path), *PLACES]
    for path in filter(Path.is_file, folder.rglob("*")):
        content = path.read_bytes()
        assert not [name for name in names if name.encode() in content], path.name
