"""Findings about the ± of the SymLoRA paper's Table 1: what they are, and over what."""

from collections.abc import Iterator
from dataclasses import dataclass

from symlora.report import audit_checks as checks
from symlora.report.finding import Finding, Grid
from symlora.report.names import TASKS as NAMES
from symlora.report.published import TASKS, Cell, Published
from symlora.stats.intervals import fisher_z
from symlora.stats.rounding import round_points

SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Place:
    """One ± of Table 1 beside the numbers of examples that it may be over: what they are → how many."""

    task: str
    split: str
    cell: Cell
    half_width: float
    sizes: dict[str, int]

    @property
    def name(self) -> str:
        """As a reader knows it: "SST-2 validation"."""
        return f"{NAMES[self.task]} {self.split}"

    @property
    def own_size(self) -> int:
        """Of the whole split, all its parts pooled."""
        return list(self.sizes.values())[-1]

    def fit(self, rule: checks.Rule, formula: str) -> tuple[str, tuple[int, ...]] | None:
        """The first size under which the formula gives this ±, and the counts of correct answers that do it."""
        for what, n in self.sizes.items():
            found = checks.fitting_counts(self.cell.score, self.half_width, n, rule, formula)
            if found:
                return what, found
        return None


def places(published: Published, metric: str) -> list[Place]:
    """The cells of SymLoRA's own columns that have a ± and this metric."""
    found = []
    for task in TASKS:
        facts = published.tasks[task]
        for split, rows in zip(SPLITS, (facts.validation, facts.test), strict=True):
            cell = published.cells[split][task]
            if facts.metric == metric and cell.half_width is not None:
                sizes = {split: rows[0]} if len(rows) == 1 else {"matched": rows[0], "matched + mismatched": sum(rows)}
                found.append(Place(task, split, cell, cell.half_width, sizes))
    return found


def findings(published: Published) -> Iterator[Finding]:
    """In the order of the report."""
    yield formula(published)
    yield from copied(published)
    yield from proportions(published)
    yield from correlations(published)
    yield two_kinds(published)


def sources(published: Published, *columns: str) -> str:
    """Where columns of Table 1 come from, and how they are known."""
    first = [next(iter(published.cells[column].values())) for column in columns]
    return "; ".join(f"{cell.source} ({cell.certainty})" for cell in first)


def formula(published: Published) -> Finding:
    """Which formula, over how many examples, with which reading of the score, gives each ±."""
    accuracy = places(published, "accuracy")
    hits = {(rule, name): [p.fit(rule, name) for p in accuracy] for rule in checks.RULES for name in checks.FORMULAS}
    count = {key: sum(fit is not None for fit in fits) for key, fits in hits.items()}
    rule, name = max(count, key=lambda key: count[key])
    best, n = count[rule, name], len(accuracy)
    misses = [place for place, fit in zip(accuracy, hits[rule, name], strict=True) if fit is None]
    only = [p for p, fit in zip(accuracy, hits[rule, name], strict=True) if fit and not p.fit("rounded", name)]
    rows = []
    for place, fit in zip(accuracy, hits[rule, name], strict=True):
        size = place.sizes[fit[0]] if fit else place.own_size
        value, points = place.cell.score, place.half_width
        rows.append(
            (
                place.name,
                f"{value:.2f} ± {points}",
                f"{size:,}" + (f" ({fit[0]})" if fit and len(place.sizes) > 1 else ""),
                f"{checks.bernoulli(value, size):.2f}",
                f"{checks.as_printed(value, size):.2f}",
                _span(fit[1], size) if fit else "none",
            )
        )
    per_rule = "; ".join(f"{key[1]} with scores {key[0]}: {hit} of {n}" for key, hit in count.items())
    says_a = name == "A" and count[rule, "B"] < best
    return Finding(
        key="interval-formula",
        title="Which formula made each ±",
        claim="The text gives the 95 % interval as 1.96 s / √n with s = p (1 - p), of an average over validation sets.",
        arithmetic=(
            "A = 1.96 √(p (1 - p) / n) and B = 1.96 p (1 - p) / √n, in points. For each accuracy with a ±, every k/n "
            "that is printed as its score was tried, and the result compared with the printed ±. Cells explained: "
            f"{per_rule}. MNLI was tried with its matched half and with both halves together. Columns A and B show "
            "both at the printed score."
        ),
        verdict=(
            f"{best} of {n} accuracies carry a ± that is {name} for one score over n examples, with the score "
            f"{rule}; the formula in the text explains {count[rule, 'B']}. "
            + (f"Not explained: {', '.join(p.name for p in misses)}. " if misses else "")
            + (f"Only with a truncated score: {', '.join(p.name for p in only)}. " if only else "")
            + (
                "So the text lacks a square root, and these ± are over examples of one split, not over runs."
                if says_a
                else "No single formula stands out."
            )
        ),
        status="does not hold" if says_a else "undecided",
        source=sources(published, *SPLITS),
        grids=(Grid(("cell", "printed", "n", "A", "B", f"k that give it ({name}, {rule})"), tuple(rows)),),
    )


