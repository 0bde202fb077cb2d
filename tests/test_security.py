"""No code from files: what the project may not call, checked on its own source; and nothing personal in its records."""

import ast
import platform
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from test_run import small, train

SOURCES = sorted([*(ROOT / "symlora").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
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
PLACES = {str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())} - {"/"}


def imported(tree: ast.AST) -> dict[str, str]:
    """What each name that a module binds by an import stands for: `load` for `joblib.load`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """`numpy.load` of `np.load`; empty for what is no chain of names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (owner := full_name(node.value, names)):
        return f"{owner}.{node.attr}"
    return ""


def offences(path: Path) -> list[str]:
    """Uses of what may run code; `read = numpy.load` is one too. Ruff sees star imports and imports without a use."""
    tree = ast.parse(path.read_text())
    names, found = imported(tree), []
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(getattr(node, "ctx", None), ast.Load):
            continue  # a field called `compile` is no use of the function
        name, call = full_name(node, names), calls.get(id(node))
        of_module = name.partition(".")[0] in FORBIDDEN_MODULES and "." in name and name != "pickle.UnpicklingError"
        if of_module or name in FORBIDDEN:
            found.append(f"uses {name}")
        if name in SAFE_WITH and (call is None or SAFE_WITH[name] not in ast.unparse(call)):
            found.append(f"uses {name} without {SAFE_WITH[name]}")
    return found + [offence for call in calls.values() for offence in of_keywords(call)]


def of_keywords(call: ast.Call) -> list[str]:
    given, found = {item.arg: getattr(item.value, "value", None) for item in call.keywords}, []
    if given.get("trust_remote_code", False) is not False:
        found.append("trust_remote_code")
    if given.get("shell") is True:
        found.append("a shell")
    if re.search(r"AutoModel.*\.from_pretrained$", ast.unparse(call.func)) and given.get("use_safetensors") is not True:
        found.append("from_pretrained without use_safetensors=True")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_from_files(path: Path) -> None:
    assert offences(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "from cloudpickle import load\nload(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load = torch.load",
        "import numpy as np\nnp.load(path)",
        "from joblib import load as read\nread(path)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load_all(text)",
        "yaml.full_load(text)",
        "eval(text)",
        "resolver = eval",
        "hydra.utils.instantiate(cfg)",
        "from hydra import utils\nutils.call(cfg)",
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
