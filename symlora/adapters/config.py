"""Hold the fields that our adapter methods share, as PEFT configurations."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from peft.config import PeftConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from peft.utils.other import get_pattern_key
from peft.utils.peft_types import PeftType

_LIKE_BERT = (
    "bert big_bird camembert data2vec-text deberta deberta-v2 electra ernie megatron-bert roberta roberta-prelayernorm "
    "roformer xlm-roberta xlm-roberta-xl"
)
# Query and value (LoRA §4.2 adapts these two): PEFT's own table, and the encoders it lacks.
QUERY_VALUE: dict[str, Any] = {
    **{name: ["query", "value"] for name in ("albert", "xmod", *_LIKE_BERT.split())},
    **LORA_TARGETS,  # among others DeBERTa's, whose names are not BERT's
    **{name: ["q_lin", "v_lin"] for name in ("distilbert", "flaubert", "xlm")},
    **{name: ["q_proj", "v_proj"] for name in ("eurobert", "modernbert-decoder", "nomic_bert")},
    "modernbert": ["Wqkv"],  # query, key and value in one matrix
    "mpnet": ["attn.q", "attn.v"],
}

# The projections that end a layer's two halves (attention and feed-forward): where bottleneck adapters sit (Houlsby et
# al. 2019, figure 2).
SUBLAYER_OUTPUTS: dict[str, Any] = {
    **{name: ["attention.output.dense", "output.dense"] for name in _LIKE_BERT.split()},
    "albert": ["attention.dense", "ffn_output"],
    "distilbert": ["attention.out_lin", "ffn.lin2"],
    "modernbert": ["attn.Wo", "mlp.Wo"],
    "mpnet": ["attn.o", "output.dense"],
}

# A condition on a field's value: words for the message, and a test (an error counts as failure).
Rule = tuple[str, Callable[[Any], bool]]


def number(words: str, test: Callable[[float], bool]) -> Rule:
    """Make the rule of a number, which True and False are not."""
    return words, lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and test(value)


def whole(least: int) -> Rule:
    """Make the rule of a whole number of at least `least`."""
    return number(f"a whole number of at least {least}", lambda value: isinstance(value, int) and value >= least)


def one_of(*choices: str) -> Rule:
    """Make the rule of a few words."""
    return " or ".join(choices), lambda value: value in choices


def patterns(rule: Rule) -> Rule:
    """Make the rule of a dictionary from module names to numbers."""
    words, test = rule
    return (
        f"a dictionary from names or regular expressions to {words}",
        lambda value: all(bool(re.compile(key)) and test(entry) for key, entry in value.items()),
    )


WHOLE = whole(1)
POSITIVE = number("a finite number above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = number("a finite number of at least 0", lambda value: 0 <= value < math.inf)
BELOW_ONE = number("at least 0 and below 1", lambda value: 0 <= value < 1)
STEPS = number("a whole number of at least 0, or a share", lambda value: 0 < value < 1 or whole(0)[1](value))
YES_OR_NO: Rule = "True or False", lambda value: isinstance(value, bool)
TARGETS: Rule = "names or a regular expression", lambda value: not isinstance(value, str) or bool(re.compile(value))
LAYERS: Rule = (
    "whole numbers of at least 0",
    lambda value: all(map(whole(0)[1], value if isinstance(value, (list, tuple)) else [value])),
)


def in_steps(value: float, steps: int) -> int:
    """Convert a number or a share of steps to a number."""
    return round(value * steps) if value < 1 else int(value)


def setting(default: Any, text: str, rule: Rule | None = None) -> Any:
    """Declare a field with its default, its help text and its rule.

    A default of None is allowed whatever the rule says.
    """
    values: dict[str, Any] = {"default_factory": dict} if default == {} else {"default": default}
    return field(**values, metadata={"help": text, "rule": rule})


@dataclass
class AdapterConfig(PeftConfig):
    """Hold the fields that every method has.

    Names and meanings are PEFT's (`LoraConfig`) wherever PEFT has one. A method names itself in its class statement:
    `class LoraXsConfig(LowRankConfig, method="loraxs")`.

    Raises:
        ValueError: A field breaks its rule. The message names method, field and value.
    """

    method: ClassVar[str]  # lower case; the parameters' prefix and PEFT's type name come from it

    target_modules: list[str] | set[str] | str | None = setting(
        None, "Names (or their ends), a regular expression or all-linear; None takes the method's usual ones.", TARGETS
    )
    exclude_modules: list[str] | set[str] | str | None = setting(None, "Modules to leave out.", TARGETS)
    dropout: float = setting(0.0, "Dropout of the adapter's input; the base path is not dropped.", BELOW_ONE)  # PEFT's
    bias: str = setting("none", "Biases to train: none, all or <method>_only (those of adapted modules).")
    modules_to_save: list[str] | None = setting(None, "Modules trained and saved with the adapter, such as a head.")
    # PEFT's own tests want False.
    init_weights: bool = setting(True, "Start at the base model's own output; False starts away from it.", YES_OR_NO)
    layers_to_transform: list[int] | int | None = setting(None, "Numbers of the layers to adapt.", LAYERS)
    layers_pattern: list[str] | str | None = setting(None, "Name of the list of layers.")

    def __init_subclass__(cls, method: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if method:
            cls.method = method

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType(self.method.upper())
        rules = {each.name: (each.metadata.get("rule"), each.default) for each in fields(self)}
        rules["bias"] = (one_of("none", "all", f"{self.method}_only"), "none")
        for name, (rule, default) in rules.items():
            value = getattr(self, name)
            if rule is not None and not (value is None and default is None) and not _keeps(rule, value):
                raise ValueError(f"{self.method}: {name} must be {rule[0]}, got {value!r}")
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, set(getattr(self, name)))
        if isinstance(self.target_modules, str) and (self.layers_to_transform, self.layers_pattern) != (None, None):
            raise ValueError("`layers_to_transform` and `layers_pattern` need `target_modules` to be a list of names")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("`layers_pattern` has no effect without `layers_to_transform`")

    def rank_and_scale(self, module: str, layer: Any = None) -> tuple[int, float]:
        """Return a module's rank and scale: (0, 1) without ranks."""
        return 0, 1.0


def _keeps(rule: Rule, value: Any) -> bool:
    try:
        return rule[1](value)
    except (AttributeError, TypeError, re.error):
        return False


@dataclass
class LowRankConfig(AdapterConfig):
    """Add the fields of a method with a rank to `AdapterConfig`."""

    r: int = setting(8, "Rank.", WHOLE)  # LoRA Table 9 and PEFT's default
    alpha: float = setting(8, "The low-rank part is multiplied by alpha / r.", POSITIVE)  # LoRA Table 9
    rank_pattern: dict[str, int] = setting({}, "Module name or regular expression to its own rank.", patterns(WHOLE))
    alpha_pattern: dict[str, float] = setting({}, "The same, to its own alpha.", patterns(POSITIVE))

    def rank_and_scale(self, module: str, layer: Any = None) -> tuple[int, float]:
        """Return a module's rank and alpha / r, by its full name."""
        rank = self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), module), self.r)
        return rank, self.alpha_pattern.get(get_pattern_key(list(self.alpha_pattern), module), self.alpha) / rank
