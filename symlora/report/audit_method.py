"""Findings about the method and the recipe: norm, parameters, λ, scale, starting point, reruns."""

from collections.abc import Iterator

from symlora.report import audit_checks as checks
from symlora.report.finding import Finding, Grid
from symlora.report.names import TASKS as NAMES
from symlora.report.published import TASKS, Published

OUTPUTS = (("two classes", 2), ("regression", 1), ("three classes", 3))


def findings(published: Published, seed: int) -> Iterator[Finding]:
    """In the order of the report. seed: of the random matrices."""
    yield norm(published, seed)
    yield parameters(published)
    yield lambda_decay(published)
    yield start(published)
    yield alpha(published)
    yield reruns(published)


def norm(published: Published, seed: int) -> Finding:
    """Σ |w| is called the Frobenius norm."""
    n, r = _whole(published, "hidden_size"), _whole(published, "rank")
    ratios = checks.norm_ratios(n, r, seed)
    full, *adapters = ratios.values()
    low, high = min(ratios.values()), max(ratios.values())
    skew = [100 * (full / ratio - 1) for ratio in adapters]
    return Finding(
        key="norm",
        title="The norm that is not Frobenius",
        claim="Figure 1 shows Frobenius norms, λ Σ |W(i, j)| for the pre-trained matrix.",
        arithmetic=(
            f"Σ |w| is the entry-wise L1 norm; Frobenius is √(Σ w²). Their ratio for random {n} × {n} matrices "
            f"(factors standard normal, seed {seed}):"
        ),
        verdict=(
            f"The printed formula is {low:.0f} to {high:.0f} times the Frobenius norm. The factor is not constant: it "
            f"weighs the full-rank W0 {min(skew):.0f} to {max(skew):.0f} % more than a rank-{r} update, so a "
            "difference of the two norms shifts too. λ may be negative; the norm of λ W0 is |λ| ‖W0‖."
        ),
        status="does not hold" if low > 1.01 else "holds",
        source="arXiv 2504.03719, Figure 1 and its text (read)",
        grids=(
            Grid(("random matrix", "Σ|w| / √Σw²"), tuple((what, f"{ratio:.0f}") for what, ratio in ratios.items())),
        ),
    )


def parameters(published: Published) -> Finding:
    """Half of what: with and without the head."""
    n, r = _whole(published, "hidden_size"), _whole(published, "rank")
    matrices = _whole(published, "layers") * _whole(published, "projections")
    lora, symlora = checks.lora_parameters(n, r, matrices), checks.symlora_parameters(n, r, matrices)
    rows = [("adapter alone", f"{lora:,}", f"{symlora:,}", f"{symlora / lora:.4f}")]
    totals = {}
    for what, outputs in OUTPUTS:
        head = checks.head_parameters(n, outputs)
        totals[what] = (symlora + head) / (lora + head)
        rows.append((f"with the head, {what}", f"{lora + head:,}", f"{symlora + head:,}", f"{totals[what]:.3f}"))
    formula = (n + 1) * r * matrices
    share = totals[OUTPUTS[0][0]]
    return Finding(
        key="parameters",
        title="Half the weights",
        claim="SymLoRA trains about half of LoRA's weights: (n + 1) r per matrix against 2 n r.",
        arithmetic=(
            f"n = {n}, r = {r}, {matrices} matrices. (n + 1) r per matrix makes {formula:,}; it leaves out λ, "
            f"{symlora - formula} more. The classification head is trained too: n² + n + (n + 1) · outputs = "
            f"{checks.head_parameters(n, 2):,} for two classes."
        ),
        verdict=(
            f"Of the adapter's weights it is {100 * symlora / lora:.1f} %; of all trained weights {100 * share:.1f} %, "
            f"a saving of {100 * (1 - share):.0f} %, since the head is larger than either adapter."
        ),
        status="holds" if abs(symlora / lora - 0.5) < 0.01 else "does not hold",
        source="arXiv 2504.03719, abstract and text (read); RoBERTa's head: counted (computed)",
        grids=(Grid(("trained", "LoRA", "SymLoRA", "ratio"), tuple(rows)),),
    )


