"""Check the pages' links, commands and Python blocks."""

import contextlib
import io
import re
import runpy
import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import SkipTest
from unittest.mock import patch

import hydra
import pytest
import torch
from conftest import ROOT, TinyFactory, run_program
from markdown_it import MarkdownIt
from omegaconf import OmegaConf
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from transformers import RobertaForSequenceClassification

from symlora.config.compose import CONFIG_DIR, compose, resolve
from symlora.sweep.grid import expand

README = ROOT / "README.md"
OTHERS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "results" / name / "README.md" for name in (".", "leaderboard")),  # adapters' cards are runs' own
    *(ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"),
]
MAKE = ("make", "--no-print-directory", "--old-file=.venv/.ready")  # a check must not build an environment
PROGRAM = re.compile(r"([A-Z_]+=\S+ )*(make|\S*python|\S*symlora|torchrun|accelerate|pip|uv|git|cd) ")
INLINE = re.compile(r"make [a-z]|symlora train ")
NETWORK = re.compile(r"(uv )?pip install |git clone |cd ")  # not checked: it needs a network, or follows what does
CHEAP = re.compile(r"make (help|runs|config|status|methods)\b|\S*symlora (runs|status|methods)\b|.* --help")
EXAMPLE = "gatedlora"  # the method that docs/adding-a-method.md tells the reader to write
pages = pytest.mark.parametrize("page", [README, *OTHERS], ids=lambda page: page.relative_to(ROOT).as_posix())


class Parsed(BaseException):
    """Carry what a program's parser has read past the program's own handlers."""


def inline(page: Path, *kinds: str) -> Iterator[Any]:
    """Find a page's inline tokens: `code_inline`, `link_open`, `image`."""
    tokens = MarkdownIt().parse(page.read_text())
    return (child for token in tokens for child in token.children or () if child.type in kinds)


def commands(page: Path) -> list[str]:
    """List the commands in a page's blocks and in its text."""
    found = [code.content for code in inline(page, "code_inline") if INLINE.match(code.content)]
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block") and token.info in ("", "bash"):
            lines = [line.strip() for line in re.sub(r"\\\n *", "", token.content).splitlines()]
            found += [line for line in lines if PROGRAM.match(line) or (token.info and line and line[0] != "#")]
    return [shlex.join(words(line)) for line in found if not NETWORK.match(line)]


def words(command: str) -> list[str]:
    """Split a command without variables; fill in what the reader must."""
    text = re.sub(r"<[^<>]*>|(?<==)…", "placeholder", command.replace(EXAMPLE, "symlora"))
    return shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", text), comments=True)


def check(command: str) -> None:
    """Check a command's target, options and overrides without running it."""
    program, *rest = words(command)
    if program == "make":
        check_make(rest)
    elif Path(program).name != "python":
        given = parse(Path(program).name, rest)
        if launched := getattr(given, "training_script", None):  # of torchrun and accelerate
            check(shlex.join(["python", launched, *given.training_script_args]))
        check_names(given)
    elif rest[:2] == ["-m", "pytest"]:
        assert not [word for word in rest if word.startswith("tests/") and not (ROOT / word).exists()]
    else:
        name, *rest = rest[1:] if rest[0] == "-m" else rest
        place = Path(name if name.endswith(".py") else f"{name.replace('.', '/')}/__main__.py")
        script = next((folder / place for folder in (ROOT, ROOT / "tests") if (folder / place).is_file()), None)
        assert script is not None, f"{place} is not there"
        given = parse(script, rest)
        if script.parent.name != "examples":  # their --model is a name on the hub
            check_names(given)


def check_make(rest: list[str]) -> None:
    """Check a target, its variables and what it would run."""

    def dry_run(*more: str) -> str:
        return run_program(*MAKE, "-n", *rest, *more).stdout

    shown = dry_run()
    for name in (word.partition("=")[0] for word in rest if "=" in word):
        assert dry_run(f"{name}=other") != shown, f"make {rest[0]} uses no {name}"
    for line in shown.replace("\\\n", " ").splitlines():
        if re.match(r"(\w+=\S+ )*\.venv/bin/(python|symlora) ", line):
            check(line)


