"""Findings about the scores of the SymLoRA paper's Table 1: the LoRA column, and what is compared with what."""

from collections.abc import Iterator

from symlora.report import audit_checks as checks
from symlora.report.audit_intervals import SPLITS, places, sources
from symlora.report.finding import Finding, Grid
from symlora.report.names import TASKS as NAMES
from symlora.report.published import TASKS, Published


def findings(published: Published) -> Iterator[Finding]:
    """In the order of the report."""
    yield truncation(published)
    yield rte(published)
    yield losses(published)
    yield selection(published)


def truncation(published: Published) -> Finding:
    """The LoRA column against LoRA's own table."""
    rows, cut, changed = [], 0, 0
    for task in TASKS:
        exact, cell = published.lora[task].score, published.cells["lora"][task]
        printed, floor, near = checks.hundredths(cell.score), checks.truncate_points(exact), checks.round_whole(exact)
        cut += printed == floor
        changed += near != printed
        least = exact - (checks.hundredths(published.cells["validation"][task].score) + 1)
        rows.append(
            (
                NAMES[task],
                f"{exact}",
                f"{cell.score:.2f}",
                f"0.{floor}",
                f"0.{near}",
                f"{least:.1f} to {least + 1:.1f}",
            ),
        )
    printed_mean = 100 * checks.mean(published.cells["lora"][task].score for task in TASKS)
    exact_mean = checks.mean(published.lora[task].score for task in TASKS)
    worst = max(TASKS, key=lambda task: published.lora[task].score % 1)
    dropped = [
        task
        for task in TASKS
        if published.cells["lora"][task].known and published.cells["lora"][task].half_width is None
    ]
    return Finding(
        key="truncated-lora-column",
        title="The LoRA column is cut, not rounded",
        claim="The LoRA column holds LoRA's published RoBERTa-base scores to two decimals.",
        arithmetic=(
            f"Truncation gives {cut} of {len(TASKS)} printed values; rounding differs from them in {changed}. Mean of "
            f"the printed column {printed_mean:.2f}, of the published scores {exact_mean:.2f} points. The last column: "
            "SymLoRA's validation loss in points if its own scores are truncated too."
        ),
        verdict=(
            f"{'All' if cut == len(TASKS) else cut} of the column's scores are LoRA's without their decimals; the "
            f"baseline loses {exact_mean - printed_mean:.2f} points on average, up to "
            f"{published.lora[worst].score % 1:.1f} ({NAMES[worst]}). Equal entries in the table are equal after "
            "truncation to a whole point. LoRA's published ± was left out for "
            f"{' and '.join(NAMES[task] for task in dropped) or 'no task'}."
        ),
        status="does not hold" if changed else "holds",
        source=f"{published.lora['mnli'].source}; {sources(published, 'lora')}",
        grids=(Grid(("task", "published", "printed", "truncated", "rounded", "loss, points"), tuple(rows)),),
    )


def rte(published: Published) -> Finding:
    """The one loss that the paper discusses."""
    validation, test, lora = (
        checks.hundredths(published.cells[column]["rte"].score) for column in ("validation", "test", "lora")
    )
    exact = published.lora["rte"].score
    absolute, relative = published.claims["rte_absolute_drop"].value, published.claims["rte_relative_drop"].value
    candidates = {
        f"({base:g} - {test:g}) / {whole:g}": (base - test) / whole for base in (lora, exact) for whole in (base, test)
    }
    match = [what for what, value in candidates.items() if round(100 * value) == relative]
    own = (lora - validation) / lora
    agrees = round(100 * absolute) == lora - test
    return Finding(
        key="rte-loss",
        title="RTE: a test score minus a validation score",
        claim=f"RTE loses {absolute:g} absolute, {relative:g} % relative to LoRA.",
        arithmetic=(
            f"LoRA's {lora / 100:.2f} is a validation score (published {exact}); SymLoRA's {test / 100:.2f} a test "
            f"score, its validation score {validation / 100:.2f}. {lora / 100:.2f} - {test / 100:.2f} = "
            f"{(lora - test) / 100:.2f} = {lora - test:.0f} points. In percent:"
        ),
        verdict=(
            f"The drop is {lora - test:.0f} points ({(lora - test) / 100:.2f})"
            + ("" if agrees else f", not {absolute:g},")
            + " and it compares two different splits. "
            f"{relative:g} % comes from {' or '.join(match) or 'none of these'}; relative to LoRA's "
            f"score it is {100 * (exact - test) / exact:.1f} %. Validation against validation the table's loss is "
            f"{lora - validation:.0f} point, {100 * own:.1f} %."
        ),
        status="holds" if agrees and match == [f"({exact:g} - {test:g}) / {exact:g}"] else "does not hold",
        source=f"{published.claims['rte_absolute_drop'].source}; {published.claims['rte_relative_drop'].source}",
        grids=(
            Grid(
                ("relative loss", "percent"),
                tuple((what, f"{100 * value:.1f}") for what, value in candidates.items()),
            ),
        ),
    )


