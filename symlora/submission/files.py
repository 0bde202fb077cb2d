"""Describe the eleven files of a submission."""

import functools
import re
from dataclasses import dataclass

from omegaconf import OmegaConf

from symlora.config.compose import CONFIG_DIR
from symlora.data.splits import SCORE_RANGE

HEADER = "index\tprediction"
# Of all files with their headers. Older guides (BERT on STILTs) give 426,597: their own list adds up to this number,
# and the 277 lines more are those that QNLI's first version had.
LINES = 426_320

# File, task and split, in the order of the benchmark's page. AX is predicted by the MNLI model.
_SPLITS = {
    "CoLA": ("cola", "test"),
    "SST-2": ("sst2", "test"),
    "MRPC": ("mrpc", "test"),
    "STS-B": ("stsb", "test"),
    "QQP": ("qqp", "test"),
    "MNLI-m": ("mnli", "test_matched"),
    "MNLI-mm": ("mnli", "test_mismatched"),
    "QNLI": ("qnli", "test"),
    "RTE": ("rte", "test"),
    "WNLI": ("wnli", "test"),
    "AX": ("mnli", "ax"),
}
_NAMED = ("mnli", "qnli", "rte")  # the server wants class names of these, and class numbers of the others
MAJORITY = {"wnli": 0}
"""Tasks that no model predicts: the same class in every row. WNLI: `not_entailment`, 323 of its 635 training rows.

No run is chosen for it because validation tells nothing of the test rows: 65 of its 71 rows (8 of the 146 test rows)
repeat a training row's first sentence, and those that repeat both have the other answer. Neither paper reports WNLI,
but the server refuses a zip without it.
"""


@dataclass(frozen=True)
class File:
    """One file of the zip."""

    name: str  # such as MNLI-m.tsv
    task: str  # of configs/task
    split: str
    rows: int  # below the header
    words: tuple[str, ...]  # what a prediction may be, by class number; empty for a score

    def fault(self, content: bytes) -> str:
        """Describe the first error that the server would refuse, if any."""
        try:
            text = content.decode("ascii")
        except UnicodeDecodeError as error:
            return f"byte {error.start} is not ASCII (a byte order mark?)."
        if not text.endswith("\n"):
            return "the last line does not end with a newline: it may be cut off."
        header, *rows = text[:-1].split("\n")
        if header != HEADER:
            return f"the header is {header!r}, not {HEADER!r}."
        if len(rows) != self.rows:
            return f"{len(rows):,} rows, the test split has {self.rows:,}."
        low, high = SCORE_RANGE
        for number, row in enumerate(rows):
            index, _, prediction = row.partition("\t")
            if index != str(number):
                return f"row {number} begins with {index!r}: rows are numbered from 0 in order."
            score = not self.words and re.fullmatch(r"\d(\.\d+)?", prediction, re.ASCII)
            if not (low <= float(prediction) <= high if score else prediction in self.words):
                allowed = " or ".join(self.words) or f"a number from {low:g} to {high:g}, such as 2.5"
                return f"row {number} predicts {prediction!r}; allowed: {allowed}."
        return ""


@functools.cache
def files() -> tuple[File, ...]:
    """List the eleven files; rows and class names are those of configs/task."""
    found = []
    for name, (task, split) in _SPLITS.items():
        facts = OmegaConf.load(CONFIG_DIR / "task" / f"{task}.yaml")
        words = facts.labels if task in _NAMED else map(str, range(len(facts.labels)))
        found.append(File(f"{name}.tsv", task, split, facts.splits[split], tuple(words)))
    return tuple(found)
