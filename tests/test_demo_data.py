"""The demo tasks: the hub's schema, labels that code of another kind reads from the words, no overlap, no shortcut."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from symlora.data import grammar
from symlora.data.demo import DEMO_RULES, demo_split, demo_splits
from symlora.errors import SymloraError

# As `datasets.load_dataset("nyu-mll/glue", task)` names them, in order.
HUB_COLUMNS = {
    "cola": ["sentence"], "sst2": ["sentence"], "mrpc": ["sentence1", "sentence2"],
    "stsb": ["sentence1", "sentence2"], "qqp": ["question1", "question2"], "mnli": ["premise", "hypothesis"],
    "qnli": ["question", "sentence"], "rte": ["sentence1", "sentence2"], "wnli": ["sentence1", "sentence2"],
}  # fmt: skip
LABELS: dict[str, list[Any]] = {task: [0, 1] for task in HUB_COLUMNS}
LABELS |= {"mnli": [0, 1, 2], "stsb": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
TASKS = sorted(HUB_COLUMNS)


def texts(task: str, table: dict[str, list[Any]]) -> list[tuple[str, ...]]:
    return list(zip(*(table[name] for name in HUB_COLUMNS[task]), strict=True))


def nouns_of(text: str) -> list[str]:
    """The words after an article, in order."""
    tokens = text.split()
    return [word for article, word in zip(tokens, tokens[1:], strict=False) if article == "the"]


def read_cola(sentence: str) -> int:
    subject_is_man = nouns_of(sentence)[0] in grammar.MEN
    return int(subject_is_man == (" himself " in sentence))


def read_sst2(sentence: str) -> int:
    first, second = sentence.removesuffix(" .").split(" , ")
    main = first if second.startswith("although ") else second
    good = main.split()[-1] in grammar.GOOD
    return int(good != (" not " in main))


def read_patient(told: str, asked: str) -> int:
    return int(nouns_of(told)[1] == nouns_of(asked)[0])


def read_mnli(premise: str, hypothesis: str) -> int:
    if nouns_of(premise)[1] != nouns_of(hypothesis)[0]:
        return 1
    return 0 if (" not " in premise) == (" not " in hypothesis) else 2


def read_qnli(question: str, sentence: str) -> int:
    return 1 - read_patient(sentence, question)


def read_rte(premise: str, hypothesis: str) -> int:
    return int(nouns_of(premise)[0] != nouns_of(hypothesis)[0])


def read_stsb(first: str, second: str) -> float:
    def slots(text: str) -> list[str]:
        tokens = text.removesuffix(" .").split()
        return [*tokens[1:4], tokens[5], " ".join(tokens[6:])]

    return float(sum(a == b for a, b in zip(slots(first), slots(second), strict=True)))


def read_wnli(first: str, second: str) -> int:
    patterns = {"fit": 0, "catch": 1, "lift": 2, "ran": 3}
    pattern = grammar.CAUSALS[next(patterns[word] for word in first.split() if word in patterns)]
    explained = nouns_of(first)[0 if second.split()[-2] in pattern.of_a else 1]
    return int(nouns_of(second)[0] == explained)


READERS: dict[str, Callable[..., float]] = {
    "cola": read_cola, "sst2": read_sst2, "mrpc": read_patient, "stsb": read_stsb, "qqp": read_patient,
    "mnli": read_mnli, "qnli": read_qnli, "rte": read_rte, "wnli": read_wnli,
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_every_split_has_the_schema_of_the_hub(task: str) -> None:
    for split in demo_splits(task):
        table = demo_split(task, split, 24)
        assert list(table) == [*HUB_COLUMNS[task], "label", "idx"]
        assert table["idx"] == list(range(24))
        assert all(isinstance(text, str) and text.islower() for row in texts(task, table) for text in row)
        kind = float if task == "stsb" else int
        assert all(type(label) is kind for label in table["label"])
        hidden = split.startswith("test") and task != "mrpc"  # mrpc's test labels are public on the hub
        assert set(table["label"]) == ({-1} if hidden else set(LABELS[task]))


@settings(max_examples=60)
@given(st.sampled_from(TASKS), st.integers(0, 2**40), st.integers(0, 60), st.data())
def test_labels_follow_from_the_text(task: str, seed: int, rows: int, data: st.DataObject) -> None:
    split = data.draw(st.sampled_from(demo_splits(task)))
    table = demo_split(task, split, rows, seed, reveal=True)
    assert table["label"] == [READERS[task](*row) for row in texts(task, table)]
    assert len(set(texts(task, table))) == rows
    counts = Counter(table["label"])
    assert all(abs(counts[label] - rows / len(LABELS[task])) < 1 for label in LABELS[task])


@settings(max_examples=20)
@given(st.sampled_from(TASKS), st.integers(0, 1000), st.integers(0, 40), st.integers(0, 40))
def test_a_shorter_split_begins_a_longer_one(task: str, seed: int, rows: int, more: int) -> None:
    split = demo_splits(task)[1]
    long, short = demo_split(task, split, rows + more, seed), demo_split(task, split, rows, seed)
    assert {name: column[:rows] for name, column in long.items()} == short


@pytest.mark.parametrize("task", TASKS)
def test_no_sentence_is_in_two_splits(task: str) -> None:
    seen: set[tuple[str, ...]] = set()
    for number, split in enumerate(demo_splits(task)):
        rows = set(texts(task, demo_split(task, split, 500, seed=number)))
        assert not rows & seen
        seen |= rows


def test_the_first_rows_never_change() -> None:
    rows = [demo_split(task, split, 5, 7, reveal=True) for task in TASKS for split in demo_splits(task)]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert demo_split("rte", "train", 20, 0) != demo_split("rte", "train", 20, 1) and sorted(DEMO_RULES) == TASKS
    assert digest == "d5b6f7ef572f74235013c6770afe3152d492953fb11f4f31eac665e62562ca4c"


def test_mismatched_mnli_is_of_another_genre() -> None:
    def nouns(split: str) -> set[str]:
        return {noun for row in demo_split("mnli", split, 200)["premise"] for noun in nouns_of(row)}

    assert nouns("validation_mismatched") == set(grammar.ANIMALS.nouns)
    assert not nouns("validation_mismatched") & nouns("validation_matched")


@pytest.mark.parametrize("task", [task for task in TASKS if task != "stsb"])
def test_words_alone_do_not_tell_the_label(task: str) -> None:
    """Logistic regression on word counts, with the two columns told apart, stays near chance (sampling: +-0.05)."""

    def marked(table: dict[str, list[Any]]) -> list[str]:
        return [" ".join(f"{i}_{word}" for i, t in enumerate(row) for word in t.split()) for row in texts(task, table)]

    train, held_out = demo_split(task, "train", 800), demo_split(task, demo_splits(task)[1], 400)
    counter = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(C=0.1, max_iter=200).fit(counter.fit_transform(marked(train)), train["label"])
    score = model.score(counter.transform(marked(held_out)), held_out["label"])
    assert score < 1 / len(LABELS[task]) + 0.12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ax", "train", 1), "unknown demo task 'ax'; known: cola, sst2"),
        (("mnli", "validation", 1), "unknown split 'validation' of demo task 'mnli'; known: train, validation_matched"),
        (("wnli", "test", 10**6), "has no 1,000,000 different rows"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((ValueError, SymloraError), match=message):
        demo_split(*arguments)
