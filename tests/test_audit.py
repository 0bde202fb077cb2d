"""Check the audit against other arithmetic and the committed page."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from transformers.optimization import get_linear_schedule_with_warmup

from symlora.audit import arithmetic, audit
from symlora.audit.published import Published, read_published
from symlora.config.compose import compose
from symlora.errors import SymloraError

FOLDER = ROOT / "results" / "published"


@pytest.fixture(scope="module")
def published() -> Published:
    return read_published(FOLDER)


def test_split_sizes_are_those_of_the_task_files(published: Published) -> None:
    for name, task in published.glue.tasks.items():
        facts = yaml.safe_load((ROOT / "configs" / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
        own = [split for split in facts["test"] if split != "ax"]  # the diagnostic set is no part of MNLI's score
        assert (task.metric, task.classes) == (facts["score"], max(len(facts["labels"]), 1))
        assert task.train == facts["splits"]["train"]
        assert task.validation == [facts["splits"][split] for split in facts["validation"]]
        assert task.test == [facts["splits"][split] for split in own]


def test_recipe_is_that_of_protocol_paper(published: Published) -> None:
    for name, recipe in published.lora.recipe.tasks.items():
        train = compose(f"task={name}", "protocol=paper").train
        assert (recipe.lr, recipe.batch, recipe.epochs) == (train.lr, train.batch_size, train.epochs)
        assert recipe.start == published.lora.scores.tasks[name].start
        assert published.lora.facts["weight_decay"].value == train.weight_decay


def test_what_the_words_say_about_missing_numbers(published: Published) -> None:
    """Two sentences of the page name CoLA and STS-B without computing it."""
    test = published.symlora.cells["test"].tasks
    assert [name for name, cell in test.items() if cell.certainty == "computed"] == ["cola", "stsb"]
    for task, lora, loss in (("cola", 63, 4.8), ("stsb", 91, 3.3)):  # the only scores that give the noted losses
        assert [s for s in range(100) if round(100 * (lora - s) / lora, 1) == loss] == [round(100 * test[task].score)]
    lora_column = yaml.safe_load((FOLDER / "symlora.yaml").read_text(encoding="utf-8"))["cells"]["lora"]["tasks"]
    assert [name for name, cell in lora_column.items() if cell.get("half_width", 0) is None] == ["cola", "stsb"]


@given(n=st.integers(1, 3000), cents=st.integers(0, 100))
def test_counts_are_all_shares_that_print_so(n: int, cents: int) -> None:
    shares = range(n + 1)
    assert list(arithmetic.counts(cents, n, "truncated")) == [k for k in shares if 100 * k // n == cents]
    assert list(arithmetic.counts(cents, n, "rounded")) == [k for k in shares if 2 * abs(100 * k - cents * n) <= n]
    near = [k for k in shares if 2 * abs(10_000 * k - 37 * cents * n) <= n]
    assert list(arithmetic.counts(37 * cents, n, "rounded", of=10_000)) == near


@given(width=st.floats(0, 9), printed=st.integers(0, 90))
def test_prints_as_is_rounding_to_one_decimal(width: float, printed: int) -> None:
    if abs(20 * width % 2 - 1) > 1e-6:  # away from ties
        assert arithmetic.prints_as(width, printed / 10) == (f"{width:.1f}" == f"{printed / 10:.1f}")
    assert arithmetic.prints_as(0.25, 0.2) and arithmetic.prints_as(0.25, 0.3)


def test_z_is_the_gap_in_standard_deviations_of_a_simulation() -> None:
    rng = np.random.default_rng(0)
    p, n, q, m = 0.85, 300, 0.6, 2000
    draws = rng.binomial(n, p, 40_000) / n - rng.binomial(m, q, 40_000) / m
    assert arithmetic.two_sample_z(p, n, q, m) == pytest.approx((p - q) / draws.std(), rel=0.02)


def test_decay_is_adamw_under_the_real_schedule() -> None:
    # A parameter whose gradient is always zero, through torch's AdamW and transformers' schedule.
    rows, batch, epochs, lr, decay = 1000, 16, 20, 0.05, 0.1
    steps = math.ceil(rows / batch) * epochs
    scale = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([scale], lr=lr, weight_decay=decay)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.06 * steps), steps)
    total = 0.0
    for _ in range(steps):
        scale.grad = torch.zeros_like(scale)
        total += optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
    assert arithmetic.learning_rate_sum(rows, batch, epochs, lr) == pytest.approx(total, rel=1e-9)
    assert arithmetic.decayed(decay, total) == pytest.approx(float(scale.detach()), rel=0.02)


def test_parameters_are_those_of_layers_and_of_loras_file(published: Published) -> None:
    counted = audit.parameters(published)
    head = torch.nn.ModuleList([torch.nn.Linear(768, 768), torch.nn.Linear(768, 3)])
    assert counted["head"][3] == sum(p.numel() for p in head.parameters())
    assert counted["symlora"] == 24 * (768 * 8 + 8 + 1)
    assert counted["lora"] + counted["head"][3] == 887_811  # LoRA's release


def test_norm_ratios_are_their_expectations() -> None:
    full, symmetric, product = arithmetic.norm_ratios(768, 8, seed=0)
    assert full == pytest.approx(768 * math.sqrt(2 / math.pi), rel=2e-3)
    assert 540 < symmetric < product < 613


def test_eleven_of_twelve_accuracies_are_bernoulli(published: Published) -> None:
    found = {(each.task, each.split): each for each in audit.intervals(published)}
    assert len(found) == 12
    assert [key for key, each in found.items() if not each.fit("A", "truncated")] == [("mrpc", "validation")]
    assert found["rte", "validation"].fit("A", "truncated") == [237, 238]
    assert not any(each.explained("B", rule) for each in found.values() for rule in arithmetic.RULES)
    for split in ("validation", "test"):  # MNLI's ± is over both halves, not over the matched one
        mnli = found["mnli", split]
        assert mnli.fit("A", "truncated") and not mnli.fit("A", "truncated", mnli.sizes[0])
    cola = published.symlora.cells["validation"].tasks["cola"]
    ways = (arithmetic.bernoulli, arithmetic.as_printed)
    assert cola.score == 0.63 and [f"{way(0.63, 1043):.2f}" for way in ways] == ["2.93", "1.41"]
    assert [arithmetic.fits_correlation(63, 2.9, 1043, way) for way in ways] == [True, False]


def test_the_page_is_the_committed_one(published: Published) -> None:
    """Read the verdicts again when this fails: their words are typed."""
    assert audit.audit_markdown(published).encode() == (ROOT / "results" / "audit.md").read_bytes()


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("symlora", "mrpc: {score: 0.88, half_width: 1.5", "mrpc: {score: 0.88, half_width: 3.1", "12 of 12 acc"),
        ("symlora", "stsb: {score: 0.90, half_width: 0.5", "stsb: {score: 0.90, half_width: 0.9", "1 of 4 give"),
        ("symlora", "mnli: {score: 0.87}", "mnli: {score: 0.88}", "Truncation gives 7 of 8"),
        ("symlora", "rte: {score: 0.78", "rte: {score: 0.80", "0.86 - 0.80 = 0.06 = 6 points"),
        ("symlora", "sst2: 94.95", "sst2: 94.90", "QNLI could be a single run"),
        ("lora", "value: 0.1,", "value: 0.01,", "| 184.08 | 0.16 |"),  # exp(-0.01 · 184.08)
        ("lora", "rank: {value: 8", "rank: {value: 4", "| 147,456 | 73,848 | 0.5008 |"),
        ("lora", "rte: {score: 86.6", "rte: {score: 86.9", "a difference of 8.5 points"),
        ("glue", "train: 8551", "train: 855", "| 32 × 2 | 80 | 0.43 |"),  # 4e-4 · 27 · 80 / 2
        ("others", "rte: 78.4", "rte: 79.4", "at least 5.6 points above"),
    ],
)
def test_another_printed_number_gives_another_page(tmp_path: Path, file: str, old: str, new: str, found: str) -> None:
    _edit(tmp_path, file, lambda text: text.replace(old, new, 1))
    assert found not in (ROOT / "results" / "audit.md").read_text(encoding="utf-8")
    assert found in audit.audit_markdown(read_published(tmp_path))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text[: len(text) // 2] + "\n  {", "line"),
        (lambda text: text.replace("train: 3668", "train: many"), "tasks.mrpc.train"),
        (lambda text: text.replace("train: 3668, ", ""), "tasks.mrpc.train"),
        (lambda text: text.replace("train: 3668", "trian: 3668"), "tasks.mrpc.trian"),
        (lambda text: "[]", "Glue"),
    ],
)
def test_a_broken_file_is_named_with_its_key(tmp_path: Path, change: Callable[[str], str], named: str) -> None:
    _edit(tmp_path, "glue", change)
    with pytest.raises(SymloraError, match=rf"glue\.yaml.*{named}"):
        read_published(tmp_path)


def _edit(folder: Path, file: str, change: Callable[[str], str]) -> None:
    """Copy the published files, with one of them changed."""
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    path = folder / f"{file}.yaml"
    before = path.read_text(encoding="utf-8")
    path.write_text(change(before), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
