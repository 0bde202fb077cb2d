"""Whether a command answers bad input as it should: it stops with a short message that names the file or key."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from faults.children import Ended

MOST_LINES = 6
MOST_LINES_OF_HYDRA = 18  # it lists what there is, and adds where it looked
MOST_CHARACTERS = 1000
MOST_CHARACTERS_OF_HYDRA = 2000  # of a failed sweep it repeats the first job's overrides
SAYS_LEFT_OUT = (
    "left out: ",
    "WARNING",
    "warning",
    "error: ",
)  # how a command that goes on says what it goes on without


@dataclass
class Verdicts:
    """What bad input was tried, and how it was answered.

    Attributes:
        tried: Tries by kind.
        clear: Refused, or left out, with a clear message.
        harmless: The result was the right one all the same.
        tracebacks: A sentence each.
        unclear: The same: no message, or one that does not name what is wrong, or a result that changed in silence.
        damaged: Files of other runs that were changed.
        ignored: Runs that trained anew beside a whole checkpoint.
    """

    tried: Counter[str] = field(default_factory=Counter)
    clear: int = 0
    harmless: int = 0
    tracebacks: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def enter(self, kind: str, said: str, ended: Ended, names: Sequence[str], same: bool) -> None:
        """Judges one try.

        Args:
            kind: For the count.
            said: The try, for the list of what went wrong.
            ended: The command.
            names: The message must name one of these.
            same: Whether the command's result, if it came to one, is the right one.
        """
        self.tried[kind] += 1
        if "Traceback (most recent call last)" in ended.printed:
            self.tracebacks.append(f"{said}: {_brief(ended.err)}")
            return
        wrong = unclear(ended, names) if ended.status or not same else ""
        if wrong:
            self.unclear.append(f"{said}: {wrong}")
        elif ended.status or not same:
            self.clear += 1
        else:
            self.harmless += 1


def unclear(ended: Ended, names: Sequence[str]) -> str:
    """What is wrong with the answer; nothing where it is clear."""
    if ended.status < 0:
        return f"ended by signal {-ended.status}: {_brief(ended.err)}"
    if ended.status == 0:
        lines = [line for line in ended.printed.splitlines() if any(word in line for word in SAYS_LEFT_OUT)]
        if not any(name in line for name in names for line in lines):
            return "the result changed in silence" if not lines else f"names none of {names}: {_brief(' '.join(lines))}"
        return ""
    message = message_of(ended)
    if not message:
        return f"exit status {ended.status} without a message"
    if not any(name in message for name in names):
        return f"names none of {names}: {_brief(message)}"
    lines = [line for line in message.splitlines() if line.strip()]
    of_hydra = "HYDRA_FULL_ERROR" in message
    most_lines = MOST_LINES_OF_HYDRA if of_hydra else MOST_LINES
    most_characters = MOST_CHARACTERS_OF_HYDRA if of_hydra else MOST_CHARACTERS
    if len(lines) > most_lines or len(message) > most_characters:
        return f"{len(lines)} lines, {len(message)} characters: {_brief(message)}"
    return ""


def message_of(ended: Ended) -> str:
    """What stderr says from the first `error:` on; all of it where nothing begins so; stdout if stderr is empty."""
    lines = ended.err.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("error:") or ": error: " in line:
            return "\n".join(lines[number:])
    return ended.err.strip() or ended.out.strip()


def _brief(text: str) -> str:
    return " ".join(text.split())[-400:]