def lambda_decay(published: Published) -> Finding:
    """What weight decay alone does to a scalar λ that starts at 1."""
    decay = published.facts["weight_decay"].value
    rows, left = [], {}
    for task in TASKS:
        recipe, train = published.recipe[task], published.tasks[task].train
        total = checks.learning_rate_sum(train, recipe.batch, recipe.epochs, recipe.lr)
        left[task] = checks.decayed_under(recipe, train, decay, 1)
        spread = checks.decayed_under(recipe, train, decay, recipe.devices)
        rows.append(
            (
                NAMES[task],
                f"{recipe.batch} × {recipe.devices}",
                f"{recipe.epochs}",
                f"{total:.2f}",
                _digits(left[task]),
                _digits(spread),
            )
        )
    gone = [task for task in TASKS if left[task] < 0.5]
    return Finding(
        key="lambda-decay",
        title="λ under weight decay alone",
        claim="λ near 0 shows layers whose pre-trained weights are not needed.",
        arithmetic=(
            f"AdamW with weight decay {decay:g} leaves exp(-{decay:g} Σ lr) of a parameter without gradient; with a "
            "linear schedule Σ lr is half of lr × steps. λ starts at 1. LoRA's scripts exempt only biases and "
            "LayerNorm, so a λ would decay, toward 0, which removes W0."
        ),
        verdict=(
            f"Without any gradient λ would end between {_digits(min(left.values()))} and {_digits(max(left.values()))} "
            f"on one device, below one half for {', '.join(NAMES[task] for task in gone) or 'no task'}. The paper does "
            "not give its decay, so a small λ tells nothing until it is compared with this line, or trained without "
            "decay."
        ),
        status="undecided" if gone else "holds",
        source=f"{published.recipe_source} (read); {published.facts['weight_decay'].source} (read)",
        grids=(
            Grid(
                ("task", "batch × devices", "epochs", "Σ lr", "λ left, one device", "λ left, all devices"), tuple(rows)
            ),
        ),
    )


def start(published: Published) -> Finding:
    """LoRA's RTE, MRPC and STS-B start from an MNLI adapter."""
    from_mnli = [task for task in TASKS if published.lora[task].start == "mnli"]
    plain = [row for row in published.others if row.start == "none"]
    rows = []
    for task in from_mnli:
        score, printed = published.lora[task], published.cells["validation"][task]
        known = [row for row in plain if task in row.scores]
        values = [row.scores[task] for row in known]
        loras = [row.scores[task] for row in known if row.method.startswith("LoRA")]
        rows.append(
            (
                NAMES[task],
                f"{score.score} ± {score.half_width}",
                f"{min(loras)} to {max(loras)}",
                f"{max(values)} ({max(known, key=lambda row: row.scores[task]).method})",
                f"{printed.score:.2f}",
            )
        )
    unstarted = [row for row in published.others if "rte" in row.scores and row.start != "mnli"]
    best = max(unstarted, key=lambda row: row.scores["rte"])
    without = max(row.scores["rte"] for row in plain if "rte" in row.scores and row.method.startswith("LoRA"))
    cell = published.cells["validation"]["rte"]
    ours, lora = checks.hundredths(cell.score), published.lora["rte"].score
    return Finding(
        key="mnli-start",
        title="Three of LoRA's scores start from MNLI",
        claim="SymLoRA's scores compare with LoRA's under the same hyper-parameters.",
        arithmetic=(
            f"LoRA's {', '.join(NAMES[task] for task in from_mnli)} begin with the adapter trained on MNLI. For RTE: "
            f"{lora} with it, at most {without} for LoRA without it, a difference of {lora - without:.1f} points. The "
            f"best RTE of the rows in others.yaml, whether or not they say where they start, is {best.scores['rte']} "
            f"({best.method})."
        ),
        verdict=(
            f"SymLoRA's RTE validation score of {ours} (its decimals are cut off) lies at least {ours - without:.1f} "
            f"points above LoRA without the MNLI start, with a ± of {cell.half_width} over examples, and at most "
            f"{lora - ours:.1f} below LoRA with it. "
            + (
                "The paper does not say where it started; a comparison with LoRA needs the same start for both."
                if ours - without > (cell.half_width or 0)
                else "That is within its ±: it may have started from the pre-trained model."
            )
        ),
        status="undecided",
        source=f"{published.recipe_source} (read); results/published/others.yaml",
        grids=(
            Grid(
                ("task", "LoRA, from MNLI", "LoRA, not from MNLI", "best not from MNLI", "SymLoRA validation"),
                tuple(rows),
            ),
        ),
    )


