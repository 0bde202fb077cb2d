"""Define a small English grammar: word lists, and events written as sentences.

An event is who does what to whom. The forms below say the same event with the same nouns in different orders
(active, short passive, questions), so that two rows can hold the same words and yet differ in who acts. That is what
makes the demo tasks hard for a frozen encoder: the label lies in the roles and never in the words.

Words are single word pieces of the BERT vocabulary where possible (short sequences), and each verb forms its past tense
and participle alike ("praised", "was praised"), so that the form of the verb does not give the roles away.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class Vocabulary:
    """Words of one genre: nouns, verbs in base form, adjuncts."""

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    places: tuple[str, ...]


PEOPLE = Vocabulary(
    nouns=_words(
        "doctor teacher farmer lawyer king queen guard nurse pilot judge artist actor "
        "student sailor soldier poet painter singer writer driver dancer hunter prince priest"
    ),
    verbs=_words("praise help follow visit warn thank call trust ignore hire reward protect support insult question"),
    places=("at the party", "on monday", "in the garden", "after lunch", "near the river", "last night"),
)

# The other genre, of MNLI's mismatched splits: no noun, verb or place in common with PEOPLE.
ANIMALS = Vocabulary(
    nouns=_words("dog cat horse lion bear tiger monkey rabbit goat pig cow elephant bird eagle snake duck frog rat"),
    verbs=_words("chase attack scare avoid push watch notice touch hunt kick fear join"),
    places=("in the forest", "on the farm", "at dawn", "before the storm", "behind the barn", "in the snow"),
)

STATES = _words("happy angry tired busy rich famous nervous young old sad")

# For CoLA: nouns that a reflexive pronoun agrees with.
MEN = _words("man boy king prince father son brother uncle husband actor monk gentleman")
WOMEN = _words("woman girl queen princess mother daughter sister aunt wife actress nun lady")

# Things said to be good or bad, for SST-2.
ASPECTS = _words("plot acting music ending story cast script dialogue humor pace opening hero")
GOOD = _words("brilliant wonderful excellent superb charming funny moving clever fresh lovely")
BAD = _words("terrible awful boring stupid dull weak painful ugly cheap silly")


@dataclass(frozen=True)
class Causal:
    """A Winograd pattern: an adjective of `of_a` explains `first` by its {a}."""

    first: str
    of_a: tuple[str, ...]
    of_b: tuple[str, ...]
    nouns: tuple[str, ...]


_BOXES = _words("box bag basket case trunk drawer bucket jar cup pot bottle tray")
CAUSALS = (
    Causal("the {a} did not fit into the {b}", ("big", "large", "wide"), ("small", "little", "narrow"), _BOXES),
    Causal("the {a} did not catch the {b}", ("slow", "tired", "lazy"), ("fast", "quick", "clever"), ANIMALS.nouns),
    Causal("the {a} could not lift the {b}", ("weak", "small", "tired"), ("heavy", "big", "fat"), ANIMALS.nouns),
    Causal(
        "the {a} ran away from the {b}", ("nervous", "afraid", "shy"), ("loud", "dangerous", "angry"), ANIMALS.nouns
    ),
)


ACTIVE, PASSIVE = "the {agent} {did} the {patient} .", "the {patient} {was} {past} ."  # forms of `say`


def past(verb: str) -> str:
    """Form past tense and participle of a regular verb: "praised", "visited"."""
    return verb + ("d" if verb.endswith("e") else "ed")


def say(form: str, agent: str, verb: str, patient: str, happened: bool = True) -> str:
    """Write an event in a form: "the pilot was not praised ."."""
    did, was = (past(verb), "was") if happened else (f"did not {verb}", "was not")
    return form.format(agent=agent, verb=verb, patient=patient, past=past(verb), did=did, was=was)
