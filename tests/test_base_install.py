"""What `pip install symlora` alone must do: the packages of the GLUE pipeline are not there."""

import re
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from conftest import ROOT, TinyFactory, run_program

BASE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
PIPELINE = {"hydra", "omegaconf", "wandb", "datasets", "evaluate", "pandas", "pyarrow", "scipy", "matplotlib"}
PROGRAM = """
import sys
sys.modules |= dict.fromkeys({missing!r})  # importing one of them is a ModuleNotFoundError
from pathlib import Path
from symlora.cli import main
from symlora.store.folder import SCHEMA_VERSION, seal
from symlora import SymLoraConfig
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

RECORDED = {{"model": {{"path": "base"}}, "task": {{"labels": ["a", "b", "c"]}}}}
model = AutoModelForSequenceClassification.from_pretrained("base", num_labels=3)
get_peft_model(model, SymLoraConfig(r=4, task_type="SEQ_CLS")).save_pretrained("run/adapter")
main(["export", "run/adapter", "lora", "--to", "lora", "--base", "base"])
main(["export", "lora", "symmetric", "--to", "symlora"])
seal(Path("run"), {{"schema_version": SCHEMA_VERSION, "status": "finished", "config": RECORDED}})
main(["export", "run", "merged", "--to", "merged", "--base", "base"])
"""


def distribution(requirement: str) -> str:
    """The normal form of the name that a requirement begins with."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def closure(requirements: list[str], found: set[str]) -> set[str]:
    """Names of these distributions and of all that they require."""
    for name in (distribution(line) for line in requirements if "extra ==" not in line):
        if name not in found:
            found.add(name)
            with suppress(PackageNotFoundError):  # for another platform
                closure(requires(name) or [], found)
    return found


def test_adapters_are_exported_with_the_base_packages_alone(tiny: TinyFactory, tmp_path: Path) -> None:
    base, modules = closure(BASE, {"symlora"}), packages_distributions()
    missing = {module for module, owners in modules.items() if not {distribution(name) for name in owners} & base}
    assert missing >= PIPELINE
    (tmp_path / "base").symlink_to(tiny("roberta"))
    run_program(sys.executable, "-c", PROGRAM.format(missing=missing), cwd=tmp_path, HOME=str(tmp_path))
    assert '"a"' in (tmp_path / "merged" / "config.json").read_text()
