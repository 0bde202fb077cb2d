"""Write the audit of the SymLoRA paper's printed numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, StrictUndefined
from scipy.stats import norm

from symlora.audit import arithmetic
from symlora.audit.names import TASKS
from symlora.audit.published import Published

SEED = 0  # of the random matrices for the ratio of norms
TEMPLATE = Path(__file__).with_name("audit.md.j2")


def audit_markdown(published: Published) -> str:
    """Render results/audit.md: claim, arithmetic, verdict and source of each finding."""
    findings = (
        formulas, mrpc, stsb, two_kinds, lora_column, rte, losses, drops, norms, parameters, decay, mnli_start, reruns,
    )  # fmt: skip
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["fmt"] = format
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        names=TASKS,
        published=published,
        cents={column: _cents(published, column) for column in published.symlora.cells},
        **arithmetic.FORMULAS,
        **{numbers.__name__: numbers(published) for numbers in findings},
    )


@dataclass(frozen=True)
class PrintedInterval:
    """A score with its ± in Table 1."""

    task: str
    split: str
    score: float
    half_width: float
    sizes: tuple[int, ...]  # numbers of examples that the ± may be over; for MNLI: the matched half, both halves
    n: int  # of the split, for MNLI of both halves

    def fit(self, formula: str, rule: str, n: int | None = None) -> list[int]:
        """List the counts of correct answers that give the ±."""
        n, width = n or self.n, arithmetic.FORMULAS[formula]
        shares = arithmetic.counts(round(100 * self.score), n, rule)
        return [k for k in shares if arithmetic.prints_as(width(k / n, n), self.half_width)]

    def explained(self, formula: str, rule: str) -> bool:
        """Tell whether the formula gives the ± over one of the sizes."""
        return any(self.fit(formula, rule, n) for n in self.sizes)

    def allowed(self) -> Sequence[int]:
        """List the counts that score and ± allow."""
        return self.fit("A", "truncated") or arithmetic.counts(round(100 * self.score), self.n, "truncated")


def intervals(published: Published) -> list[PrintedInterval]:
    """List SymLoRA's accuracies that have a ±."""
    found = []
    for name, task in published.glue.tasks.items():
        for split, rows in (("validation", task.validation), ("test", task.test)):
            cell = published.symlora.cells[split].tasks[name]
            if task.metric == "accuracy" and cell.half_width is not None:
                found.append(PrintedInterval(name, split, cell.score, cell.half_width, (rows[0], sum(rows)), sum(rows)))
    return found


def formulas(published: Published) -> dict[str, Any]:
    """Find the accuracies whose ± formulas A and B explain."""
    found = intervals(published)
    explained = {
        (formula, rule): [each for each in found if each.explained(formula, rule)]
        for rule in arithmetic.RULES
        for formula in arithmetic.FORMULAS
    }
    best = explained["A", "truncated"]
    return {
        "intervals": found,
        "explained": {key: len(hits) for key, hits in explained.items()},
        "not_explained": [each for each in found if each not in best],
        "only_truncated": [each for each in best if each not in explained["A", "rounded"]],
    }


def mrpc(published: Published) -> list[float]:
    """Compute the smallest and largest A on MRPC's validation rows."""
    n, cents = published.glue.tasks["mrpc"].validation[0], _cents(published, "validation")["mrpc"]
    widths = [arithmetic.bernoulli(k / n, n) for k in arithmetic.counts(cents, n, "truncated")]
    return [min(widths), max(widths)]


def stsb(published: Published) -> dict[str, tuple[float, bool]]:
    """Compute STS-B's ± in four ways; tell which fit the printed one."""
    cell, n = published.symlora.cells["validation"].tasks["stsb"], published.glue.tasks["stsb"].validation[0]
    cents, printed = round(100 * cell.score), cell.half_width or math.nan
    return {
        name: (way(cell.score, n), arithmetic.fits_correlation(cents, printed, n, way))
        for name, way in arithmetic.CORRELATION.items()
    }


def two_kinds(published: Published) -> dict[str, Any]:
    """Compute A for LoRA's accuracies, and count LoRA's ± that agree."""
    scores = published.lora.scores.tasks
    rows = {name: sum(task.validation) for name, task in published.glue.tasks.items() if task.metric == "accuracy"}
    widths = {name: arithmetic.bernoulli(scores[name].score / 100, n) for name, n in rows.items()}
    agree = sum(arithmetic.prints_as(width, scores[name].half_width) for name, width in widths.items())
    return {"widths": widths, "agree": agree}


def lora_column(published: Published) -> dict[str, Any]:
    """Compare the LoRA column with LoRA's own table."""
    exact = {task: row.score for task, row in published.lora.scores.tasks.items()}
    printed, ours = _cents(published, "lora"), _cents(published, "validation")
    truncated, rounded = ({task: how(score) for task, score in exact.items()} for how in (math.floor, round))
    return {
        "truncated": truncated,
        "rounded": rounded,
        "least_loss": {task: score - (ours[task] + 1) for task, score in exact.items()},
        "agrees_truncated": sum(truncated[task] == printed[task] for task in exact),
        "differs_rounded": sum(rounded[task] != printed[task] for task in exact),
        "printed_mean": fmean(printed.values()),
        "exact_mean": fmean(exact.values()),
        "worst": max((score % 1, task) for task, score in exact.items()),
    }


