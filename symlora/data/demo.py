"""Write demo tasks: small data sets with GLUE's schema, from a grammar.

Each row's label is drawn first and its sentence is then built to have it by the rule in `DEMO_RULES`. So classes are
balanced, there is no label noise, and the words of a row (its bag of words) say next to nothing about its label.
Rows are dealt to train, validation and test by their content words: the two readings of the same words ("the doctor
praised the pilot" and its swap) are always on the same side, whatever the seed and the number of rows.

These are not GLUE, and scores on them say nothing about GLUE. They show whether an adapter learns what a head on the
frozen encoder does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from symlora.data import grammar
from symlora.data.grammar import ANIMALS, PEOPLE, Event, Vocabulary
from symlora.errors import SymloraError

DEMO_RULES: dict[str, str] = {
    "cola": "acceptable if 'himself' or 'herself' agrees with the subject, not with the noun in between",
    "sst2": "the main clause decides (after 'but', or the one without 'although'), and 'not' turns its adjective round",
    "mrpc": "equivalent if the subject of the short passive is the one acted upon",
    "stsb": "the score 0-5 counts the shared slots: adjective, agent, verb, patient, circumstance",
    "qqp": "duplicate if the short passive asks about the one acted upon",
    "mnli": "about the one acted upon: entailment if both or neither are denied, else contradiction; "
    "about the one who acts: neutral",
    "qnli": "entailment if the one asked about is acted upon in the sentence, which then says who acted",
    "rte": "entailment if the hypothesis says it of the main clause's subject, not of the noun in the relative clause",
    "wnli": "entailment if the second sentence names the one that the adjective explains",
}

T = TypeVar("T")

_SIDES = ("validation", "test", "train", "train", "train")  # a row's content words deal it to one of them
_TRIES_PER_ROW = 200  # a task that finds no new row in this many draws has run out of sentences


class _Draw:
    """Draw uniformly, by `Generator.integers` alone: it must stay stable."""

    def __init__(self, entropy: Sequence[int]) -> None:
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    def below(self, bound: int) -> int:
        return int(self._rng.integers(bound))

    def coin(self) -> bool:
        return self.below(2) == 1

    def one(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Draw `count` different items, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]


@dataclass(frozen=True)
class _Row:
    texts: tuple[str, ...]  # for the task's columns
    words: tuple[str, ...]  # the content words, which decide which split the row may enter


def _cola(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    """Subject and attractor differ in gender: their order alone decides the pronoun."""
    man, woman = draw.one(grammar.MEN), draw.one(grammar.WOMEN)
    male = draw.coin()
    subject, attractor = (man, woman) if male else (woman, man)
    pronoun = "himself" if male == (label == 1) else "herself"
    verb, between = draw.one(words.verbs), draw.one(("near", "behind", "with", "beside"))
    place = draw.one(words.places)
    sentence = f"the {subject} {between} the {attractor} {grammar.past(verb)} {pronoun} {place} ."
    return _Row((sentence,), (man, woman, verb, place))


def _sst2(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    """Two clauses with opposite verdicts: order and conjunction tell which counts."""
    main_aspect, side_aspect = draw.some(grammar.ASPECTS, 2)
    main, main_word = _verdict(draw, main_aspect, good=label == 1)
    side, side_word = _verdict(draw, side_aspect, good=label == 0)
    frames = (f"{side} , but {main} .", f"although {side} , {main} .", f"{main} , although {side} .")
    return _Row((draw.one(frames),), tuple(sorted((main_aspect, side_aspect, main_word, side_word))))


def _verdict(draw: _Draw, aspect: str, good: bool) -> tuple[str, str]:
    """Judge an aspect, by a negation half of the time."""
    negated = draw.coin()
    word = draw.one(grammar.GOOD if good != negated else grammar.BAD)
    return f"the {aspect} was {'not ' if negated else ''}{word}", word


def _event(draw: _Draw, words: Vocabulary) -> Event:
    agent, patient = draw.some(words.nouns, 2)
    return Event(agent, draw.one(words.verbs), patient)


def _mrpc(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    event = _event(draw, words)
    told = event if label == 1 else event.swapped()
    return _Row((f"{grammar.active(event)} .", f"{grammar.short_passive(told)} ."), event.words())


def _qqp(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    event = _event(draw, words)
    asked = event if label == 1 else event.swapped()
    questions = (
        f"did the {event.agent} {event.verb} the {event.patient} ?",
        f"was the {asked.patient} {grammar.past(asked.verb)} ?",
    )
    return _Row(questions, event.words())


def _mnli(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    """Deal every label with and without 'not' in either sentence, equally often."""
    event = _event(draw, words)
    premise = event if draw.coin() else event.denied()
    told = premise.swapped() if label == 1 else premise
    if label == 2 or (label == 1 and draw.coin()):
        told = told.denied()
    return _Row((f"{grammar.active(premise)} .", f"{grammar.short_passive(told)} ."), event.words())


def _qnli(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    event = _event(draw, words)
    told = event if label == 0 else event.swapped()
    return _Row((f"who {grammar.past(event.verb)} the {event.patient} ?", f"{grammar.active(told)} ."), event.words())


def _rte(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    head, other = draw.some(words.nouns, 2)
    verb, state = draw.one(words.verbs), draw.one(grammar.STATES)
    clause = draw.one((f"who {grammar.past(verb)} the {other}", f"whom the {other} {grammar.past(verb)}"))
    hypothesis = f"the {head if label == 0 else other} was {state} ."
    return _Row((f"the {head} {clause} was {state} .", hypothesis), (*sorted((head, other)), verb, state))


def _stsb(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    """Share `label` of the five slots; fill the others with other words."""
    kept = draw.some(range(5), label)
    states, nouns = draw.some(grammar.STATES, 2), draw.some(words.nouns, 4)
    verbs, places = draw.some(words.verbs, 2), draw.some(words.places, 2)
    first = (states[0], nouns[0], grammar.past(verbs[0]), nouns[1], places[0])
    anew = (states[1], nouns[2], grammar.past(verbs[1]), nouns[3], places[1])
    second = tuple(first[slot] if slot in kept else anew[slot] for slot in range(5))
    form = "the {} {} {} the {} {} ."
    return _Row((form.format(*first), form.format(*second)), first)


def _wnli(draw: _Draw, words: Vocabulary, label: int) -> _Row:
    pattern = draw.one(grammar.CAUSALS)
    a, b = draw.some(pattern.nouns, 2)
    about_a = draw.coin()
    adjective = draw.one(pattern.of_a if about_a else pattern.of_b)
    named = a if about_a == (label == 1) else b
    first = f"{pattern.first.format(a=a, b=b)} because it was too {adjective} ."
    return _Row((first, f"the {named} was too {adjective} ."), (*sorted((a, b)), adjective))


@dataclass(frozen=True)
class _Task:
    columns: tuple[str, ...]
    build: Callable[[_Draw, Vocabulary, int], _Row]
    labels: int = 2


_PAIR = ("sentence1", "sentence2")
_TASKS = {
    "cola": _Task(("sentence",), _cola),
    "sst2": _Task(("sentence",), _sst2),
    "mrpc": _Task(_PAIR, _mrpc),
    "stsb": _Task(_PAIR, _stsb, labels=6),
    "qqp": _Task(("question1", "question2"), _qqp),
    "mnli": _Task(("premise", "hypothesis"), _mnli, labels=3),
    "qnli": _Task(("question", "sentence"), _qnli),
    "rte": _Task(_PAIR, _rte),
    "wnli": _Task(_PAIR, _wnli),
}


def demo_split(task: str, split: str, rows: int, seed: int = 0, reveal: bool = False) -> dict[str, list[Any]]:
    """Write one split of a demo task with the hub's columns.

    Args:
        task: One of `DEMO_RULES`.
        split: As on the hub. MNLI's mismatched ones have other words (another genre).
        rows: Length of every column. A shorter split is the beginning of a longer one.
        seed: Another seed draws other sentences. No sentence of one split is in another split, also between seeds.
        reveal: Give the true labels of a test split, which are -1 as on the hub otherwise (mrpc's are public there).

    Returns:
        The text columns (str), "label" (int from 0, or float 0-5 for stsb) and "idx" (0 to rows - 1). Every
        label comes equally often, to within one row. A function of its arguments alone.

    Raises:
        ValueError: of an unknown task or split, of negative rows or seed, or of more rows than the grammar has.
    """
    known = demo_splits(task)
    if split not in known:
        raise ValueError(f"unknown split {split!r} of demo task {task!r}; known: {', '.join(known)}")
    if rows < 0 or seed < 0:
        raise ValueError(f"rows and seed must not be negative, got rows={rows}, seed={seed}")
    spec = _TASKS[task]
    draw = _Draw((seed, zlib.crc32(task.encode()), zlib.crc32(split.encode())))
    vocabulary = ANIMALS if split.endswith("_mismatched") else PEOPLE
    side = split.partition("_")[0]
    hidden = side == "test" and not reveal and task != "mrpc"
    table: dict[str, list[Any]] = {name: [] for name in (*spec.columns, "label", "idx")}
    seen: set[tuple[str, ...]] = set()
    labels: list[int] = []
    for index in range(rows):
        labels = labels or draw.some(range(spec.labels), spec.labels)
        label = labels.pop()
        for _ in range(_TRIES_PER_ROW):  # until a new row belongs to this side
            row = spec.build(draw, vocabulary, label)
            dealt = zlib.crc32(" ".join(row.words).encode()) % len(_SIDES)  # and not `hash`, which changes by process
            if _SIDES[dealt] == side and row.texts not in seen:
                break
        else:
            raise SymloraError(
                f"data.demo_rows: {task} has no {rows:,} different rows for {split}: the grammar ran out after "
                f"{index:,}."
            )
        seen.add(row.texts)
        for column, text in zip(spec.columns, row.texts, strict=True):
            table[column].append(text)
        shown = -1 if hidden else label
        table["label"].append(float(shown) if task == "stsb" else shown)
        table["idx"].append(index)
    return table


def demo_splits(task: str) -> tuple[str, ...]:
    """Name the splits of a task; ValueError for an unknown task."""
    if task not in _TASKS:
        raise ValueError(f"unknown demo task {task!r}; known: {', '.join(_TASKS)}")
    if task == "mnli":
        return ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
    return ("train", "validation", "test")
