"""Tell which methods' runs can share a pass."""

from symlora.adapters.registry import METHODS
from symlora.config.schema import MethodConfig

# PEFT's methods whose packed runs are tested to equal the runs alone (tests/test_methods.py); LORA includes DoRA.
# Others look at all their rows at once (LILY), write in place (FourierFT, OFT, VBLoRA), draw numbers (LoHa, LoKr), or
# were not tried.
PACKED_TYPES = frozenset({"ADALORA", "DELORA", "GRALORA", "HIRA", "HRA", "IA3", "LORA", "MISS", "VERA"})
OWN_STARTS = (True, False, "gaussian", "orthogonal")  # of LoRA; PiSSA, OLoRA and others rewrite the frozen weight


class CannotPack(ValueError):
    """These runs cannot share a pass; they can train alone."""


def why_alone(method: MethodConfig) -> str | None:
    """Say why a method's runs train alone; None if they need not."""
    why = None
    arguments = method.peft_config
    if method.trains == "all":
        why = "full fine-tuning trains the encoder"
    elif method.base_parameters:
        why = "base_parameters trains parts of the encoder"
    elif method.trains == "adapter":
        if method.peft_type in METHODS and METHODS[method.peft_type].trains_alone:
            why = METHODS[method.peft_type].trains_alone
        elif method.peft_type not in PACKED_TYPES | METHODS.keys():
            why = f"{method.peft_type} is not known to work on a stack of runs"
        elif method.load_in_4bit:
            why = "the encoder is held in 4 bits"
        elif arguments.get("bias", "none") != "none":
            why = f"bias={arguments['bias']} trains biases outside of the adapter"
        elif arguments.get("init_lora_weights", True) not in OWN_STARTS:
            why = f"init_lora_weights={arguments['init_lora_weights']} rewrites the frozen weights"
    return None if why is None else f"method={method.name}: {why}: such runs train alone"
