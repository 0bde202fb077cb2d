"""The documentation shows what there is: commands, links, tables. `make docs-check` runs what is only checked here."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from symlora.docs_check.check import FAILED, check_pages, pages, summary
from symlora.docs_check.commands import ROOT, Wrong, run
from symlora.docs_check.pages import blocks
from symlora.docs_check.rules import CHECK, RUN, SKIP, rule
from symlora.protocols import PROTOCOLS, markdown
from symlora.submission.files import LINES, files
from symlora.sweep.packing import FREE, FREE_METHOD, FREE_TRAIN

DOCS = ROOT / "docs"


def failures(page: Path, running: bool = False) -> list[str]:
    return [f"{item.place} {item.what}" for item in check_pages([page], running=running) if item.how == FAILED]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_works(page: Path) -> None:
    assert failures(page) == []


FENCE = "```"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("    make nothing\n", "no rule for `make nothing`"),
        ("    make sweeps TASK=rte\n", "no rule for"),
        ("    make glue TSK=rte\n", "the Makefile has no variable TSK"),
        ("    make glue TASK=rtf\n", "Could not find 'task/rtf'"),
        ('    make glue ARGS="train.learning_rate=1"\n', "learning_rate"),
        ('    make glue ARGS="train.lr=-1"\n', "train.lr=-1.0: give a learning rate above 0"),
        ('    make study ARGS="train.lrs=1"\n', "lrs"),
        ("    make report ARGS=--strictly\n", "scripts/report.py has no option --strictly"),
        ("    python scripts/none.py --help\n", "scripts/none.py is not there"),
        ("    torchrun --nproc-per-node 2 train.py\n", "train.py is not there"),
        ("    accelerate launch --num-processes 2\n", "names no script"),
        ("    python -m pytest -q tests/test_none.py\n", "tests/test_none.py is not there"),
        ("    symlora export x y --onto lora\n", "has no option --onto"),
        (f"{FENCE}bash\nrm -rf results\n{FENCE}\n", "no rule for `rm -rf results`"),
        (f"{FENCE}bash\n# nothing\n{FENCE}\n", "no command in it"),
        (f"{FENCE}bash\nmake glue TASK='rte\n{FENCE}\n", "No closing quotation"),
        (f"{FENCE}console\n$ make nothing\noutput\n{FENCE}\n", "no rule for `make nothing`"),
        (f"{FENCE}python\nimport symlora.nothing\n{FENCE}\n", "ModuleNotFoundError"),
        (f"{FENCE}python\nx = (\n{FENCE}\n", "never closed"),
        (f"{FENCE}python\nassert 1 + 1 == 3\n{FENCE}\n", "AssertionError"),
        (f'{FENCE}python\nAutoModel.from_pretrained("gpt2"\n{FENCE}\n', "never closed"),
        (f"{FENCE}yaml\na: [1\n{FENCE}\n", "a: .1"),
        (f"{FENCE}json\n{{'a': 1}}\n{FENCE}\n", "Expecting"),
        (f"{FENCE}haskell\nmain\n{FENCE}\n", "no rule for a block of language 'haskell'"),
        ("[there](nowhere.md)\n", "nowhere.md is not there"),
        ("# Title\n[there](#titel)\n", "#titel: no such heading"),
        ("see `symlora/nothing.py`\n", "`symlora/nothing.py` is not there"),
    ],
)
def test_what_does_not_work_is_found(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "page.md").write_text(text)
    found = failures(tmp_path / "page.md", running="python" in text and "python " not in text)
    assert len(found) == 1 and re.search(says, found[0]), found


GOOD = f"""# A good page

    h = λ W0 x

    $ make nothing

{FENCE}bash
GLUE_DIR=<a folder> make glue TASK=rte \\
  ARGS="init_from=<run folder>"   # a comment
pip install symlora
{FENCE}

{FENCE}console
$ make help
  make setup
{FENCE}

{FENCE}python
names = set(range(11))
{FENCE}

{FENCE}python
assert len(names) > 10  # the block above ran in the same place
{FENCE}