def alpha(published: Published) -> Finding:
    """α = r, "just as in LoRA": true of LoRA's paper, not of its scripts."""
    claimed, rank = published.claims["alpha"].value, published.claims["rank"].value
    paper, scripts = published.facts["alpha_paper"].value, published.facts["alpha_scripts"].value
    right, low = published.facts["mnli_matched"].value, published.facts["mnli_checkpoint_at_alpha_8"]
    agrees = scripts == claimed
    return Finding(
        key="alpha",
        title="α in LoRA's paper and in its scripts",
        claim=f"α = r = {rank:g}, just as in LoRA.",
        arithmetic=(
            f"LoRA's paper prints α = {paper:g}, a scale α/r of {paper / rank:g}; its scripts set {scripts:g}, a scale "
            f"of {scripts / rank:g}. The released MNLI adapter at α = 8 was measured at {low.value} instead of {right} "
            f"({low.source})."
        ),
        verdict=(
            "The scripts agree with the paper."
            if agrees
            else "True of LoRA's paper, not of its scripts, which go with the released adapter: they scale ΔW "
            f"{scripts / claimed:g} times as much. A comparison must say which of them its LoRA runs use."
        ),
        status="holds" if agrees else "undecided" if paper == claimed else "does not hold",
        source=f"{published.facts['alpha_paper'].source}; {published.facts['alpha_scripts'].source} (read)",
    )


def reruns(published: Published) -> Finding:
    """The authors' LoRA runs at length 128: below the published scores, and maybe single runs."""
    length, original = published.claims["max_length"].value, published.facts["max_length"].value
    rows, singles, below = [], [], 0
    for task, rerun in published.reruns.items():
        exact = published.lora[task].score
        below += rerun.value < exact
        text = "not a share of examples"
        if published.tasks[task].metric == "accuracy":
            n = sum(published.tasks[task].validation)
            found = checks.as_share(rerun.value, n)
            text = (
                f"{found[0]:,}/{n:,}; chance for any number {min(1.0, n / 10_000):.2f}" if found else f"of no k/{n:,}"
            )
            singles += [task] if found else []
        rows.append((NAMES[task], f"{exact}", f"{rerun.value:.2f}", f"{rerun.value - exact:.2f}", text))
    skipped = [NAMES[t] for t in TASKS if t not in published.reruns and published.lora[t].start == "mnli"]
    return Finding(
        key="length-reruns",
        title=f"LoRA at length {length:g}",
        claim=f"Length {length:g} in place of {original:g} does no harm: LoRA was trained again on some tasks.",
        arithmetic=(
            "Differences in points. An accuracy of one run is k/n; a mean of several mostly is not. The chance that a "
            "number with two decimals is some k/n stands beside it."
        ),
        verdict=(
            f"{below} of {len(rows)} reruns are below the published score; {len(TASKS) - len(rows)} tasks were not run "
            f"again, among them {', '.join(skipped)}, where the starting point matters. "
            f"{' and '.join(NAMES[task] for task in singles) or 'None'} could be a single run. This does not show the "
            "shorter length to be harmless."
        ),
        status="undecided" if below else "holds",
        source=f"{next(iter(published.reruns.values())).source} (read)",
        grids=(Grid(("task", "published", "rerun", "difference", "as one run"), tuple(rows)),),
    )


def _whole(published: Published, fact: str) -> int:
    return int(published.facts[fact].value)


def _digits(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"
