"""Write demo tasks: small data sets with GLUE's schema, from a grammar.

Each row's label is drawn first and its sentence is then built to have it by the rule in `DEMO_RULES`. So classes are
balanced, there is no label noise, and the words of a row say next to nothing about its label. A hash of their content
words assigns rows to train, validation and test: both readings of the same words are always in the same split.

Scores on them say nothing about GLUE. They show whether an adapter learns what a head on the frozen encoder does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from symlora.data import grammar
from symlora.data.grammar import ACTIVE, ANIMALS, PASSIVE, PEOPLE, Vocabulary, past, say
from symlora.errors import SymloraError

DEMO_RULES: dict[str, str] = {
    "cola": "acceptable if 'himself' or 'herself' agrees with the subject, not with the noun in between",
    "sst2": "the main clause decides (after 'but', or the one without 'although'), and 'not' reverses its adjective",
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


Row = tuple[tuple[str, ...], tuple[str, ...]]
"""Texts for the task's columns, and the content words, which decide which split the row may enter."""
Build = Callable[[_Draw, Vocabulary, int], Row]


def _cola(draw: _Draw, words: Vocabulary, label: int) -> Row:
    """Subject and attractor differ in gender: their order alone decides the pronoun."""
    man, woman = draw.one(grammar.MEN), draw.one(grammar.WOMEN)
    male = draw.coin()
    subject, attractor = (man, woman) if male else (woman, man)
    pronoun = "himself" if male == (label == 1) else "herself"
    verb, between = draw.one(words.verbs), draw.one(("near", "behind", "with", "beside"))
    place = draw.one(words.places)
    sentence = f"the {subject} {between} the {attractor} {past(verb)} {pronoun} {place} ."
    return (sentence,), (man, woman, verb, place)


def _sst2(draw: _Draw, words: Vocabulary, label: int) -> Row:
    """Two clauses with opposite verdicts: order and conjunction tell which counts."""
    main_aspect, side_aspect = draw.some(grammar.ASPECTS, 2)
    main, main_word = _verdict(draw, main_aspect, good=label == 1)
    side, side_word = _verdict(draw, side_aspect, good=label == 0)
    frames = (f"{side} , but {main} .", f"although {side} , {main} .", f"{main} , although {side} .")
    return (draw.one(frames),), tuple(sorted((main_aspect, side_aspect, main_word, side_word)))


def _verdict(draw: _Draw, aspect: str, good: bool) -> tuple[str, str]:
    """Judge an aspect, by a negation half of the time."""
    negated = draw.coin()
    word = draw.one(grammar.GOOD if good != negated else grammar.BAD)
    return f"the {aspect} was {'not ' if negated else ''}{word}", word


def _event(draw: _Draw, words: Vocabulary) -> tuple[str, str, str]:
    """Draw who does what to whom; read backward, the roles are swapped."""
    agent, patient = draw.some(words.nouns, 2)
    return agent, draw.one(words.verbs), patient


def _content(agent: str, verb: str, patient: str) -> tuple[str, ...]:
    """Order an event's words the same way for both readings."""
    return (*sorted((agent, patient)), verb)


def _roles(first: str, second: str, same: int) -> Build:
    """Say an event twice; its roles are the same under one label."""

    def build(draw: _Draw, words: Vocabulary, label: int) -> Row:
        event = _event(draw, words)
        told = event if label == same else event[::-1]
        return (say(first, *event), say(second, *told)), _content(*event)

    return build


def _mnli(draw: _Draw, words: Vocabulary, label: int) -> Row:
    """Deal every label with and without 'not' in either sentence, equally often."""
    event, happened = _event(draw, words), draw.coin()
    told = event[::-1] if label == 1 else event
    denied = label == 2 or (label == 1 and draw.coin())
    return (say(ACTIVE, *event, happened), say(PASSIVE, *told, happened != denied)), _content(*event)


def _rte(draw: _Draw, words: Vocabulary, label: int) -> Row:
    head, other = draw.some(words.nouns, 2)
    verb, state = draw.one(words.verbs), draw.one(grammar.STATES)
    clause = draw.one((f"who {past(verb)} the {other}", f"whom the {other} {past(verb)}"))
    hypothesis = f"the {head if label == 0 else other} was {state} ."
    return (f"the {head} {clause} was {state} .", hypothesis), (*sorted((head, other)), verb, state)