def copied(published: Published) -> Iterator[Finding]:
    """A validation ± that does not follow from its own split, but from the test split."""
    for place in places(published, "accuracy"):
        if place.split != "validation" or any(place.fit(rule, name) for rule in checks.RULES for name in "AB"):
            continue
        other = published.cells["test"][place.task]
        n = sum(published.tasks[place.task].test)
        score = place.cell.score
        same = other.half_width == place.half_width
        fits = bool(checks.fitting_counts(score, place.half_width, n, "truncated", "A"))
        widths = [
            checks.bernoulli(k / place.own_size, place.own_size)
            for k in checks.counts(score, place.own_size, "truncated")
        ]
        low, high = round_points(min(widths)), round_points(max(widths))
        own = f"A over its own {place.own_size:,} rows is {checks.bernoulli(score, place.own_size):.2f}"
        yield Finding(
            key=f"{place.task}-validation-interval",
            title=f"{NAMES[place.task]}'s validation ±",
            claim=f"{place.name} {score:.2f} ± {place.half_width}.",
            arithmetic=(
                f"{own}, B {checks.as_printed(score, place.own_size):.2f}; A over the test split's {n:,} rows is "
                f"{checks.bernoulli(score, n):.2f}. The test cell is {other.score:.2f} ± {other.half_width}."
            ),
            verdict=(
                f"The validation ± is the test one: it follows from the {n:,} test rows, and equals the test cell's. "
                f"Over the validation rows it would be {low} to {high}."
                if same and fits
                else "Neither formula gives it, over neither split."
            ),
            status="does not hold" if same and fits else "undecided",
            source=sources(published, *SPLITS),
        )


def proportions(published: Published) -> Iterator[Finding]:
    """A Matthews correlation is no share of right answers; was it treated as one?"""
    for place in places(published, "matthews_correlation"):
        score, n = place.cell.score, place.own_size
        fits = {
            name: any(checks.fits_anywhere(score, place.half_width, n, rule, width) for rule in checks.RULES)
            for name, width in checks.FORMULAS.items()
        }
        as_proportion = fits["A"] and not fits["B"]
        yield Finding(
            key=f"{place.task}-proportion",
            title=f"{NAMES[place.task]}: a correlation treated as a proportion",
            claim=f"{place.name} {score:.2f} ± {place.half_width}, a Matthews correlation.",
            arithmetic=(
                f"With p = {score:.2f} and n = {n:,}: A = {checks.bernoulli(score, n):.2f}, "
                f"B = {checks.as_printed(score, n):.2f} points."
            ),
            verdict=(
                "The ± is A with the correlation in place of p. A Matthews correlation is no share of right answers, "
                "so this is no interval of it; resampling the examples gives one, and needs the predictions."
                if as_proportion
                else f"Formulas that give it: {', '.join(name for name, fit in fits.items() if fit) or 'none'}."
            ),
            status="does not hold" if as_proportion else "undecided",
            source=sources(published, place.split),
        )


