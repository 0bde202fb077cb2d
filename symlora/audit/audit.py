"""Write the audit of the SymLoRA paper: what follows from the numbers that it and LoRA printed."""

import math
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
    """Render the page results/audit.md: claim, arithmetic, verdict and source of each finding."""
    findings = (
        formulas, mrpc, stsb, two_kinds, lora_column, rte, losses, drops, norms, parameters, decay, mnli_start, reruns,
    )  # fmt: skip
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["fmt"] = format
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        names=TASKS,
        published=published,
        A=arithmetic.bernoulli,
        B=arithmetic.as_printed,
        **{numbers.__name__: numbers(published) for numbers in findings},
    )


@dataclass(frozen=True)
class PrintedInterval:
    """A score with its ± in Table 1.

    Attributes:
        sizes: The numbers of examples that the ± may be over. For MNLI: the matched half, both halves.
    """

    task: str
    split: str
    score: float
    half_width: float
    sizes: tuple[int, ...]

    @property
    def n(self) -> int:
        """Return the examples of the split, for MNLI of both halves."""
        return self.sizes[-1]

    def fit(self, formula: str, rule: str, n: int | None = None) -> list[int]:
        """List the counts of correct answers that give the ± over n examples (default: the split's)."""
        width = arithmetic.FORMULAS[formula]
        return arithmetic.fitting_counts(self.score, self.half_width, n or self.n, rule, width)

    def explained(self, formula: str, rule: str) -> bool:
        """Tell whether the formula gives the ± over one of the sizes."""
        return any(self.fit(formula, rule, n) for n in self.sizes)


def intervals(published: Published) -> list[PrintedInterval]:
    """List SymLoRA's accuracies that have a ±."""
    found = []
    for name, task in published.glue.tasks.items():
        for split, rows in (("validation", task.validation), ("test", task.test)):
            cell = published.symlora.cells[split].tasks[name]
            if task.metric == "accuracy" and cell.half_width is not None:
                sizes = (rows[0], sum(rows)) if len(rows) > 1 else (rows[0],)
                found.append(PrintedInterval(name, split, cell.score, cell.half_width, sizes))
    return found


def formulas(published: Published) -> dict[str, Any]:
    """Count the accuracies whose ± formulas A and B explain, under both readings of the score."""
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
    n, score = published.glue.tasks["mrpc"].validation[0], published.symlora.cells["validation"].tasks["mrpc"].score
    widths = [arithmetic.bernoulli(k / n, n) for k in arithmetic.counts(score, n, "truncated")]
    return [min(widths), max(widths)]


def stsb(published: Published) -> dict[str, tuple[float, bool]]:
    """Compute four half-widths for STS-B, and whether each can be the printed one."""
    cell, n = published.symlora.cells["validation"].tasks["stsb"], published.glue.tasks["stsb"].validation[0]
    ways = {**arithmetic.FORMULAS, "standard_error": arithmetic.standard_error, "fisher": arithmetic.fisher}
    printed = cell.half_width or math.nan
    return {
        name: (way(cell.score, n), arithmetic.fits_correlation(cell.score, printed, n, way))
        for name, way in ways.items()
    }


def two_kinds(published: Published) -> dict[str, Any]:
    """Compute A for LoRA's own accuracies, and how many of LoRA's ± it gives."""
    scores = published.lora.scores.tasks
    rows = {name: sum(task.validation) for name, task in published.glue.tasks.items() if task.metric == "accuracy"}
    widths = {name: arithmetic.bernoulli(scores[name].score / 100, n) for name, n in rows.items()}
    agree = sum(arithmetic.prints_as(width, scores[name].half_width) for name, width in widths.items())
    return {"widths": widths, "agree": agree}


def lora_column(published: Published) -> dict[str, Any]:
    """Compare the LoRA column with LoRA's own table."""
    exact = {task: row.score for task, row in published.lora.scores.tasks.items()}
    printed, ours = _hundredths(published, "lora"), _hundredths(published, "validation")
    return {
        "truncated": {task: math.floor(score) for task, score in exact.items()},
        "rounded": {task: round(score) for task, score in exact.items()},
        "least_loss": {task: score - (ours[task] + 1) for task, score in exact.items()},
        "agrees_truncated": sum(math.floor(exact[task]) == printed[task] for task in exact),
        "differs_rounded": sum(round(exact[task]) != printed[task] for task in exact),
        "printed_mean": fmean(printed.values()),
        "exact_mean": fmean(exact.values()),
        "worst": max((score % 1, task) for task, score in exact.items()),
    }


def rte(published: Published) -> dict[str, Any]:
    """Compute RTE's relative losses (base - test) / whole, in percent."""
    validation, test, lora = (_hundredths(published, column)["rte"] for column in ("validation", "test", "lora"))
    pairs = [(base, whole) for base in (lora, published.lora.scores.tasks["rte"].score) for whole in (base, test)]
    relative = [(base, whole, 100 * (base - test) / whole) for base, whole in pairs]
    return {"validation": validation, "test": test, "lora": lora, "relative": relative}


