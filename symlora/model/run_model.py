"""Hold one run's model: encoder, adapter, head."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from symlora.config.schema import MethodConfig
from symlora.model.encoder import Encoder
from symlora.model.head import head_modules

HEAD_FILE = "head.safetensors"


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of trained parameters: adapter, head, encoder.

    The encoder's own are trained in full fine-tuning and BitFit.
    """

    adapter: int
    head: int
    encoder: int

    @property
    def total(self) -> int:
        """Return the sum."""
        return self.adapter + self.head + self.encoder

    def __str__(self) -> str:
        """Format adapter, head and sum."""
        encoder = f" + encoder {self.encoder:,}" if self.encoder else ""
        return f"adapter {self.adapter:,} + head {self.head:,}{encoder} = {self.total:,}"


class RunModel:
    """A model ready to train.

    Attributes:
        encoder: Takes batches, returns logits.
        peft: The PEFT model around it, None for methods without an adapter.
    """

    def __init__(self, encoder: Encoder, peft: Any | None, method: MethodConfig):
        self.encoder = encoder
        self.peft = peft
        self.method = method

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the trained parameters, by name."""
        return ((name, p) for name, p in self.encoder.named_parameters() if p.requires_grad)

    def in_head(self, name: str) -> bool:
        """Tell whether a parameter of this name is the head's."""
        return any(f".{head}." in f".{name}" for head in head_modules(self.encoder.model))

    def counts(self) -> ParameterCounts:
        """Count the trained parameters."""
        kinds = {"adapter": 0, "head": 0, "encoder": 0}
        other = "encoder" if self.peft is None else "adapter"
        for name, parameter in self.trainable():
            kinds["head" if self.in_head(name) else other] += parameter.numel()
        return ParameterCounts(**kinds)

    def moving(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over everything that training changes.

        What is trained, and what a method writes between steps.
        """
        yield from self.trainable()
        for layer_name, layer in self.encoder.named_modules():
            for container in getattr(layer, "changing_layer_names", ()):
                for adapter, value in getattr(layer, container).items():
                    yield f"{layer_name}.{container}.{adapter}", value

    def state(self) -> dict[str, Tensor]:
        """Copy everything that training changes to the CPU."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.moving()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        with torch.no_grad():
            for name, value in self.moving():
                value.copy_(state[name])

    def adapted_layers(self) -> Iterator[tuple[str, Any]]:
        """Iterate over names (within the encoder) and layers of adapted projections."""
        for name, module in self.encoder.model.named_modules():
            if isinstance(module, BaseTunerLayer) and hasattr(module, "get_delta_weight"):
                yield name, module

    def save(self, folder: Path) -> None:
        """Save what is trained as safetensors.

        A PEFT adapter, the head's tensors alone, or the whole model.
        """
        if self.peft is not None:
            set_rank_pattern(self.peft)
            # Embeddings are never trained; left to itself PEFT asks the hub whether the vocabulary grew.
            self.peft.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, every field "More Information Needed"
        elif self.method.trains == "head":
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name.removeprefix("model."): value for name, value in self.state().items()}, folder / HEAD_FILE)
        else:
            self.encoder.model.save_pretrained(folder, safe_serialization=True)


def set_rank_pattern(wrapped: Any) -> None:
    """Record AdaLoRA's remaining singular values in its configuration.

    It must be right when the adapter is saved.

    PEFT saves the triplets that `rank_pattern` names and drops the others. Its own pattern is the last one that
    training made: it does not fit an earlier epoch's model, nor values that moved again since they were set to 0.
    """
    config = wrapped.peft_config["default"]
    if config.peft_type != "ADALORA":
        return
    left = {
        name: (value != 0).flatten().tolist()
        for name, value in wrapped.base_model.model.named_parameters()
        if name.endswith("lora_E.default")
    }
    flags = [flag for rows in left.values() for flag in rows]
    config.rank_pattern = left if any(flags) and not all(flags) else None  # all 0: not trained yet
