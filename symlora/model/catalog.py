"""List the methods: parameters on a live model, merges, packs.

The model has RoBERTa-base's shape and no values (torch's meta device), so that a start costs nothing; a method whose
size depends on the values of the weights (SARA) is counted on random ones.
"""

import argparse
import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from symlora.config.compose import CONFIG_DIR
from symlora.config.formatting import text_table
from symlora.config.schema import Config, MethodConfig
from symlora.errors import SymloraError
from symlora.model.build import four_bits, run_model
from symlora.model.dropout import Masks
from symlora.model.packable import why_alone
from symlora.model.run_model import ParameterCounts, RunModel

NOTHING = "–"
CAPTION = (
    "trained: values on RoBERTa-base (12 layers, 768 wide) at the settings of configs/method, counted on a live model\n"
    "of that shape. The classification head, which trains too (592,130 values for two classes), is left out.\n"
    "merges: into the weights, at no cost afterwards. packs: several runs share one pass over the frozen encoder."
)


@dataclass(frozen=True)
class Method:
    """One method as it stands here."""

    config: MethodConfig  # its YAML file
    counts: ParameterCounts | None  # what it trains on RoBERTa-base; None where it cannot be built here
    by_weights: bool  # whether the count depends on the values of the weights (random ones here)
    merges: bool | None  # whether the adapter can be merged; None where there is none (`trains: head` or `all`)
    packs: bool  # whether runs can share an encoder
    notes: tuple[str, ...]  # what it does not do here, and why: run, merge, pack

    @property
    def trained(self) -> int | None:
        """Trained values without the head."""
        return None if self.counts is None else self.counts.total - self.counts.head

    @property
    def number(self) -> str:
        """Format the count; ~ where it depends on the weights."""
        return NOTHING if self.trained is None else f"{'~' * self.by_weights}{self.trained:,}"


def names() -> list[str]:
    """List every method's name, in alphabetical order."""
    return sorted(path.stem for path in (CONFIG_DIR / "method").glob("*.yaml"))


def load(names_wanted: Sequence[str]) -> list[MethodConfig]:
    """Load the files of these methods, in this order.

    Raises:
        SymloraError: There is no such method.
    """
    known = names()
    for name in names_wanted:
        if name not in known:
            raise SymloraError(f"method={name}: there is no configs/method/{name}.yaml. There are: {', '.join(known)}.")
    # By Hydra, because a file may build on another (`defaults`); all at once, because it takes a tenth of a second.
    overrides = [f"+method@method{number}={name}" for number, name in enumerate(names_wanted)]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        content = hydra_compose(overrides=overrides)
    schema, found = OmegaConf.structured(MethodConfig), []
    for name, values in zip(names_wanted, content.values(), strict=True):
        try:
            config = OmegaConf.to_object(OmegaConf.merge(schema, values))
        except OmegaConfBaseException as error:
            raise SymloraError(f"configs/method/{name}.yaml: {str(error).splitlines()[0]}") from None
        assert isinstance(config, MethodConfig)
        found.append(config)
    return found


def examine(method: MethodConfig) -> Method:
    """Build a method on RoBERTa-base's shape, count and try to merge."""
    notes: list[str] = []
    counts, merges, by_weights = None, None, False
    try:
        try:
            run = _run(method, "meta")
        except (SymloraError, RuntimeError) as error:
            by_weights = "meta" in str(error)
            if not by_weights:
                raise
            run = _run(method, "cpu")
        counts = run.counts()
        if run.peft is not None:
            merge_problem = _merge_problem(run)
            if "meta tensor" in str(merge_problem):  # merging asks for the values of the weights
                merge_problem = _merge_problem(_run(method, "cpu"))
            merges = merge_problem is None
            notes += [f"not merged: {merge_problem}"] * (not merges)
    except SymloraError as error:
        notes.append(f"not built here: {error}")
    if method.load_in_4bit:  # counted on a matrix that is not packed into 4 bits
        merges = False
        notes.append("not merged: a weight of 4 bits would round the sum")
        try:
            four_bits(method.name)
        except SymloraError as error:
            notes.append(f"does not run here: {error}")
    if alone := why_alone(method):
        notes.append(f"not packed: {alone}")
    return Method(method, counts, by_weights, merges, alone is None, tuple(notes))


def _merge_problem(run: RunModel) -> Exception | None:
    """Return why the run's adapter does not merge; None where it does."""
    try:
        assert run.peft is not None
        run.peft.merge_adapter()
    except (NotImplementedError, ValueError) as error:
        return error
    return None


def _run(method: MethodConfig, device: str) -> RunModel:
    config = Config(method=copy.deepcopy(method))
    config.model.name = "roberta-base"
    with torch.device(device):  # created there, because PEFT makes what it moves trainable (AdaLoRA's ranknum)
        return run_model(copy.deepcopy(_classifier(device)), [], config, Masks())


@functools.cache
def _classifier(device: str, layers: int = 12) -> Any:
    """Make RoBERTa-base's shape without values (`meta`) or with random ones."""
    from transformers import AutoModelForSequenceClassification, RobertaConfig

    from symlora.model import attention

    attention.register()
    words = 50_265 if device == "meta" else 8
    shape = RobertaConfig(vocab_size=words, max_position_embeddings=514, type_vocab_size=1, num_hidden_layers=layers)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(shape, attn_implementation=attention.NAME)


HEADER = ("method", "trained", "merges", "packs", "equation", "source")


def table(methods: Sequence[Method], *, markdown: bool = False) -> str:
    """Format one line per method, with notes on what is missing."""
    rows = [
        (m.config.name, m.number, _word(m.merges), _word(m.packs), m.config.equation, m.config.source) for m in methods
    ]
    notes = [f"{m.config.name}: {n}" for m in methods for n in m.notes if n.startswith(("not built", "does not run"))]
    if any(method.by_weights for method in methods):
        notes.append("~ depends on the values of the weights: random ones here")
    notes.append(
        f"{NOTHING} nothing to merge. Why a method does not merge or pack: make methods ARGS='--method <name>'"
    )
    if not markdown:
        return "\n".join([CAPTION, "", text_table(HEADER, rows, "lrllll"), "", *notes])
    escaped = [[cell.replace("|", r"\|").replace("*", r"\*") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in (HEADER, ["---", "---:", *["---"] * 4], *escaped)]
    return "\n".join([CAPTION.replace("\n", " "), "", *lines, "", *(f"- {note}" for note in notes)]) + "\n"


def details(method: Method) -> str:
    """Describe one method in full."""
    config = method.config
    lines = [config.equation, config.source, f"configs/method/{config.name}.yaml"]
    lines += [f"  {key}: {value}" for key, value in config.peft_config.items()]
    if method.counts is not None:
        about = " (the adapter's size depends on the weights; random ones here)" if method.by_weights else ""
        lines.append(f"trained on RoBERTa-base with two classes: {method.counts}{about}")
    lines.append(f"merges: {_word(method.merges)}, packs: {_word(method.packs)}")
    return "\n  ".join([config.name, *lines, *method.notes])


def _word(value: bool | None) -> str:
    return NOTHING if value is None else "yes" if value else "no"


def command(chosen: argparse.Namespace) -> int:
    """Run `symlora methods`."""
    methods = [examine(method) for method in load([chosen.method] if chosen.method else names())]
    print(details(methods[0]) if chosen.method else table(methods, markdown=chosen.markdown))
    return 0