def losses(published: Published) -> dict[str, Any]:
    """Compute (LoRA - SymLoRA) / LoRA per split and task, in percent; others is test without RTE."""
    lora = _hundredths(published, "lora")
    validation, test = (
        {task: 100 * (lora[task] - ours) / lora[task] for task, ours in _hundredths(published, split).items()}
        for split in ("validation", "test")
    )
    others = {task: loss for task, loss in test.items() if task != "rte"}
    return {"validation": validation, "test": test, "others": others, "largest": max(others, key=others.__getitem__)}


def drops(published: Published) -> list[dict[str, Any]]:
    """Test each task's fall from validation to test, with the counts that make it smallest."""
    found = {(each.task, each.split): each for each in intervals(published)}
    tasks = [task for task, split in found if split == "test"]
    rows = []
    for task in tasks:
        here, there = found[task, "validation"], found[task, "test"]
        k = min(here.fit("A", "truncated") or arithmetic.counts(here.score, here.n, "truncated"))
        j = max(there.fit("A", "truncated") or arithmetic.counts(there.score, there.n, "truncated"))
        z = arithmetic.two_sample_z(k / here.n, here.n, j / there.n, there.n)
        corrected = min(1.0, 2 * float(norm.sf(abs(z))) * len(tasks))
        rows.append({"task": task, "k": k, "n": here.n, "j": j, "m": there.n, "z": z, "p": corrected})
    return rows


def norms(published: Published) -> dict[str, Any]:
    """Compare Σ |w| with the Frobenius norm of random matrices."""
    n, r = (int(published.lora.facts[name].value) for name in ("hidden_size", "rank"))
    full, *low_rank = ratios = arithmetic.norm_ratios(n, r, SEED)
    return {"n": n, "r": r, "seed": SEED, "ratios": ratios, "excess": [100 * (full / x - 1) for x in low_rank]}


def parameters(published: Published) -> dict[str, Any]:
    """Count the weights of both adapters, and of the head by its number of outputs."""
    names = ("hidden_size", "rank", "layers", "projections")
    n, r, layers, projections = (int(published.lora.facts[name].value) for name in names)
    size = {"n": n, "r": r, "matrices": layers * projections}
    head = {outputs: arithmetic.head_parameters(n, outputs) for outputs in (1, 2, 3)}
    lora, symlora = arithmetic.lora_parameters(**size), arithmetic.symlora_parameters(**size)
    return {**size, "lora": lora, "symlora": symlora, "head": head}


def decay(published: Published) -> dict[str, dict[str, float]]:
    """Compute per task what weight decay alone leaves of λ, on one device and on all."""
    found = {}
    for task, recipe in published.lora.recipe.tasks.items():
        one, every = (
            arithmetic.learning_rate_sum(published.glue.tasks[task].train, batch, recipe.epochs, recipe.lr)
            for batch in (recipe.batch, recipe.batch * recipe.devices)
        )
        left = [arithmetic.decayed(published.lora.facts["weight_decay"].value, total) for total in (one, every)]
        found[task] = {"lr_sum": one, "one_device": left[0], "all_devices": left[1]}
    return found


def mnli_start(published: Published) -> dict[str, Any]:
    """Find the scores of other papers for the tasks on which LoRA starts from MNLI's adapter."""
    rows, lora, best = published.others.rows, {}, {}
    for task in (task for task, row in published.lora.scores.tasks.items() if row.start == "mnli"):
        plain = [(row.tasks[task], row.method) for row in rows if row.start == "none" and task in row.tasks]
        lora[task] = [score for score, method in plain if method.startswith("LoRA")]
        best[task] = max(plain)
    best_rte = max((row.tasks["rte"], row.method) for row in rows if row.start != "mnli" and "rte" in row.tasks)
    return {"lora": lora, "best": best, "best_rte": best_rte}


def reruns(published: Published) -> list[dict[str, Any]]:
    """Compare LoRA at length 128 with LoRA's own table; k of n where it can be one run's accuracy."""
    rows = []
    for task, score in published.symlora.reruns.tasks.items():
        facts, exact = published.glue.tasks[task], published.lora.scores.tasks[task].score
        n = sum(facts.validation)
        k = arithmetic.as_share(score, n) if facts.metric == "accuracy" else []
        rows.append({"task": task, "published": exact, "rerun": score, "k": k[0] if k else None, "n": n})
    return rows


def _hundredths(published: Published, column: str) -> dict[str, int]:
    return {task: arithmetic.hundredths(cell.score) for task, cell in published.symlora.cells[column].tasks.items()}
