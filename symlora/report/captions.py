"""Write the captions of tables and figures."""

from symlora.report.comparison import Criteria
from symlora.report.table import NOTHING

FIGURES = {
    "figure1-query": "Figure 1, query: norms per task and layer",
    "figure1-value": "Figure 1, value: norms per task and layer",
    "figure1-query-as-paper": "Figure 1 as the paper computes it, query: sums of absolute values, one common scale",
    "figure1-value-as-paper": "Figure 1 as the paper computes it, value: sums of absolute values, one common scale",
    "companion": "λ, and the size of the update relative to the pre-trained weight",
    "differences": "SymLoRA less LoRA per task, with the margin",
    "grid": "Learning rate and batch size",
    "curves": "Score after each epoch",
    "cost": "Score over cost",
}
"""Caption of each figure on the report's page, by the stem of its files."""

PRINTED = (
    "Scores are fractions, ± is in points, as printed; the paper says 95 % and no number of seeds. What "
    "each ± was made by, and is over, is in the audit: the paper's text and its numbers disagree.",
    "*: not read from the table, but computed from a loss that was noted from it.",
    "LoRA's column is what the paper copies from LoRA's own table, cut off after two decimals.",
)
EXACT = (
    "LoRA: as LoRA's paper prints it; ± is its spread over five seeds, “from MNLI” its start from an MNLI "
    "adapter on three tasks.",
    "SymLoRA: two decimals that were cut off leave a range of one point; ± is over the rows of the split "
    "(both MNLI splits), Wilson's for accuracy and Fisher's z for Pearson, at the middle of the range. "
    "Matthews correlation has none without the predictions.",
)
"""Notes on the paper's two sections of Table 1."""

Caption = tuple[str, str, tuple[str, ...]]
"""title, caption and header of a symlora.report.table.Table, in its order."""

TABLES: dict[str, Caption] = {
    "table1": (
        "Table 1. LoRA and SymLoRA on GLUE",
        "Scores in points, but where a section says else. In our sections ± is the half-width of the "
        "{level} t interval over n seeds (none for one seed), on validation, at the epoch that the "
        "protocol's own rule takes. Failed runs are counted and not averaged. “At chance” counts runs whose score is "
        "not above that of a constant prediction (accuracy: the majority class; correlations: 0); they are averaged "
        "like the others. On MNLI ours is the matched half; the paper's ± pool both. Test scores come "
        "from results/leaderboard alone. Two intervals that overlap say nothing about a tie: table 2 tests that.",
        ("Task", "Metric", "LoRA, validation", "SymLoRA, validation", "LoRA, test", "SymLoRA, test"),
    ),
    "table2": (
        "Table 2. Is a method tied with LoRA?",
        "In points, validation, each method at its own chosen configuration. n: seeds with a score; s: standard "
        "deviation over them (n − 1); then the {level} t interval of the mean over seeds. “In its grid”: where the "
        "chosen learning rate and batch size lie among the runs that it was chosen by (an axis of two values has "
        "no inside, and is not called an edge). Where the protocol has no seeds for that, these are the runs of the "
        "lowest seed, which is one of the n and favours a method's mean a little. Difference: method − LoRA, mean over "
        "the seeds that both have, with its {single} t interval for this task alone, not corrected. The verdict holds "
        "over the section's tasks: the chance that a method gets any false one is at most {alpha:g}. "
        "Equivalent: p of the paired test of equivalence (TOST), with margin ±{margin:g} set before the "
        "runs, is below {alpha:g} after Holm; else better or worse, by the sign of the difference: p of the "
        "paired t test is; else inconclusive. “Not significant” is never “tied”. None: a run of either "
        "failed or is not above chance, or rows or metric differ; the task then counts with p = 1, as does one of the "
        "study's tasks without runs. “(no spread)”: all differences are equal, as happens with few seeds on a small "
        "split, and the interval of width 0 is no evidence. p values: paired t (small speaks "
        "for a difference) and TOST (small speaks for equivalence), both also after one Holm over all tasks of the "
        "section, in which a task counts once, as its two null hypotheses cannot both be true; for this task alone, "
        "exact sign flip over seeds (small speaks for a difference; with 5 seeds it cannot fall below 0.0625) and "
        "McNemar over rows, for the two models of the lowest seed. "
        "Seeds and rows: {level} two-level bootstrap of the difference, too narrow for few seeds. Needed, where "
        "inconclusive: paired seeds that give the equivalence test a power of {power:g} if the true "
        "difference is 0 and s of the differences is as estimated, which for few seeds is rough; at "
        "{alpha:g} divided by the number of tasks, so that it would hold after Holm.",
        (
            *("Task", "Method", "n", "Mean", "s", "{level}, seeds", "lr", "Batch", "In its grid", "Difference"),
            *("{single}, paired", "Verdict", "p t", "Holm", "p TOST", "Holm", "p sign flip", "p McNemar"),
            *("{level}, seeds and rows", "Needed"),
        ),
    ),
    "table3": (
        "Table 3. What it costs",
        "Trained parameters of the adapter, of the classification head and in all (the head is the same for every "
        "method, so half the adapter is not half of what is trained); size of the saved file with adapter and head; "
        "peak memory, wall clock of a run, of its training steps alone, and of inference (scoring after each epoch, a "
        "sentence), energy: means over the chosen configuration's finished runs. "
        f"{NOTHING}: the machine does not tell, or the run is older than the record. In a pack, memory is the pack's. "
        "Seconds of runs on different machines, or beside other work, do not compare methods. Score: validation, in "
        "points. PSCP (PEFT-Bench, arXiv 2511.21285): the score divided by 1 + M/C for each of trained parameters, "
        "memory and inference time M, where C is LoRA's on the same task: LoRA has an eighth of its score, and a "
        "method without any cost its score.",
        (
            *("Task", "Method", "n", "Score", "Adapter", "Head", "All trained", "File, KiB", "Memory, GiB"),
            *("Seconds", "Training, s", "Inference, ms", "Energy, kWh", "PSCP", "Device"),
        ),
    ),
    "table4": (
        "Table 4. What the choice of the epoch adds, and what the rows leave open",
        "Validation scores in points, means over n seeds, at three epochs of the same runs: the best on validation "
        "itself (what the paper's protocol reports), the last, and the best on a slice of the training split set aside "
        "(where the protocol has one). The differences are the selection's bias. Chance: the score of a constant "
        "prediction on these labels; at chance: seeds not above it. Missing: seeds that the other of LoRA and SymLoRA "
        "has. Rows: the {level} interval of the lowest seed's model over the split's rows (Wilson for "
        "accuracy, Fisher z for Pearson, else percentile bootstrap); it says nothing about other seeds.",
        (
            *("Task", "Method", "n", "Failed", "Missing", "At chance", "Chance", "Median", "Best epoch", "Last epoch"),
            *("Held-out epoch", "Best − last", "Best − held-out", "Rows, one model", "Configuration", "Chosen as"),
        ),
    ),
}


def table_caption(name: str, criteria: Criteria) -> Caption:
    """Return title, caption and header of a table."""
    title, text, header = TABLES[name]
    percent = {"level": f"{100 * criteria.level:g} %", "single": f"{100 * (1 - criteria.alpha):g} %"}
    fields = vars(criteria) | percent
    return title, text.format(**fields), tuple(column.format(**fields) for column in header)
