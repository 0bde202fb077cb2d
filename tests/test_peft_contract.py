"""PEFT's own test-suite, run on SymLoRA.

The suite ships in PEFT's sdist, not in its wheel; the sdist of the installed version is downloaded once, into
.cache/peft-sdist. This file has two roles. Alone, it is one test: it fetches the suite and runs itself in a second
pytest (about a minute). In that one, which is told the folder by PEFT_SDIST, it hands PEFT's test classes our cases in
place of theirs; only tests that take a case are kept, so what is not about SymLoRA is not run.

    pytest -m contract tests/test_peft_contract.py
"""

import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tarfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "peft-sdist"
SDIST = os.environ.get("PEFT_SDIST")
# Of every method but those that PEFT wrote the tests for.
PEFT_SKIPS = ("Testing bias warnings only for LoraConfig", "Multiple active adapters with modules_to_save")


def peft_sdist() -> Path:
    """Folder of the unpacked sdist of the installed PEFT; skips the test where the package index does not answer."""
    version = importlib.metadata.version("peft")
    folder = CACHE / f"peft-{version}"
    if not (folder / "tests" / "test_custom_models.py").is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=peft"]
        done = subprocess.run([*command, f"--dest={CACHE}", f"peft=={version}"], capture_output=True, text=True)
        archive = CACHE / f"peft-{version}.tar.gz"
        if not archive.is_file():
            pytest.skip(f"the sdist of peft {version} could not be downloaded: {done.stderr.strip()[-300:]}")
        with tarfile.open(archive) as tar:
            tar.extractall(CACHE, filter="data")
    return folder


def import_suite(sdist: str) -> Any:
    """PEFT's tests/test_custom_models.py, with our cases in the tables that its decorators hold."""
    from symlora import SymLoraConfig

    if importlib.util.find_spec("diffusers") is None:  # imported by the suite for tests of image models only
        stub: Any = ModuleType("diffusers")
        stub.__spec__ = ModuleSpec("diffusers", None)
        stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
        sys.modules["diffusers"] = stub
    package = ModuleType("peft_tests")  # the folder has no __init__.py, and "tests" is our own
    package.__path__ = [str(Path(sdist) / "tests")]
    sys.modules["peft_tests"] = package
    pytest.register_assert_rewrite("peft_tests.test_custom_models", "peft_tests.testing_common")
    suite: Any = importlib.import_module("peft_tests.test_custom_models")
    kwargs: list[dict[str, Any]] = [
        {"target_modules": "lin0"},
        {"target_modules": ["lin0"]},
        {"target_modules": ["lin1"]},
        {"target_modules": ["lin0", "lin1"], "r": 4, "alpha": 2},
        {"target_modules": ["lin0"], "modules_to_save": ["lin1"]},
        {"target_modules": ["lin0", "lin1"], "train_lambda": False, "rank_pattern": {"lin1": 3}},
    ]
    suite.TEST_CASES[:] = [(f"SymLoRA {i}", "MLP", SymLoraConfig, kwarg) for i, kwarg in enumerate(kwargs)]
    suite.ALL_PEFT_CONFIG_CLASSES[:] = [SymLoraConfig]
    away = {"init_weights": False}
    pairs = {"Same": (["lin0"], ["lin0"]), "Different": (["lin0"], ["lin1"]), "Overlap": (["lin0"], ["lin0", "lin1"])}
    suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = [
        (f"SymLoRA {name}", "symlora", SymLoraConfig, {"target_modules": a, **away}, {"target_modules": b, **away})
        for name, (a, b) in pairs.items()
    ]
    return suite


if SDIST is None:

    @pytest.mark.contract
    @pytest.mark.timeout(600)
    def test_peft_suite_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        report = tmp_path / "report.xml"
        # No settings, plugins or conftest of this project: the suite runs as PEFT wrote it.
        options = ["-q", "--noconftest", f"-c{os.devnull}", "-pno:cacheprovider", "-pno:xdist", "-kSymLoRA"]
        command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", __file__]
        env = os.environ | {"PEFT_SDIST": str(peft_sdist()), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert report.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
        suite = ElementTree.parse(report).getroot()[0]
        counts, reasons = suite.attrib, {skip.get("message", "") for skip in suite.iter("skipped")}
        tests, skipped, bad = (int(counts[key]) for key in ("tests", "skipped", "failures"))
        bad += int(counts["errors"])
        with capsys.disabled():
            print(f" PEFT's suite on SymLoRA: {tests - skipped - bad} passed, {skipped} skipped, {bad} failed ", end="")
        assert bad == 0, done.stdout[-6000:]
        assert tests - skipped >= 350  # a suite that shrinks to nothing must not pass for a suite that passes
        assert all(reason.startswith(PEFT_SKIPS) for reason in reasons), reasons

else:
    import torch
    from torch import nn

    _suite = import_suite(SDIST)

    class SquareMLP(nn.Module):
        """PEFT's MLP, but 10 -> 10 -> 10 where PEFT's is 10 -> 20 -> 2: SymLoRA takes square matrices."""

        def __init__(self, bias: bool = True):
            super().__init__()
            self.lin0 = nn.Linear(10, 10, bias=bias)
            self.relu = nn.ReLU()
            self.drop = nn.Dropout(0.5)
            self.lin1 = nn.Linear(10, 10, bias=bias)
            self.sm = nn.LogSoftmax(dim=-1)

        def forward(self, X: torch.Tensor) -> Any:
            return self.sm(self.lin1(self.drop(self.relu(self.lin0(X.to(self.lin0.weight.dtype))))))

    _suite.MLP = SquareMLP

    class TestCustomModel(_suite.TestPeftCustomModel):  # type: ignore[name-defined, misc]
        """Attributes, saving, loading, merging, training, dtypes, deleting, disabling."""

        def prepare_inputs_for_testing(self) -> dict[str, torch.Tensor]:
            # PEFT's inputs run from 0 to 89; it lowers its learning rate of 0.5 by hand for methods that this sends to
            # NaN (where "has changed" always holds). Inputs below 1 keep ours finite at 0.5.
            return {name: x / 90 for name, x in super().prepare_inputs_for_testing().items()}

    class TestActive(_suite.TestMultipleActiveAdapters):  # type: ignore[name-defined, misc]
        """Several adapters at work."""

    class TestGrad(_suite.TestRequiresGrad):  # type: ignore[name-defined, misc]
        """What is trainable after adding and switching."""

    class TestFsdp(_suite.TestPeftFsdpStateDict):  # type: ignore[name-defined, misc]
        """State dicts of a sharded model."""
