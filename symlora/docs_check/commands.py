"""Commands: run in a copy of the project, or checked without running them."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from symlora.config import CONFIG_DIR, compose
from symlora.errors import SymloraError
from symlora.sweep.jobs import expand

ROOT = CONFIG_DIR.parent
SECONDS = 120  # for one command
MAKE = ("make", "--no-print-directory", "--old-file=.venv/.ready")  # no check may build an environment


class Wrong(Exception):
    """What is wrong with a command, in one sentence."""


def run(command: list[str], folder: Path) -> None:
    """Runs a command to the end in a copy of the project.

    Raises:
        Wrong: It failed, or took too long.
    """
    settings = [word for word in command if re.match(r"[A-Z_]+=", word)][: _program(command)]
    words = command[_program(command) :]
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


def check(command: list[str], every_job: bool) -> None:
    """Looks at a command without running it.

    Args:
        command: Its words.
        every_job: Compose all jobs of a multirun, not the first alone; that takes its time.

    Raises:
        Wrong: A target, variable, script, option or override is not there, or has a wrong value.
    """
    words = command[_program(command) :]
    if words[0] == "make":
        _check_make(words[1:], every_job)
    elif words[0] in ("torchrun", "accelerate"):
        start = next((number for number, word in enumerate(words) if word.endswith(".py")), None)
        if start is None:
            raise Wrong("names no script")
        _check_script(words[start], words[start + 1 :], every_job)
    elif words[0] == "symlora" or words[1:3] == ["-m", "symlora"]:
        _check_options(("-m", "symlora", *words[1 if words[0] == "symlora" else 3 :][:1]), words[1:])
    elif words[1:3] == ["-m", "pytest"]:
        if lost := [word for word in words if word.startswith("tests/") and not (ROOT / word).exists()]:
            raise Wrong(f"{lost[0]} is not there")
    else:
        _check_script(words[1], words[2:], every_job)


def _program(command: list[str]) -> int:
    """Where the program stands, after the variables set for it."""
    return next(number for number, word in enumerate(command) if not re.match(r"[A-Z_]+=", word))


def _check_make(words: list[str], every_job: bool) -> None:
    text = (ROOT / "Makefile").read_text()
    for name in (word.partition("=")[0] for word in words if "=" in word):
        if not re.search(rf"\$\(({name}\)|.*\b{name}\b)|{name} \?=", text):
            raise Wrong(f"the Makefile has no variable {name}")
    done = subprocess.run([*MAKE, "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(done.stderr.strip())
    for line in done.stdout.replace("\\\n", " ").splitlines():
        if ".venv/bin/python scripts/" in line:
            parts = shlex.split(line)
            start = next(number for number, part in enumerate(parts) if part.startswith("scripts/"))
            _check_script(parts[start], parts[start + 1 :], every_job)


def _check_script(script: str, words: list[str], every_job: bool) -> None:
    if not (ROOT / script).is_file():
        raise Wrong(f"{script} is not there")
    if script != "scripts/train.py":
        _check_options((script,), words)
        overrides = [word for word in words if "=" in word and not word.startswith("--")]
        if overrides and "key=value" in _help((script,)):
            _compose(tuple(overrides), every_job)
        return
    flags = {"-m", "--help", "--resolve", "--cfg", "job"}
    _compose(tuple(word for word in words if word not in flags), every_job and "-m" in words)


@functools.cache
def _compose(overrides: tuple[str, ...], every_job: bool) -> None:
    try:
        if every_job:
            expand(*overrides)
        else:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
            compose(*(_first(text, override) for text, override in zip(overrides, parsed, strict=True)))
    except (SymloraError, HydraException) as error:
        raise Wrong(str(error)) from None


def _first(text: str, override: Override) -> str:
    """The override of a multirun's first job."""
    if not override.is_sweep_override():
        return text
    return f"{text.partition('=')[0]}={next(override.sweep_string_iterator())}"


def _check_options(program: tuple[str, ...], words: list[str]) -> None:
    known = _help(program)
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        if not re.search(rf"{re.escape(option)}(?![\w-])", known):
            raise Wrong(f"{' '.join(program)} has no option {option}")


@functools.cache
def _help(program: tuple[str, ...]) -> str:
    if program[0].startswith("scripts/examples/"):  # they import all at once, which takes long: what they say is read
        return (ROOT / program[0]).read_text()
    done = subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        raise Wrong(f"{' '.join(program)} --help: exit status {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout
