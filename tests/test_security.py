"""No code from files: what the project may not call, checked on its own source; and nothing personal in its records."""

from __future__ import annotations

import ast
import platform
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from faults.places import make_encoder
from omegaconf import OmegaConf
from test_run import small, train

from symlora.config.compose import compose

SOURCES = sorted([*(ROOT / "symlora").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
FORBIDDEN_MODULES = {"cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *(f"hydra.utils.{name}" for name in ("instantiate", "call", "get_class", "get_method", "get_object")),
    *(f"yaml.{name}" for name in ("full_load", "full_load_all", "unsafe_load", "unsafe_load_all")),
    *("numpy.load", "joblib.load", "pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package"),
    *("runpy.run_path", "runpy.run_module"),
}
# Allowed where the call itself says how: these keywords, or this class among its arguments.
SAFE_WITH = {"torch.load": "weights_only=True", "yaml.load": "SafeLoader", "yaml.load_all": "SafeLoader"}
USUAL_NAMES = {"np": "numpy", "pd": "pandas"}
PLACES = tuple({str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())} - {"/"})


def imported(tree: ast.AST) -> dict[str, str]:
    """What each name that a module binds by an import stands for: `load` for `joblib.load`."""
    names = dict(USUAL_NAMES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """`numpy.load` of `np.load`; empty for what is no chain of names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (owner := full_name(node.value, names)):
        return f"{owner}.{node.attr}"
    return ""


def keywords(call: ast.Call) -> dict[str, object]:
    return {item.arg: getattr(item.value, "value", None) for item in call.keywords if item.arg}


def of_imports(node: ast.AST) -> list[str]:
    """Of modules that load code, and of names that the other checks would not see under a name of their own."""
    if isinstance(node, ast.Import):
        return [f"imports {alias.name}" for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
    if not isinstance(node, ast.ImportFrom) or not node.module or node.level:
        return []
    if node.module.split(".")[0] in {*FORBIDDEN_MODULES, "pickle"}:
        return [f"imports {node.module}"]
    found = {f"{node.module}.{alias.name}" for alias in node.names}
    if f"{node.module}.*" in found:
        return [f"imports {node.module}.*"] * any(name.startswith(f"{node.module}.") for name in FORBIDDEN)
    return [f"imports {name}" for name in sorted(found & {*FORBIDDEN, *SAFE_WITH})]


def of_names(tree: ast.AST) -> list[str]:
    """Uses, not calls alone: `read = numpy.load` is one too."""
    names, found = imported(tree), []
    from_imports = {node for node in names if names[node] in {*FORBIDDEN, *SAFE_WITH}}  # reported by `of_imports`
    safe = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and is_safe(node, names)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
            continue  # a field called `compile` is no use of the function
        if isinstance(node, ast.Name) and node.id in from_imports:
            continue
        name = full_name(node, names)
        if name in FORBIDDEN or (name in SAFE_WITH and id(node) not in safe):
            found.append(f"uses {name}")
        if name.startswith("pickle.") and name != "pickle.UnpicklingError":
            found.append("uses pickle")
    return found


def is_safe(call: ast.Call, names: dict[str, str]) -> bool:
    said = SAFE_WITH.get(full_name(call.func, names))
    return said is not None and any(said in ast.unparse(part) for part in (*call.args, *call.keywords))


def of_calls(call: ast.Call) -> list[str]:
    given, found = keywords(call), []
    if given.get("trust_remote_code", False) is not False:
        found.append("trust_remote_code")
    if given.get("shell") is True:
        found.append("a shell")
    called = ast.unparse(call.func)
    if called.endswith(".from_pretrained") and "AutoModel" in called and given.get("use_safetensors") is not True:
        found.append("from_pretrained without use_safetensors=True")
    return found


def offences(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    found = of_names(tree)
    for node in ast.walk(tree):
        found += of_imports(node) + (of_calls(node) if isinstance(node, ast.Call) else [])
    return sorted(found)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_from_files(path: Path) -> None:
    assert offences(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "from pickle import loads",
        "from cloudpickle import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "read = numpy.load",
        "import numpy as other\nother.load(path)",
        "pd.read_pickle(path)",
        "from pandas import read_pickle",
        "from joblib import load",
        "from joblib import load as read\nread(path)",
        "import joblib\njoblib.load(path)",
        "from torch import load",
        "from torch import load as read\nread(path, weights_only=True)",
        "import torch as t\nt.load(path)",
        "from os import *",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load_all(text)",
        "yaml.full_load(text)",
        "yaml.unsafe_load(text)",
        "from yaml import full_load",
        "eval(text)",
        "resolver = eval",
        "hydra.utils.instantiate(cfg)",
        "hydra.utils.call(cfg)",
        "from hydra import utils\nutils.call(cfg)",
        "from hydra.utils import instantiate\ninstantiate(cfg)",
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


def test_the_check_lets_safe_calls_through(tmp_path: Path) -> None:
    path = tmp_path / "source.py"
    path.write_text(
        "import pickle\ntorch.load(path, weights_only=True)\nre.compile('x')\nyaml.safe_load(text)\nmodel.eval()\n"
        "yaml.load(text, yaml.SafeLoader)\nyaml.load_all(text, Loader=yaml.CSafeLoader)\njson.load(file)\n"
        "call(utils)\nf(trust_remote_code=False)\nexcept_for = pickle.UnpicklingError\n"
    )
    assert offences(path) == []


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


def test_a_failed_runs_record_names_no_folder(tmp_path: Path) -> None:
    folders = {"model.path": make_encoder(tmp_path / "encoder"), "results_dir": tmp_path / "runs"}
    config = compose(
        *("task=mrpc", "method=symlora", "model=local", "model.name=tiny", "protocol=demo"),
        *("train.lr=1e30", "train.epochs=1", "train.batch_size=8", "device=cpu", "precision=fp32"),
        *("data.demo_rows={train: 64, validation: 16, test: 4}", f"data.cache_dir={tmp_path / 'tokens'}"),
        *(f"{key}={folder}" for key, folder in folders.items()),
    )
    folder, record = train(config)
    assert record["status"] == "failed" and record["error"].startswith("Diverged:")
    assert 'File "symlora/runner/record.py"' in record["traceback"], "it should still say where"
    for path in filter(Path.is_file, folder.rglob("*")):
        content = path.read_bytes()
        assert not [place for place in (*PLACES, str(tmp_path)) if place.encode() in content], path.name
