"""Count what is tried, and judge what it shows."""

import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from faults.children import Ended
from faults.runs import Watch, left_behind

KINDS = ("single runs", "packs", "sweeps")  # of kills
MOST = (6, 1000)  # lines and characters of a message
MOST_OF_HYDRA = (18, 2000)  # it lists what there is, and of a failed sweep repeats the first job's overrides
SAYS_LEFT_OUT = ("left out: ", "WARNING", "warning", "error: ")  # how a command says what it goes on without


@dataclass
class Session:
    """What was tried, and what went wrong: by kind a sentence each, with the command."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))  # of moments, points and damage
    planned: int = 0  # tries
    kills: Counter[str] = field(default_factory=Counter)  # by kind
    bad: Counter[str] = field(default_factory=Counter)  # bad inputs, by kind
    ends: int = 0  # runs compared at the end
    resumed: int = 0  # of these, taken up from a checkpoint
    clear: int = 0  # bad inputs that were refused or left out with a clear message
    harmless: int = 0  # bad inputs whose result was right all the same
    faults: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _what: str = ""
    _started: float = field(default_factory=time.monotonic)
    _said: float = 0.0

    def begin(self, what: str) -> None:
        """Say what comes now, how many tries are done, and the time left."""
        self._what, self._said = what, time.monotonic()
        done, spent = self.kills.total() + self.bad.total(), self._said - self._started
        left = f", about {spent * max(0, self.planned - done) / done:.0f} s left" if done else ""
        print(f"  {done}/{self.planned} tries, {spent:.0f} s{left}: {what}", file=sys.stderr, flush=True)

    def tried(self, counter: Counter[str], kind: str) -> None:
        counter[kind] += 1
        if time.monotonic() - self._said > 15:
            self.begin(self._what)

    def add(self, fault: str, said: str, wrong: Iterable[object]) -> None:
        self.faults[fault] += [f"{sentence}  [{said}]" for sentence in wrong]

    def check_end(self, ended: Ended, said: str, statuses: Sequence[int] = (0,)) -> None:
        if ended.status not in statuses or "Traceback" in ended.err:
            self.add("did not end well", said, [f"status {ended.status} after {ended.seconds:.1f} s: {ended.brief}"])

    def compare(self, watch: Watch, expected: dict[str, dict[str, Any]], said: str) -> None:
        """Compare what was killed and started again, and count what was taken up: starting anew gives the same bits."""
        from symlora.store.folder import scan

        self.add("differs", said, watch.end(expected))
        self.add("lost", said, watch.lost)
        self.add("counted twice", said, watch.twice)
        self.add("left behind", said, left_behind(watch.root))
        for _, record in scan(watch.root):
            self.ends += 1
            self.resumed += bool(record.get("cost", {}).get("restarts"))

    def judge(self, kind: str, said: str, ended: Ended, names: Sequence[str], right: bool) -> None:
        """Judge the answer to a bad input: the `right` result, or a message that names one of `names`."""
        right = right and not ended.status
        self.tried(self.bad, kind)
        if "Traceback (most recent call last)" in ended.printed:
            self.add("traceback", said, [ended.brief])
        elif wrong := "" if right else unclear(ended, names):
            self.add("unclear", said, [wrong])
        else:
            self.clear += not right
            self.harmless += right

    def report(self, kills: int, bad: int) -> int:
        """Print what was found, and where less was tried than asked for; the exit status."""
        made, tried = self.kills.total(), self.bad.total()
        too_little = [
            (made < kills, f"{made} of {kills} kills were made: the commands ended before their moments"),
            (made and not self.resumed, f"{made} kills, and no run was taken up from a checkpoint"),
            (tried < bad, f"{tried} of {bad} bad inputs were tried"),
        ]
        self.faults["too little was tried"] += [sentence for holds, sentence in too_little if holds]
        for fault, sentences in self.faults.items():
            for sentence in sentences:
                print(f"{fault}: {sentence}")
        count = Counter({fault: len(sentences) for fault, sentences in self.faults.items()})
        kinds = ", ".join(f"{kind} {self.kills[kind]}" for kind in KINDS)
        inputs = ", ".join(f"{kind} {number}" for kind, number in self.bad.items())
        print(
            f"{self.ends} runs compared at the end, {self.resumed} of them taken up from a checkpoint",
            f"bad inputs refused or left out {self.clear}, harmless {self.harmless}; {inputs}",
            f"files left behind {count['left behind']}, commands that did not end well {count['did not end well']}, "
            f"other runs' files changed {count['other run changed']}",
            f"kills tried {made} ({kinds}), runs lost {count['lost']}, runs counted twice {count['counted twice']}, "
            f"resumed runs that differ {count['differs']}",
            f"bad inputs tried {tried}, tracebacks shown {count['traceback']}, unclear messages {count['unclear']}",
            sep="\n",
        )
        return 1 if any(self.faults.values()) else 0


def unclear(ended: Ended, names: Sequence[str]) -> str:
    """What is wrong with an answer to bad input: it should be short, and name the file or key."""
    if ended.status < 0:
        return f"ended by signal {-ended.status}: {ended.brief}"
    if ended.status:
        message = _message(ended)
    else:
        lines = [line for line in ended.printed.splitlines() if any(word in line for word in SAYS_LEFT_OUT)]
        message = "\n".join(lines)
    if not message:
        return f"exit status {ended.status} without a message" if ended.status else "the result changed in silence"
    if not any(name in message for name in names):
        return f"names none of {names}: {message[-400:]}"
    size = (sum(bool(line.strip()) for line in message.splitlines()), len(message))
    most = MOST_OF_HYDRA if "HYDRA_FULL_ERROR" in message else MOST
    if ended.status and (size[0] > most[0] or size[1] > most[1]):
        return f"{size[0]} lines, {size[1]} characters: {message[-400:]}"
    return ""


def _message(ended: Ended) -> str:
    """What stderr says from the first `error:` on; all of it where nothing begins so; stdout if stderr is empty."""
    lines = ended.err.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error:") or ": error: " in line]
    return "\n".join(lines[starts[0] :]) if starts else ended.err.strip() or ended.out.strip()