[this](#a-good-page), [that](page.md), [a site](https://arxiv.org), `scripts/train.py`
"""


def test_each_block_falls_into_its_class(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(GOOD)
    found = list(check_pages([tmp_path / "page.md"], running=False))
    assert [item.how for item in found] == ["text", *["checked"] * 5], found
    assert found[1].what.startswith("1 checked, 1 skipped: GLUE_DIR=placeholder make glue")
    assert "needs a package index" in found[1].what and "needs data, weights or runs" in found[1].what
    assert summary(found) == "0 ran, 5 checked, 0 skipped, 1 text, 0 FAILED"
    (tmp_path / "page.md").write_text(GOOD[GOOD.index(f"{FENCE}console") :])
    assert [item.how for item in check_pages([tmp_path / "page.md"], running=True)] == ["ran", "ran", "ran", FAILED]
    assert found[1].place == "page.md:8" and GOOD.splitlines()[7].startswith("GLUE_DIR")
    assert [rule(words.split()).how for words in ("make help", "make demo", "A=b make glue", "pip install x")] == [  # type: ignore[union-attr]
        RUN,
        CHECK,
        CHECK,
        SKIP,
    ]


def test_python_that_needs_a_hub_is_compiled_and_so_is_what_follows_it(tmp_path: Path) -> None:
    hub = f'{FENCE}python\nmodel = AutoModel.from_pretrained("roberta-base")\n{FENCE}\n'
    (tmp_path / "page.md").write_text(f"{hub}\n{FENCE}python\nmodel.train(1, 2, 3)\n{FENCE}\n")
    assert [item.how for item in check_pages([tmp_path / "page.md"], running=False)] == [SKIP, SKIP, CHECK]


def test_the_formulas_of_the_method_are_so() -> None:
    assert failures(DOCS / "method.md", running=True) == []


def test_commands_are_run_to_the_end() -> None:
    run(["OMP_NUM_THREADS=1", "make", "help"], ROOT)
    with pytest.raises(Wrong, match="exit status 2: .*No rule to make target"):
        run(["make", "nothing"], ROOT)


def test_protocols_page_has_the_tables_that_the_command_prints() -> None:
    assert set(PROTOCOLS) == {path.stem for path in (ROOT / "configs" / "protocol").glob("*.yaml")}
    text = (DOCS / "protocols.md").read_text()
    assert markdown() in text, "paste what `.venv/bin/python scripts/protocols.py` prints"
    assert all(f"| `{name}` |" in text for name in PROTOCOLS)


def test_run_folder_page_names_every_key_and_column() -> None:
    text = (DOCS / "run-folder.md").read_text()
    named = set(re.findall(r"`([\w-]+)`", text))
    folder = next((ROOT / "results" / "runs").glob("short_holdout/minilm/symlora/*/*/seed-0"))
    record = json.loads((folder / "run.json").read_text())
    keys = set(record)
    for part in ("provenance", "parameters", "score", "cost"):
        keys |= set(record[part])
    keys |= set(record["epochs"][0]) | set(record["data"]["train"]) | set(record["selections"])
    for file in ("predictions", "norms"):
        keys |= set(pq.read_schema(folder / f"{file}.parquet").names)
    assert keys <= named, keys - named


def test_submission_page_has_the_files_and_rows() -> None:
    text = (DOCS / "submission.md").read_text()
    rows = re.findall(r"^\| (\S+\.tsv) \| ([\d,]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert [(name, int(count.replace(",", ""))) for name, count, _, _ in rows] == [(f.name, f.rows) for f in files()]
    for (_, _, allowed, source), file in zip(rows, files(), strict=True):
        assert not file.words or set(file.words) == set(re.split(r", | or ", allowed))
        assert file.name == "WNLI.tsv" or source.startswith(f"{file.task}, {file.split}")
    assert f"**{LINES:,} lines**" in text


def test_reproduce_page_counts_rows_and_steps() -> None:
    recipe = yaml.safe_load((ROOT / "configs" / "protocol" / "paper.yaml").read_text())["protocol"]["recipe"]
    text = (DOCS / "reproduce.md").read_text()
    rows = re.findall(r"^\| (\S+) \| ([\d,]+) \| [^|]+ \| [^|]+ \| ([\d,]+) \| (\d+) \|$", text, re.MULTILINE)
    steps, work = 0, 0
    for name, count, total, flop in rows:
        task = name.lower().replace("-", "")
        facts = yaml.safe_load((ROOT / "configs" / "task" / f"{task}.yaml").read_text())
        train = facts["splits"]["train"]
        expected = math.ceil(train / recipe[task]["batch_size"]) * recipe[task]["epochs"]
        assert (count, total) == (f"{train:,}", f"{expected:,}"), name
        steps, work = steps + expected, work + int(flop)
    assert len(rows) == 8 and f"| all | | | | {steps:,} | {work} |" in text


def test_packing_page_lists_what_may_differ() -> None:
    text = (DOCS / "packed-training.md").read_text()
    for part, free in (("run", FREE), ("train", FREE_TRAIN), ("method", FREE_METHOD)):
        assert f"| {part} | {', '.join(free)} |" in text


def test_blocks_know_their_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(GOOD)
    lines = GOOD.splitlines()
    for block in blocks(page):
        assert lines[block.line - 1].strip() == block.text.splitlines()[0].strip()
