"""Name the parts of a classifier's head."""

from typing import Any

from torch import nn


def head_modules(model: Any) -> list[str]:
    """Name the modules trained along with an adapter.

    All outside the encoder, and the encoder's pooler if it has one.

    LoRA's GLUE scripts train every parameter outside the `roberta.` prefix: RoBERTa's dense and output layers.
    BERT's dense layer is its pooler, inside the encoder; it is trained too, so that heads are alike.
    """
    prefix = model.base_model_prefix
    names = [name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())]
    if getattr(getattr(model, prefix), "pooler", None) is not None:
        names.append("pooler")
    return names


def output_layer(model: Any) -> str:
    """Name the head's last linear layer.

    `classifier.out_proj` in RoBERTa, `classifier` in BERT.
    """
    names: list[str] = [
        name.replace(".modules_to_save.default", "")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and "original_module" not in name
    ]
    return names[-1]
