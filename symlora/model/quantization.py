"""Hold a frozen encoder in 4 bits (QLoRA, arXiv 2305.14314, section 3)."""

from importlib.util import find_spec
from typing import Any

from symlora.errors import SymloraError

# Heads under the names that transformers gives them, and BERT's pooler: they are trained (head.head_modules).
_HEADS = ["classifier", "pooler", "pre_classifier", "score", "head", "summary"]


def four_bits(method: str) -> dict[str, Any]:
    """Return `from_pretrained` arguments for NF4 with double quantisation.

    For all linear layers but the head's.

    Raises:
        SymloraError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise SymloraError(f"method={method} needs bitsandbytes: pip install bitsandbytes.")
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=_HEADS,
    )
    return {"quantization_config": config, "device_map": {"": "cpu"}}  # starts are drawn there, then all is moved


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes' layers trainable on CPUs with AVX-512 BF16.

    It repacks weights when they score, and cannot train on them afterwards.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