def parse(program: str | Path, rest: list[str]) -> Namespace:
    """Start a program, and stop it once it has parsed its arguments."""

    def stop(parser: ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        raise Parsed(parse_args(parser, args, namespace))

    parse_args, errors = ArgumentParser.parse_args, io.StringIO()
    with (
        patch.object(ArgumentParser, "parse_args", stop),
        patch.object(sys, "argv", [str(program), *rest]),
        patch.object(sys, "path", [str(Path(program).parent), *sys.path]),
        patch.object(signal, "signal"),  # these programs' handlers are not for pytest
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            if isinstance(program, Path):
                runpy.run_path(str(program), run_name="__main__")
            else:
                entry_points(group="console_scripts")[program].load()()
        except Parsed as parsed:
            return Namespace(**vars(parsed.args[0]))
        except SystemExit as ended:
            assert not ended.code, errors.getvalue() or ended.code
            return Namespace()  # of --help
    raise AssertionError(f"{program} reads no command line")


def check_names(given: Namespace) -> None:
    """Compose what a command line names: task, method, model, protocol and overrides."""
    overrides = list(getattr(given, "overrides", None) or [])
    many = getattr(given, "multirun", True) or any(word.startswith("sweep=") for word in overrides)
    for group in ("task", "method", "model", "protocol"):
        value = getattr(given, group, None) or getattr(given, f"{group}s", None)
        if isinstance(value, str) and value.strip():
            overrides.append(f"{group}={','.join(value.replace(',', ' ').split())}")
    if "sweep=optuna" in overrides:  # its intervals cannot be listed
        fixed = [text for text in overrides if not re.search(r"=(tag|interval|choice)\(", text)]
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            resolve(hydra.compose("config", fixed))
    elif overrides:
        expand(*overrides) if many else compose(*overrides)


def anchors(page: Path) -> set[str]:
    tokens = MarkdownIt().parse(page.read_text())
    titles = [after.content for token, after in zip(tokens, tokens[1:], strict=False) if token.type == "heading_open"]
    made = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    return made | set(re.findall(r'<a id="([^"]+)">', page.read_text()))


@pages
def test_links_and_names_are_right(page: Path) -> None:
    for link in inline(page, "link_open", "image"):
        name, _, anchor = str(link.attrs.get("href") or link.attrs["src"]).partition("#")
        if not re.match(r"[a-z]+:", name):
            target = page.parent / name if name else page
            assert target.exists(), f"{name} is not there"
            assert not anchor or anchor in anchors(target), f"{name}#{anchor}: no such heading"
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        settings = hydra.compose("config", ["hydra/launcher=packed"], return_hydra_config=True)
    for code in (token.content for token in inline(page, "code_inline")):
        if re.fullmatch(r"(symlora|scripts|configs|tests|docs|notebooks)/[\w./-]*", code) and EXAMPLE not in code:
            assert (ROOT / code).exists(), f"{code} is not there"
        for parent, key in re.findall(r"(?<![\w.+/-])([a-z]\w*(?:\.\w+)*)\.(\w+)=", code):
            assert key in (OmegaConf.select(settings, parent) or ()), f"there is no setting {parent}.{key}"


@pytest.mark.parametrize("found", [[README], pytest.param(OTHERS, marks=pytest.mark.docs)], ids=["README", "others"])
def test_commands_are_right(found: list[Path]) -> None:
    for command in sorted({line for page in found for line in commands(page)}):
        try:
            check(command)
        except Exception as error:
            pytest.fail(f"`{command}`: {error}")


@pages
def test_python_blocks_run(page: Path, tiny: TinyFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Sybil([PythonCodeBlockParser(), SkipParser()]).parse(page)
    assert not re.search(r"skip: \w+ *-->", document.text), "a skip needs a reason"
    for name in ("model", "base"):  # pages take these classifiers and a batch as given
        document.namespace[name] = RobertaForSequenceClassification.from_pretrained(tiny("roberta", head=True))
    document.namespace["batch"] = {"input_ids": torch.tensor([[0, 5, 2]]), "labels": torch.tensor([1])}
    monkeypatch.chdir(tmp_path)
    for example in document:
        with contextlib.suppress(SkipTest):
            example.evaluate()


@pytest.mark.docs
@pytest.mark.parametrize(
    "command", sorted({line for page in (README, *OTHERS) for line in commands(page) if CHEAP.match(line)})
)
def test_cheap_commands_run(command: str) -> None:
    program, *rest = shlex.split(command)
    start = {"make": [*MAKE], "symlora": [sys.executable, "-m", "symlora"]}.get(Path(program).name, [sys.executable])
    run_program(*start, *rest)


@pytest.mark.docs
def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    config = str(ROOT / "scripts" / "docs" / "mkdocs.yml")
    run_program(sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", str(tmp_path))
    built = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.html")}
    wanted = {page.relative_to(ROOT).with_suffix("") for page in OTHERS if page.name != "README.md"}
    assert wanted <= {path.parent for path in built}
    loads = re.compile(r'<(?:script|img|iframe)[^>]* src="?(?:https?:)?//|<link[^>]* href="?(?:https?:)?//')
    assert [path for path, text in built.items() if loads.search(text)] == []
    assert "two_level_bootstrap" in built[Path("reference/statistics/index.html")]


def test_sentences_are_measured(tmp_path: Path) -> None:
    page, script = tmp_path / "page.md", runpy.run_path(str(ROOT / "scripts" / "docs" / "readability.py"))
    page.write_text("# One\n\nOne `two three` 4.5.  Five,\nsix? (Seven.)\n\n* eight\n\n| nine |\n| --- |\n\n    ten\n")
    assert [*script["sentences"](page.read_text())] == [3, 2, 1, 1]
    assert script["main"]([str(page)]) == 0
    page.write_text("word " * 15)
    assert script["main"]([str(page)]) == 1


@pages
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= (120 if page == README else 119)


WRONG = {
    "[a](b.md)": "b.md is not there",
    "# A\n\n[a](#b)": "#b: no such heading",
    "`symlora/nothing.py`": "symlora/nothing.py is not there",
    "`train.rate=1`": "no setting train.rate",
    "    make nothing": "No rule to make target",
    "    make glue TSK=rte": "make glue uses no TSK",
    "    make glue TASK=rtf": "task=rtf",
    '    make glue ARGS="train.learning_rate=1"': "learning_rate",
    "    make study TASKS='rte wnly'": "task/wnly",
    "    python scripts/none.py": "scripts/none.py is not there",
    "    python scripts/train.py -m task=rte seed=0 train.lr=1e-3,-1": "train.lr=-1",
    "    torchrun --nproc-per-node 4 scripts/train.py seed=0,1": "seed=0,1",
    "    accelerate launch scripts/examples/accelerate_loop.py --task cola": "invalid choice: 'cola'",
    "    symlora nothing": "invalid choice: 'nothing'",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=re.escape(WRONG[text])):
        test_links_and_names_are_right(tmp_path / "page.md")
        test_commands_are_right([tmp_path / "page.md"])
