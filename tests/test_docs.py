"""The documentation shows what there is: commands, links, tables. `make docs-check` runs what is only checked here."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from symlora.config.identity import _FREE, _FREE_METHOD, _FREE_TRAIN
from symlora.docs_check.arguments import Wrong
from symlora.docs_check.check import FAILED, check_pages, pages, summary
from symlora.docs_check.commands import ROOT, run
from symlora.docs_check.pages import blocks, inlines
from symlora.docs_check.rules import CHECK, RUN, SKIP, rule
from symlora.protocols import PROTOCOLS, markdown
from symlora.submission.files import LINES, files

DOCS = ROOT / "docs"


def failures(page: Path, running: bool = False) -> list[str]:
    return [f"{item.place} {item.what}" for item in check_pages([page], running=running) if item.how == FAILED]


def test_what_the_readme_shows_works() -> None:
    """The other pages are `make docs-check`'s."""
    assert ROOT / "README.md" in pages() and failures(ROOT / "README.md") == []


FENCE = "```"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("    make nothing\n", "`make nothing`: no rule for it"),
        ("    make sweeps TASK=rte\n", "no rule for it"),
        ("    make glue TSK=rte\n", "the Makefile has no variable TSK"),
        ("    make glue TASK=rtf\n", "Could not find 'task/rtf'"),
        ('    make glue ARGS="train.learning_rate=1"\n', "learning_rate"),
        ('    make glue ARGS="train.lr=-1"\n', "train.lr=-1.0: give a learning rate above 0"),
        ('    make study ARGS="train.lrs=1"\n', "lrs"),
        ("    make report ARGS=--strictly\n", "report.py: error: unrecognized arguments: --strictly"),
        ("    python scripts/none.py --help\n", "scripts/none.py is not there"),
        ("    torchrun --nproc-per-node 2 train.py\n", "train.py is not there"),
        ("    accelerate launch --num-processes 2\n", "arguments are required: training_script"),
        ("    python -m pytest -q tests/test_none.py\n", "tests/test_none.py is not there"),
        ("    symlora export x y --onto lora\n", "arguments are required: --to"),
        (f"{FENCE}bash\nrm -rf results\n{FENCE}\n", "`rm -rf results`: no rule for it"),
        (f"{FENCE}bash\n# nothing\n{FENCE}\n", "no command in it"),
        (f"{FENCE}bash\nmake glue TASK='rte\n{FENCE}\n", "No closing quotation"),
        (f"{FENCE}console\n$ make nothing\noutput\n{FENCE}\n", "`make nothing`: no rule for it"),
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


WRONG = [
    ("symlora export a b --to nonsense", "invalid choice: 'nonsense'"),
    ("symlora export a b --to merged --rank two", "--rank: invalid int value: 'two'"),
    ("symlora export a", "arguments are required: out, --to"),
    ("symlora export a b --to merged|lore", "invalid choice: 'lore'"),
    ("symlora import a b", "invalid choice: 'import'"),
    ("python -m symlora export a b --to nonsense", "invalid choice: 'nonsense'"),
    ("python scripts/export.py a b --to nonsense", "invalid choice: 'nonsense'"),
    ("python scripts/examples/trainer.py --task nonsense", "invalid choice: 'nonsense'"),
    ("python scripts/examples/accelerate_loop.py --steps 5", "unrecognized arguments: --steps 5"),
    ("accelerate launch scripts/examples/accelerate_loop.py --task cola", "invalid choice: 'cola'"),
    ("accelerate launch --nonsense scripts/examples/accelerate_loop.py", "unrecognized arguments: --nonsense"),
    ("accelerate launch --num-processes four scripts/train.py", "invalid int value: 'four'"),
    ("torchrun --nonsense 4 scripts/train.py task=mnli", "arguments: --nonsense"),
    ("torchrun --nproc-per-node 4 scripts/train.py task=nope", "Could not find 'task/nope'"),
    ("python scripts/train.py --nonsense", "unrecognized arguments: --nonsense"),
    ("python scripts/train.py task=rte seed=0,1", "seed=0,1: several values need -m"),
    ("python scripts/submission.py --protocol", "--protocol: expected one argument"),
    ("python scripts/submission.py --protocol nope", "nope: there is no such protocol"),
    ("python scripts/report.py --strict", "arguments are required: command"),
    ("python scripts/report.py table2", "invalid choice: 'table2'"),
    ("make report ARGS=--out", "--out: expected one argument"),
    ("make study TASKS=nope", "nope: there is no such task in configs/task"),
    ("make study TASKS='rte wnly'", "wnly: there is no such task"),
    ("make study ARGS='--methods symlora,nope'", "nope: there is no such method"),
    ("make study TASKS=rte N=none", "none: give a whole number"),
    ("make study TASKS=rte ARGS=train.lr=-1", "train.lr=-1.0: give a learning rate above 0"),
    ("make select TASK=rte WIDEN='--widen --axis width'", "invalid choice: 'width'"),
    ("make demo TASK=rte", "`make demo` heeds no TASK"),
    ("make methods ARGS='--method nope'", "nope: there is no such method"),
    ("make bench ARGS='--runs one'", "invalid _numbers value: 'one'"),
    ("make faults ARGS=--nonsense", "unrecognized arguments: --nonsense"),
    ("python -m pytest --nonsense tests", "pytest has no option --nonsense"),
]
RIGHT = [
    "symlora export <adapter> <out> --to merged|lora|symlora",
    "symlora export <file> out --to lora --alpha <α> --base <name>",
    "python scripts/examples/trainer.py --task <task> --max-steps <steps>",
    "accelerate launch --num-processes <n> scripts/examples/accelerate_loop.py --task rte",
    "torchrun --standalone --nproc-per-node=2 scripts/train.py task=mnli",
    "python scripts/train.py task=<task> method=<method> seed=<k> model=minilm protocol=short",
    "python scripts/train.py -m task=rte seed=0,1",
    "python scripts/submission.py --protocol <protocol>",
    "make study TASKS='cola,rte' MODEL=minilm [N=3]",
    "make study MODEL=local ARGS='model.name=<name> model.path=<folder>'",
    "make faults ARGS='--kills 20 --bad 40'",
    "make glue TASK=cola|rte ARGS='train.lr=… seed=<seed>'",
]