def losses(published: Published) -> Finding:
    """Every loss of the table, test against validation and validation against validation."""
    limit = published.claims["other_losses_below"].value
    against: dict[str, dict[str, float]] = {split: {} for split in SPLITS}
    for task in TASKS:
        lora = published.cells["lora"][task].score
        for split in SPLITS:
            against[split][task] = 100 * (lora - published.cells[split][task].score) / lora
    others = {task: loss for task, loss in against["test"].items() if task != "rte"}
    below = sum(loss < limit for loss in others.values())
    largest = max(others, key=lambda task: others[task])
    top = max(against["validation"].values())
    guessed = [t for t in TASKS if published.cells["test"][t].certainty != "read"]
    return Finding(
        key="other-losses",
        title="The other losses",
        claim=f"Most other losses are under {limit:g} %.",
        arithmetic="(LoRA - SymLoRA) / LoRA, printed scores, in percent; LoRA's are validation scores throughout.",
        verdict=(
            f"Of the {len(others)} tasks besides RTE {below} lose less than {limit:g} % (largest {NAMES[largest]}, "
            f"{others[largest]:.1f} %), but these are test scores against LoRA's validation scores. Validation against "
            f"validation no task loses more than {top:.1f} %."
            + (
                f" The test scores of {' and '.join(NAMES[task] for task in guessed)} are not copied from the table "
                "but recomputed."
                if guessed
                else ""
            )
        ),
        status="holds" if 2 * below > len(others) else "does not hold",
        source=f"{published.claims['other_losses_below'].source}; {sources(published, 'lora')}",
        grids=(
            Grid(
                ("task", "LoRA validation", "SymLoRA validation", "loss, %", "SymLoRA test", "loss to validation, %"),
                tuple(
                    (
                        NAMES[task],
                        f"{published.cells['lora'][task].score:.2f}",
                        f"{published.cells['validation'][task].score:.2f}",
                        f"{against['validation'][task]:.1f}",
                        f"{published.cells['test'][task].score:.2f}",
                        f"{against['test'][task]:.1f}",
                    )
                    for task in TASKS
                ),
            ),
        ),
    )


def selection(published: Published) -> Finding:
    """Do validation scores exceed test scores by more than chance?"""
    by_place = {(place.task, place.split): place for place in places(published, "accuracy")}
    rows, drops = [], []
    tasks = [task for task in TASKS if (task, "test") in by_place and (task, "validation") in by_place]
    for task in tasks:
        here, there = by_place[task, "validation"], by_place[task, "test"]
        n, m = here.own_size, there.own_size
        # The counts that speak least for a drop, among those that the two cells allow.
        k = min((here.fit("truncated", "A") or ("", tuple(checks.counts(here.cell.score, n, "truncated"))))[1])
        j = max((there.fit("truncated", "A") or ("", tuple(checks.counts(there.cell.score, m, "truncated"))))[1])
        z = checks.two_sample_z(k / n, n, j / m, m)
        p = checks.two_sided_p(z)
        corrected = min(1.0, p * len(tasks))
        if z > 0 and corrected < 0.05:
            drops.append(f"{NAMES[task]} (z = {z:.1f}, corrected p = {corrected:.1g})")
        rows.append(
            (
                NAMES[task],
                f"{k:,} of {n:,}",
                f"{j:,} of {m:,}",
                f"{100 * (k / n - j / m):.1f}",
                f"{z:.1f}",
                f"{corrected:.2g}" if z > 0 else "no drop",
            )
        )
    return Finding(
        key="selection-optimism",
        title="Validation scores against test scores",
        claim="Validation scores stand for what the trained model does on new examples.",
        arithmetic=(
            "z of the difference of two proportions, with those counts that the printed score (truncated) and ± allow "
            "which make the drop smallest: fewest right on validation, most right on test. The last column is "
            f"two-sided and multiplied by the number of tasks ({len(tasks)})."
        ),
        verdict=(
            (
                f"{' and '.join(drops)} fall from validation to test by more than chance allows"
                if drops
                else "No task falls from validation to test by more than chance allows"
            )
            + ". Choosing learning rate, batch or epoch on the split that is reported does this; a test set drawn "
            "differently does it too, and the printed numbers cannot tell them apart."
        ),
        status="does not hold" if drops else "undecided",
        source=sources(published, *SPLITS),
        grids=(
            Grid(("task", "validation at least", "test at most", "drop, points", "z", "p, corrected"), tuple(rows)),
        ),
    )
