"""PEFT's own test-suite, run on every method of ours (tests/peft_suite.py), each time in a pytest of its own.

The suite ships in PEFT's sdist, not in its wheel; the sdist of the installed version is downloaded once, into
.cache/peft-sdist. Here each method has one configuration; `make contract` runs all of them.
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import run_program
from filelock import FileLock
from layers import CONFIGS

TESTS = Path(__file__).resolve().parent
CACHE = TESTS.parent / ".cache" / "peft-sdist"
METHODS = sorted(CONFIGS)
# Of every method but those that PEFT wrote the tests for; and what tests/peft_suite.py skips or excuses.
SKIPS = ("Testing bias warnings only for LoraConfig", "Multiple active adapters with modules_to_save")
OURS = ("A bottleneck is not merged", "Excused: ")


def peft_sdist() -> Path:
    """Folder of the unpacked sdist of the installed PEFT; skips the test where the package index does not answer."""
    version = importlib.metadata.version("peft")
    folder = CACHE / f"peft-{version}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "lock"):  # tests run side by side
        if not (folder / "tests" / "test_custom_models.py").is_file():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=peft"]
            done = subprocess.run([*command, f"--dest={CACHE}", f"peft=={version}"], capture_output=True, text=True)
            archive = CACHE / f"peft-{version}.tar.gz"
            if not archive.is_file():
                pytest.skip(f"the sdist of peft {version} could not be downloaded: {done.stderr.strip()[-300:]}")
            with tarfile.open(archive) as tar:
                tar.extractall(CACHE, filter="data")
    return folder


def passes(methods: list[str], full: bool, folder: Path) -> None:
    """None of the suite's tests fails, and none is skipped for a reason that is not known."""
    report = folder / "report.xml"
    # No settings, plugins or conftest of this project: the suite runs as PEFT wrote it.
    options = ["-q", "--noconftest", f"-c{os.devnull}", "-pno:cacheprovider", "-pno:xdist", f"--junitxml={report}"]
    told: dict[str, Any] = {
        "PEFT_SDIST": str(peft_sdist()),
        "PEFT_CONTRACT": ",".join(methods),
        "PEFT_CONTRACT_FULL": "1" * full,
    }
    run_program(sys.executable, "-m", "pytest", *options, str(TESTS / "peft_suite.py"), cwd=folder, **told)
    suite = ElementTree.parse(report).getroot()[0]
    reasons = Counter(skip.get("message", "") for skip in suite.iter("skipped"))
    assert all(reason.startswith(SKIPS + OURS) for reason in reasons), reasons
    # A suite that shrinks to nothing must not pass for a suite that passes.
    run = int(suite.get("tests", 0)) - sum(reasons.values())
    assert run >= len(methods) * (200 if full else 50), f"{run} of {methods}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("methods", [METHODS[::2], METHODS[1::2]], ids=["half", "other half"])
def test_one_configuration_of_each_method_passes(methods: list[str], tmp_path: Path) -> None:
    passes(methods, False, tmp_path)


@pytest.mark.contract
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", METHODS)
def test_every_configuration_passes(method: str, tmp_path: Path) -> None:
    passes([method], True, tmp_path)