@pytest.mark.parametrize(("command", "says"), WRONG, ids=[command for command, _ in WRONG])
def test_a_wrong_command_is_found_in_a_block_and_in_the_text(tmp_path: Path, command: str, says: str) -> None:
    (tmp_path / "page.md").write_text(
        f"# Page\n\nText\nand `{command}`.\n\n{FENCE}bash\nmake help\n{command}\n{FENCE}\n"
    )
    found = failures(tmp_path / "page.md")
    assert [line.split()[0] for line in found] == ["page.md:8", "page.md:4"], found
    assert all(says in line for line in found), found


@pytest.mark.parametrize("command", RIGHT)
def test_a_right_command_is_checked_in_a_block_and_in_the_text(tmp_path: Path, command: str) -> None:
    (tmp_path / "page.md").write_text(f"`{command}`\n\n{FENCE}bash\n{command}\n{FENCE}\n")
    found = [item for item in check_pages([tmp_path / "page.md"], running=False)]
    assert [item.how for item in found] == [CHECK] * 3, found
    assert found[1].what == "1 commands and settings in the text"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("make nothing", "no rule for it"),
        ("make glue TASK='rte", "No closing quotation"),
        ("python scripts/none.py", "scripts/none.py is not there"),
        ("scripts/runs.py --sort", "unrecognized arguments: --sort"),
        ("method.lambda_decay=half", "method.lambda_decay=half: unknown"),
        ("method.lamda_decay=zero", "lamda_decay"),
        ("train.lr=fast", "fast"),
        ("train.epoch=…", "epoch"),
        ("sweep=girds", "Could not find 'sweep/girds'"),
        ("force=perhaps", "perhaps"),
        ("hydra/launcher=pack", "pack"),
        ("logger.mode=online|ofline", "logger.mode=ofline: unknown"),
        ('ARGS="init_form=<run folder>"', "fits no target of the Makefile: .*init_form"),
        ("ARGS=--as-papers", "fits no target of the Makefile"),
        ("ARG=--as-paper", "the Makefile has no variable ARG: is it ARGS?"),
        ("TASKS=nope", "nope: there is no such task"),
        ("N=none", "fits no target"),
    ],
)
def test_what_is_wrong_in_the_text_is_found(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "page.md").write_text(f"A `word`, and\n`{text}`.\n")
    found = failures(tmp_path / "page.md")
    assert len(found) == 1 and found[0].startswith("page.md:2 ") and re.search(says, found[0]), found


INLINE = """The `key=value` of `status=failed` or `status: failed` is prose, as are `make`, `python`, `python 3.12`,
`task_type="SEQ_CLS"`, `train_lambda=False`, `OMP_NUM_THREADS=1`, `GLUE_DIR=<folder>`, `import symlora` and `x = 'y`.

Settings and commands: `method.lambda_decay=zero`, `train.lr=1e-3`, `train.lr=…`, `force=true`, `sweep=grid`,
`precision=fp32`, `init_from=<run folder>`, `seed=0,1,2`, `hydra/launcher=packed`, `hydra.launcher.inner=auto|basic`,
`protocol.selection=held_out`, `ARGS="init_from=<run folder>"`, `ARGS="train.lr=1e-4,1e-3"`, `ARGS=--as-paper`, `N=3`,
`TASKS="cola rte"`, `MODEL=local ARGS="model.name=<name> model.path=<folder>"`, `symlora export`,
`python scripts/export.py`, `accelerate launch`, `pip install symlora`, `make faults`,
`scripts/train.py -m sweep=methods`.
"""


def test_prose_is_no_command_and_settings_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(INLINE)
    assert failures(page) == []
    prose, shown = INLINE.split("Settings and commands")
    page.write_text(prose)
    assert [item.what for item in check_pages([page], running=False)] == ["0 links and names of files"]
    page.write_text(shown)
    count = len(list(inlines(page)))
    assert next(check_pages([page], running=False)).what == f"{count} commands and settings in the text"


def test_code_in_the_text_knows_its_line(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("`a`\n\n- `b` and `c\n  d`\n  `b`\n\n> `e`\n> `f`\n")
    assert list(inlines(tmp_path / "page.md")) == [(1, "a"), (3, "b"), (3, "c d"), (5, "b"), (7, "e"), (8, "f")]


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
    for part, free in (("run", _FREE), ("train", _FREE_TRAIN), ("method", _FREE_METHOD)):
        assert f"| {part} | {', '.join(free)} |" in text


def test_blocks_know_their_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(GOOD)
    lines = GOOD.splitlines()
    for block in blocks(page):
        assert lines[block.line - 1].strip() == block.text.splitlines()[0].strip()
