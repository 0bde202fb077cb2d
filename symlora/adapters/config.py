"""The fields that adapter methods of our own have in common, as PEFT configurations."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft.config import PeftConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from peft.utils.other import get_pattern_key
from peft.utils.peft_types import PeftType

# Query and value (LoRA §4.2 adapts these two): PEFT's own table, and the encoders it lacks.
_OF_BERT = (
    "albert big_bird camembert data2vec-text ernie megatron-bert roberta-prelayernorm roformer xlm-roberta-xl xmod"
)
QUERY_VALUE: dict[str, Any] = {
    **LORA_TARGETS,
    **{name: ["query", "value"] for name in _OF_BERT.split()},
    **{name: ["q_lin", "v_lin"] for name in ("distilbert", "flaubert", "xlm")},
    **{name: ["q_proj", "v_proj"] for name in ("eurobert", "modernbert-decoder", "nomic_bert")},
    "modernbert": ["Wqkv"],  # query, key and value in one matrix
    "mpnet": ["attn.q", "attn.v"],
}

# The projections that end a layer's two halves (attention and feed-forward): where bottleneck adapters sit (Houlsby et
# al. 2019, figure 2).
_LIKE_BERT = (
    "bert big_bird camembert data2vec-text deberta deberta-v2 electra ernie megatron-bert roberta roberta-prelayernorm "
    "roformer xlm-roberta xlm-roberta-xl"
)
SUBLAYER_OUTPUTS: dict[str, Any] = {
    **{name: ["attention.output.dense", "output.dense"] for name in _LIKE_BERT.split()},
    "albert": ["attention.dense", "ffn_output"],
    "distilbert": ["attention.out_lin", "ffn.lin2"],
    "modernbert": ["attn.Wo", "mlp.Wo"],
    "mpnet": ["attn.o", "output.dense"],
}


def check_whole(method: str, name: str, value: Any, least: int = 1) -> None:
    """Refuses a field that is not a whole number of at least `least`.

    Raises:
        ValueError: it is not. The message names the field and the value.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{method}: {name} must be a whole number of at least {least}, got {value!r}")


def check_pattern(method: str, name: str, value: Any) -> None:
    """Refuses a `rank_pattern` or `alpha_pattern` that is no dictionary from names (regular expressions) to numbers.

    Raises:
        ValueError: it is not. The message names the field and the value.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{method}: {name} must be a dictionary, got {value!r}")
    for key in value:
        check_expression(method, name, key)


def check_expression(method: str, name: str, value: Any) -> None:
    """Refuses what is neither a module's name nor a regular expression.

    Raises:
        ValueError: it is not. The message names the field and the value.
    """
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise ValueError(f"{method}: {name}: {value!r} is no name and no regular expression ({error})") from None


@dataclass
class AdapterConfig(PeftConfig):
    """Fields that every method has; names and meanings are PEFT's (`LoraConfig`) wherever PEFT has one.

    Args:
        target_modules: as in PEFT: names (or their ends), a regular expression, or "all-linear". None takes query
            and value of the model types in `QUERY_VALUE`.
        exclude_modules: names or a regular expression of modules to leave out.
        dropout: probability of dropping an input of the adapter; the base path is not dropped.
        bias: which biases of the base model train: "none", "all", or "<method>_only" (those of adapted modules).
        modules_to_save: modules trained and saved beside the adapter, for example a new head.
        init_weights: True starts at the base model's own output; False starts away from it (PEFT's tests want that).
        layers_to_transform, layers_pattern: adapt only the layers of these numbers.

    Raises:
        ValueError: a field is out of range. The message names the field and the value.
    """

    method: ClassVar[str]  # lower case; the parameters' prefix and PEFT's type name come from it

    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Modules to adapt; None takes query and value of a known model type."}
    )
    exclude_modules: list[str] | set[str] | str | None = field(default=None, metadata={"help": "Modules to leave out."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapter."})  # PEFT's default
    bias: str = field(default="none", metadata={"help": "Biases to train: none, all or <method>_only."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Other modules to train and save."})
    init_weights: bool = field(default=True, metadata={"help": "Start at the base model's own output."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layer numbers to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType(self.method.upper())
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"{self.method}: dropout must be at least 0 and below 1, got {self.dropout!r}")
        choices = ("none", "all", f"{self.method}_only")
        if self.bias not in choices:
            raise ValueError(f"{self.method}: bias must be one of {', '.join(choices)}, got {self.bias!r}")
        if not isinstance(self.init_weights, bool):
            raise ValueError(f"{self.method}: init_weights must be True or False, got {self.init_weights!r}")
        layers = self.layers_to_transform
        for layer in [] if layers is None else layers if isinstance(layers, (list, tuple)) else [layers]:
            check_whole(self.method, "layers_to_transform", layer, 0)
        for field_name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, field_name), str):
                check_expression(self.method, field_name, value)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if isinstance(self.target_modules, str) and (self.layers_to_transform, self.layers_pattern) != (None, None):
            raise ValueError("`layers_to_transform` and `layers_pattern` need `target_modules` to be a list of names")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("`layers_pattern` has no effect without `layers_to_transform`")

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Rank and scale of the module of this full name: (0, 1) for a method without a rank."""
        return 0, 1.0

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """How many values one adapted matrix trains, at rank `r` where there is one."""
        raise NotImplementedError


@dataclass
class LowRankConfig(AdapterConfig):
    """`AdapterConfig` and the fields of a method with a rank.

    Args:
        r: rank.
        alpha: the low-rank part is multiplied by alpha / r.
        rank_pattern, alpha_pattern: module name (or regular expression) to a rank or alpha other than the default.

    Raises:
        ValueError: a field is out of range. The message names the field and the value.
    """

    r: int = field(default=8, metadata={"help": "Rank."})  # LoRA Table 9 and PEFT's default
    alpha: float = field(default=8, metadata={"help": "The low-rank part is multiplied by alpha / r."})  # LoRA Table 9
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata={"help": "Module name to its own rank."})
    alpha_pattern: dict[str, float] = field(default_factory=dict, metadata={"help": "Module name to its own alpha."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for field_name in ("rank_pattern", "alpha_pattern"):
            check_pattern(self.method, field_name, getattr(self, field_name))
        for name, rank in {"r": self.r, **self.rank_pattern}.items():
            check_whole(self.method, f"rank {name!r}", rank)
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not (0 < alpha < math.inf):
                raise ValueError(f"{self.method}: alpha {name!r} must be a finite number above 0, got {alpha!r}")

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Rank and alpha / r of the module of this full name, after `rank_pattern` and `alpha_pattern`."""
        rank = self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), module), self.r)
        return rank, self.alpha_pattern.get(get_pattern_key(list(self.alpha_pattern), module), self.alpha) / rank