def rte(published: Published) -> list[tuple[float, float, float]]:
    """Compute RTE's relative losses: base, whole, (base - test) / whole in percent."""
    test, lora = (_cents(published, column)["rte"] for column in ("test", "lora"))
    pairs = [(base, whole) for base in (lora, published.lora.scores.tasks["rte"].score) for whole in (base, test)]
    return [(base, whole, 100 * (base - test) / whole) for base, whole in pairs]


def losses(published: Published) -> dict[str, Any]:
    """Compute (LoRA - SymLoRA) / LoRA per split and task, in percent."""
    lora = _cents(published, "lora")
    validation, test = (
        {task: 100 * (lora[task] - ours) / lora[task] for task, ours in _cents(published, split).items()}
        for split in ("validation", "test")
    )
    others = {task: loss for task, loss in test.items() if task != "rte"}
    return {"validation": validation, "test": test, "others": others, "largest": max(others, key=others.__getitem__)}


def drops(published: Published) -> list[dict[str, Any]]:
    """Test each task's smallest possible fall from validation to test."""
    found = {(each.task, each.split): each for each in intervals(published)}
    rows, tasks = [], [task for task, split in found if split == "test"]
    for task in tasks:
        here, there = found[task, "validation"], found[task, "test"]
        k, j = here.allowed()[0], there.allowed()[-1]
        z = arithmetic.two_sample_z(k / here.n, here.n, j / there.n, there.n)
        corrected = min(1.0, 2 * float(norm.sf(abs(z))) * len(tasks))
        rows.append({"task": task, "k": k, "n": here.n, "j": j, "m": there.n, "z": z, "p": corrected})
    return rows


def norms(published: Published) -> dict[str, Any]:
    """Compare Σ |w| with the Frobenius norm of random matrices."""
    n, r = _facts(published, "hidden_size", "rank")
    full, *low_rank = ratios = arithmetic.norm_ratios(n, r, SEED)
    return {"n": n, "r": r, "seed": SEED, "ratios": ratios, "excess": [100 * (full / x - 1) for x in low_rank]}


def parameters(published: Published) -> dict[str, Any]:
    """Count the weights of both adapters, and of heads by outputs."""
    n, r, layers, projections = _facts(published, "hidden_size", "rank", "layers", "projections")
    matrices = layers * projections
    lora, symlora = 2 * n * r * matrices, ((n + 1) * r + 1) * matrices  # A and B; Q, Λ and λ
    head = {outputs: n * n + n + (n + 1) * outputs for outputs in (1, 2, 3)}  # RoBERTa's: dense and output
    return {"n": n, "r": r, "matrices": matrices, "lora": lora, "symlora": symlora, "head": head}


def decay(published: Published) -> dict[str, dict[str, float]]:
    """Compute what weight decay alone leaves of λ, task by task."""
    found, weight_decay = {}, published.lora.facts["weight_decay"].value
    for task, recipe in published.lora.recipe.tasks.items():
        rows, batches = published.glue.tasks[task].train, (recipe.batch, recipe.batch * recipe.devices)
        sums = [arithmetic.learning_rate_sum(rows, batch, recipe.epochs, recipe.lr) for batch in batches]
        one, every = (arithmetic.decayed(weight_decay, total) for total in sums)
        found[task] = {"lr_sum": sums[0], "one_device": one, "all_devices": every}
    return found


def mnli_start(published: Published) -> dict[str, Any]:
    """Find other papers' scores where LoRA starts from MNLI's adapter."""
    rows, lora, best = published.others.rows, {}, {}
    for task in (task for task, row in published.lora.scores.tasks.items() if row.start == "mnli"):
        plain = [(row.tasks[task], row.method) for row in rows if row.start == "none" and task in row.tasks]
        lora[task] = [score for score, method in plain if method.startswith("LoRA")]
        best[task] = max(plain)
    best_rte = max((row.tasks["rte"], row.method) for row in rows if row.start != "mnli" and "rte" in row.tasks)
    return {"lora": lora, "best": best, "best_rte": best_rte}


def reruns(published: Published) -> list[dict[str, Any]]:
    """Compare LoRA at length 128 with LoRA's own table."""
    rows = []
    for task, score in published.symlora.reruns.tasks.items():
        facts, exact = published.glue.tasks[task], published.lora.scores.tasks[task].score
        n = sum(facts.validation)
        # k of n stands where the score, of two decimals, can be one run's accuracy.
        k = arithmetic.counts(round(100 * score), n, "rounded", of=10_000) if facts.metric == "accuracy" else []
        rows.append({"task": task, "published": exact, "rerun": score, "k": k[0] if k else None, "n": n})
    return rows


def _cents(published: Published, column: str) -> dict[str, int]:
    """Return a column's scores in whole hundredths."""
    return {task: round(100 * cell.score) for task, cell in published.symlora.cells[column].tasks.items()}


def _facts(published: Published, *names: str) -> list[int]:
    return [int(published.lora.facts[name].value) for name in names]