def correlations(published: Published) -> Iterator[Finding]:
    """A Pearson correlation: what could have made its ±, and what an interval over examples would be."""
    for place in places(published, "pearson"):
        score, n = place.cell.score, place.own_size

        def fisher(r: float, rows: int) -> float:
            return 100 * fisher_z(r, rows).half_width

        ways = {
            "A, as if a proportion": checks.bernoulli,
            "B, the formula in the text": checks.as_printed,
            "one standard error, (1 - r²) / √(n - 1)": checks.pearson_standard_error,
            "95 % interval by Fisher's z": fisher,
        }
        fits = {
            what: any(checks.fits_anywhere(score, place.half_width, n, rule, width) for rule in checks.RULES)
            for what, width in ways.items()
        }
        fitting = [what for what, fit in fits.items() if fit]
        yield Finding(
            key=f"{place.task}-interval",
            title=f"{NAMES[place.task]}'s ±",
            claim=f"{place.name} {score:.2f} ± {place.half_width}, a Pearson correlation.",
            arithmetic=f"Four ways to a ± at r = {score:.2f} over n = {n:,} rows, in points:",
            verdict=(
                f"{len(fitting)} of {len(ways)} give the printed ±"
                + (f" ({'; '.join(fitting)})" if fitting else "")
                + (": which was used cannot be told. " if len(fitting) != 1 else ". ")
                + f"An interval over examples would be ± {round_points(fisher(score, n))}."
            ),
            status="undecided" if len(fitting) != 1 else "does not hold",
            source=sources(published, place.split),
            grids=(
                Grid(
                    ("way", "±", "gives the printed ±"),
                    tuple((what, f"{w(score, n):.2f}", "yes" if fits[what] else "no") for what, w in ways.items()),
                ),
            ),
        )


def two_kinds(published: Published) -> Finding:
    """LoRA's ± are over seeds, SymLoRA's over examples."""
    rows, matches = [], 0
    tasks = [task for task in TASKS if published.tasks[task].metric == "accuracy"]
    for task in tasks:
        lora, n = published.lora[task], sum(published.tasks[task].validation)
        over_rows = checks.bernoulli(lora.score / 100, n)
        matches += checks.prints_as(over_rows, lora.half_width)
        cell = published.cells["validation"][task]
        rows.append(
            (
                NAMES[task],
                f"{lora.score} ± {lora.half_width}",
                f"{over_rows:.1f}",
                f"{cell.score:.2f} ± {cell.half_width}",
            )
        )
    return Finding(
        key="two-kinds-of-interval",
        title="The two columns' ± measure different things",
        claim="SymLoRA and LoRA are tied where their intervals overlap.",
        arithmetic=(
            f"LoRA's ± is its spread over {published.facts['paper_seeds'].value:.0f} seeds; SymLoRA's follow from the "
            "number of examples. What A would give for LoRA's own scores stands between them, in points."
        ),
        verdict=(
            f"{matches} of {len(tasks)} of LoRA's ± are what A gives, so the columns' intervals answer different "
            "questions (another seed; other examples) and their overlap tests nothing. Overlap would be no test of "
            "equality even between intervals of one kind."
        ),
        status="does not hold" if matches == 0 else "undecided",
        source=f"{published.lora['mnli'].source}; {sources(published, 'validation')}",
        grids=(Grid(("task", "LoRA, over seeds", "A for LoRA's score", "SymLoRA, as printed"), tuple(rows)),),
    )


def _span(found: tuple[int, ...], n: int) -> str:
    text = f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"
    return f"{text} ({found[0] / n:.4f} to {found[-1] / n:.4f})"
