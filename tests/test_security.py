"""No code from files: what the project may not call, checked on its own source; and nothing personal in its records."""

from __future__ import annotations

import ast
import platform
import re
from pathlib import Path

import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from test_run import small, train

SOURCES = sorted([*(ROOT / "symlora").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__", "instantiate"}
FORBIDDEN_CALLS = {
    "os.system",
    "os.popen",
    "utils.instantiate",
    "yaml.load",
    "yaml.unsafe_load",
    "np.load",
    "joblib.load",
}
RUNS_CODE_ON_PURPOSE = {"symlora/docs_check/check.py"}  # the examples of our own pages


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            found.append((name, node))
    return found


def keywords(call: ast.Call) -> dict[str, object]:
    return {item.arg: getattr(item.value, "value", None) for item in call.keywords if item.arg}


def offences(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}" for name in modules if name.split(".")[0] in FORBIDDEN_MODULES - {"pickle"}]
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "pickle":
            found += [] if node.attr == "UnpicklingError" else ["uses pickle"]
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            found.append("uses pickle")
        if (
            isinstance(node, ast.keyword)
            and node.arg == "trust_remote_code"
            and getattr(node.value, "value", 0) is not False
        ):
            found.append("trust_remote_code")
    for name, call in calls(tree):
        value = getattr(call.func, "value", None)
        given, owner = keywords(call), getattr(value, "id", getattr(value, "attr", ""))
        safe = name == "load" and "SafeLoader" in ast.unparse(call)
        if (f"{owner}.{name}" in FORBIDDEN_CALLS and not safe) or (
            name in FORBIDDEN_NAMES and isinstance(call.func, ast.Name)
        ):
            found.append(f"calls {name}")
        if name == "load" and owner == "torch" and given.get("weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if given.get("shell") is True:
            found.append("a shell")
        if name == "from_pretrained" and "AutoModel" in owner and given.get("use_safetensors") is not True:
            found.append("from_pretrained without use_safetensors=True")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_from_files(path: Path) -> None:
    allowed = ["calls compile", "calls exec"] if str(path.relative_to(ROOT)) in RUNS_CODE_ON_PURPOSE else []
    assert offences(path) == allowed


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "from pickle import loads",
        "from cloudpickle import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "yaml.load(text)",
        "eval(text)",
        "hydra.utils.instantiate(cfg)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name)",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=setting)",
    ],
)
def test_the_check_sees(line: str, tmp_path: Path) -> None:
    path = tmp_path / "source.py"
    path.write_text(line)
    assert len(offences(path)) == 1
    path.write_text("torch.load(path, weights_only=True)\nre.compile('x')\nyaml.safe_load(text)\nmodel.eval()\n")
    assert offences(path) == []


def test_configurations_name_no_code_and_pin_what_they_fetch() -> None:
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        text = path.read_text()
        targets = re.findall(r"_target_: (\S+)", text)  # Hydra's own callbacks: checks before a sweep
        assert all(target.startswith("symlora.sweep.guard.") for target in targets), path
        assert "!!python" not in text, path
    for path in sorted((ROOT / "configs" / "model").glob("*.yaml")):
        model = OmegaConf.load(path)
        if OmegaConf.select(model, "hub"):
            assert re.fullmatch("[0-9a-f]{40}", str(OmegaConf.select(model, "revision"))), path
    assert re.fullmatch("[0-9a-f]{40}", str(OmegaConf.load(ROOT / "configs/config.yaml").data.revision))


def test_records_name_no_user_machine_or_folder(
    minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("HF_TOKEN", "hf_" + secret)
    monkeypatch.setenv("USER", "somebodys-name")
    monkeypatch.setattr(platform, "node", lambda: "this-machines-name")
    folder, _ = train(small(tmp_path, "task=rte", "train.epochs=1"))
    names = [secret, "somebodys-name", "this-machines-name", str(Path.home()), str(tmp_path)]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [name for name in names if name.encode() in content], path.name