def _stsb(draw: _Draw, words: Vocabulary, label: int) -> Row:
    """Share `label` of the five slots; fill the others with other words."""
    kept = draw.some(range(5), label)
    states, nouns = draw.some(grammar.STATES, 2), draw.some(words.nouns, 4)
    verbs, places = draw.some(words.verbs, 2), draw.some(words.places, 2)
    first = (states[0], nouns[0], past(verbs[0]), nouns[1], places[0])
    anew = (states[1], nouns[2], past(verbs[1]), nouns[3], places[1])
    second = tuple(first[slot] if slot in kept else anew[slot] for slot in range(5))
    form = "the {} {} {} the {} {} ."
    return (form.format(*first), form.format(*second)), first


def _wnli(draw: _Draw, words: Vocabulary, label: int) -> Row:
    pattern = draw.one(grammar.CAUSALS)
    a, b = draw.some(pattern.nouns, 2)
    about_a = draw.coin()
    adjective = draw.one(pattern.of_a if about_a else pattern.of_b)
    named = a if about_a == (label == 1) else b
    first = f"{pattern.first.format(a=a, b=b)} because it was too {adjective} ."
    return (first, f"the {named} was too {adjective} ."), (*sorted((a, b)), adjective)


_PAIR = ("sentence1", "sentence2")
_TASKS: dict[str, tuple[tuple[str, ...], Build]] = {  # columns, and what makes a row
    "cola": (("sentence",), _cola),
    "sst2": (("sentence",), _sst2),
    "mrpc": (_PAIR, _roles(ACTIVE, PASSIVE, 1)),
    "stsb": (_PAIR, _stsb),
    "qqp": (
        ("question1", "question2"),
        _roles("did the {agent} {verb} the {patient} ?", "was the {patient} {past} ?", 1),
    ),
    "mnli": (("premise", "hypothesis"), _mnli),
    "qnli": (("question", "sentence"), _roles("who {past} the {patient} ?", ACTIVE, 0)),
    "rte": (_PAIR, _rte),
    "wnli": (_PAIR, _wnli),
}
_CLASSES = {"mnli": 3, "stsb": 6}  # the others have 2


def demo_split(task: str, split: str, rows: int, seed: int = 0, reveal: bool = False) -> dict[str, list[Any]]:
    """Write one split of a demo task with the hub's columns.

    A function of its arguments alone; a shorter split is the beginning of a longer one. No sentence of one split is in
    another, also between seeds. MNLI's mismatched splits have other words (another genre).

    Args:
        rows: Length of every column.
        reveal: Give the true labels of a test split, which are -1 as on the hub otherwise (mrpc's are public there).

    Returns:
        The text columns (str), "label" (int from 0, or float 0-5 for stsb; all equally often, to within one row) and
        "idx" (0 to rows - 1).

    Raises:
        ValueError: The task or the split is unknown.
        SymloraError: The grammar has fewer rows.
    """
    known = demo_splits(task)
    if split not in known:
        raise ValueError(f"unknown split {split!r} of demo task {task!r}; known: {', '.join(known)}")
    (columns, build), classes = _TASKS[task], range(_CLASSES.get(task, 2))
    draw = _Draw((seed, zlib.crc32(task.encode()), zlib.crc32(split.encode())))
    vocabulary = ANIMALS if split.endswith("_mismatched") else PEOPLE
    side = split.partition("_")[0]
    hidden = side == "test" and not reveal and task != "mrpc"
    table: dict[str, list[Any]] = {name: [] for name in (*columns, "label", "idx")}
    seen: set[tuple[str, ...]] = set()
    labels: list[int] = []
    for index in range(rows):
        labels = labels or draw.some(classes, len(classes))
        label = labels.pop()
        for _ in range(_TRIES_PER_ROW):  # until a new row belongs to this side
            texts, content = build(draw, vocabulary, label)
            dealt = zlib.crc32(" ".join(content).encode()) % len(_SIDES)  # not `hash`, which differs between processes
            if _SIDES[dealt] == side and texts not in seen:
                break
        else:
            raise SymloraError(
                f"data.demo_rows: {task} has no {rows:,} different rows for {split}: the grammar ran out after "
                f"{index:,}."
            )
        seen.add(texts)
        shown = -1 if hidden else label
        cells = (*texts, float(shown) if task == "stsb" else shown, index)
        for column, cell in zip(table.values(), cells, strict=True):
            column.append(cell)
    return table


def demo_splits(task: str) -> tuple[str, ...]:
    """Name the splits of a task; ValueError for an unknown task."""
    if task not in _TASKS:
        raise ValueError(f"unknown demo task {task!r}; known: {', '.join(_TASKS)}")
    if task == "mnli":
        return ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
    return ("train", "validation", "test")
