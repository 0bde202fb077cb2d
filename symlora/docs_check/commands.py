"""Commands: run in a copy of the project, or checked without running them."""

import argparse
import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from symlora.config.compose import CONFIG_DIR
from symlora.docs_check.arguments import Wrong, of_launcher, of_script, parse
from symlora.docs_check.pages import PLACEHOLDER, variants
from symlora.docs_check.settings import GROUPS, check_composes, several

ROOT = CONFIG_DIR.parent
SECONDS = 120  # for one command
MAKE = ("make", "--no-print-directory", "--old-file=.venv/.ready")  # no check may build an environment
MODULES = {"symlora": "symlora/__main__.py", "faults": "tests/faults/__main__.py"}
VARIABLE = r"[A-Z][A-Z0-9_]*="
TRAIN = "scripts/train.py"


class Unused(Wrong):
    """A target of the Makefile heeds no such variable."""


def run(command: list[str], folder: Path) -> None:
    """Runs a command to the end in a copy of the project.

    Raises:
        Wrong: It failed, or took too long.
    """
    settings, words = split(command)
    if words[0] == "make":
        words = [*MAKE, *words[1:]]
    elif words[0].endswith("python"):
        words = [sys.executable, *words[1:]]
    values = dict(setting.split("=", 1) for setting in settings)
    environment = {**os.environ, **values, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Wrong(f"took more than {SECONDS} s") from None
    if done.returncode:
        raise Wrong(f"exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")


def split(command: Sequence[str]) -> tuple[list[str], list[str]]:
    """The variables set for a program, and the words from the program on."""
    start = next((number for number, word in enumerate(command) if not re.match(VARIABLE, word)), len(command))
    return list(command[:start]), list(command[start:])


def check(command: list[str], every_job: bool) -> None:
    """Looks at a command without running it; of `--to merged|lora` at each.

    Args:
        command: Its words.
        every_job: Compose all jobs of a multirun, not the first alone; that takes its time.

    Raises:
        Wrong: A target, variable, script, option or override is not there, or has a wrong value.
    """
    for words in variants(split(command)[1]):
        _check(words, every_job)


def make_variables() -> set[str]:
    """Those that the Makefile reads."""
    return set(re.findall(r"\b([A-Z_]+)(?= \?=|\))", (ROOT / "Makefile").read_text()))


def _check(words: list[str], every_job: bool) -> None:
    program, rest = words[0], words[1:]
    if program == "make":
        _check_make(rest, every_job)
    elif program in ("torchrun", "accelerate"):
        given = of_launcher(program, rest) if program == "torchrun" else of_launcher("accelerate launch", rest[1:])
        if script := getattr(given, "training_script", None):
            _check_script(script, given.training_script_args, every_job)
    elif program == "symlora":
        _check_script(MODULES["symlora"], rest, every_job)
    elif rest[0] != "-m":
        _check_script(rest[0], rest[1:], every_job)
    elif rest[1] == "pytest":
        _check_pytest(rest[2:])
    elif rest[1] in MODULES:
        _check_script(MODULES[rest[1]], rest[2:], every_job)
    else:
        raise Wrong(f"no rule for the module {rest[1]}")


def _check_make(words: list[str], every_job: bool) -> None:
    shown = _dry_run(words)
    for number, word in enumerate(words):
        name, sign, _ = word.partition("=")
        if not sign:
            continue
        if name not in make_variables():
            raise Wrong(f"the Makefile has no variable {name}")
        other = [*words[:number], f"{name}=other", *words[number + 1 :]]
        if not (name == "PYTHON" if "setup" in words else shown != _dry_run(other)):  # of setup nothing is shown
            raise Unused(f"`make {' '.join(part for part in words if '=' not in part)}` heeds no {name}")
    for line in shown.replace("\\\n", " ").splitlines():
        if re.search(r"\.venv/bin/python (scripts/|-m )", line):
            _, parts = split(shlex.split(line))
            _check(["python", *parts[1:]], every_job)


def _dry_run(words: list[str]) -> str:
    done = subprocess.run([*MAKE, "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(done.stderr.strip())
    return done.stdout


def _check_script(script: str, words: list[str], every_job: bool) -> None:
    if not (ROOT / script).is_file():
        raise Wrong(f"{script} is not there")
    if script == TRAIN:
        _check_train(words, every_job)
        return
    given = of_script(ROOT / script, words)
    if re.fullmatch(r"scripts/\w+\.py", script):  # an example's --model is a name on the hub
        _check_names(given)
    if hasattr(given, "overrides"):
        named = [f"task={','.join(_names(given, 'task'))}"] * bool(_names(given, "task"))
        named += [f"method={_names(given, 'method')[0]}", f"model={given.model}", f"protocol={given.protocol}"]
        check_composes([*named, *given.overrides], every_job)


def _check_train(words: list[str], every_job: bool) -> None:
    parser = get_args_parser()
    parser.prog = TRAIN
    given = parse(parser, words)
    overrides = getattr(given, "overrides", [])
    swept = several(overrides)
    many = getattr(given, "multirun", False) or any(word.startswith("sweep=") for word in overrides)
    if swept and not many:
        raise Wrong(f"{swept}: several values need -m")
    check_composes(overrides, every_job and many)


def _check_names(given: argparse.Namespace) -> None:
    for group in GROUPS:
        for name in _names(given, group):
            if name != PLACEHOLDER and not (CONFIG_DIR / group / f"{name}.yaml").is_file():
                raise Wrong(f"{name}: there is no such {group} in configs/{group}")


def _names(given: argparse.Namespace, group: str) -> list[str]:
    """Those of `--task` or `--tasks`, with commas or spaces between them."""
    text = getattr(given, group, None) or getattr(given, f"{group}s", None) or ""
    return [name for name in re.split("[, ]+", text) if name]


def _check_pytest(words: list[str]) -> None:
    if lost := [word for word in words if word.startswith("tests/") and not (ROOT / word.split("::")[0]).exists()]:
        raise Wrong(f"{lost[0]} is not there")
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        if not re.search(rf"{re.escape(option)}(?![\w-])", _pytest_help()):
            raise Wrong(f"pytest has no option {option}")


@functools.cache
def _pytest_help() -> str:
    words = [sys.executable, "-m", "pytest", "--help", "--noconftest"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
