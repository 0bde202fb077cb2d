"""Puts a run's model together: pre-trained encoder, head, adapter, precision."""

import copy
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symlora.config.schema import Config, MethodConfig
from symlora.errors import SymloraError
from symlora.model import attention
from symlora.model.adapter import add_adapter, initialise_from, set_rank_pattern
from symlora.model.dropout import DropoutStreams, set_dropout, use_own_dropout
from symlora.model.encoder import FLAT_MODEL_TYPES, Encoder, head_modules
from symlora.model.pack import Pack, check_packable
from symlora.model.quantization import four_bits, keep_trainable
from symlora.model.source import ModelSource, find, load_failure
from symlora.seeds import torch_generator

HEAD_FILE = "head.safetensors"


@dataclass(frozen=True)
class ParameterCounts:
    """Trained parameters: of the adapter, of the classification head, and of the encoder itself (full fine-tuning)."""

    adapter: int
    head: int
    encoder: int

    @property
    def total(self) -> int:
        """All that is trained."""
        return self.adapter + self.head + self.encoder

    def __str__(self) -> str:
        """For people: adapter, head and sum."""
        parts = [f"adapter {self.adapter:,}", f"head {self.head:,}"] + (
            [f"encoder {self.encoder:,}"] if self.encoder else []
        )
        return f"{' + '.join(parts)} = {self.total:,}"


class RunModel:
    """A model ready to train.

    Attributes:
        encoder: Takes batches, returns logits.
        peft: The PEFT model around it, None for methods without an adapter.
        streams: The run's dropout generator.
    """

    def __init__(self, encoder: Encoder, peft: Any | None, method: MethodConfig, streams: DropoutStreams):
        self.encoder = encoder
        self.peft = peft
        self.method = method
        self.streams = streams

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of what is trained."""
        return ((name, p) for name, p in self.encoder.named_parameters() if p.requires_grad)

    def in_head(self, name: str) -> bool:
        """Whether the parameter of this name is the head's."""
        return any(f".{head}." in f".{name}" for head in head_modules(self.encoder.model))

    def counts(self) -> ParameterCounts:
        """How many parameters are trained, and where."""
        kinds = {"adapter": 0, "head": 0, "encoder": 0}
        for name, parameter in self.trainable():
            kinds["head" if self.in_head(name) else "adapter" if self.peft is not None else "encoder"] += (
                parameter.numel()
            )
        return ParameterCounts(**kinds)

    def moving(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all that training changes: what is trained, and what a method writes between steps."""
        yield from self.trainable()
        for layer_name, layer in self.encoder.named_modules():
            for container in getattr(layer, "changing_layer_names", ()):
                for adapter, value in getattr(layer, container).items():
                    yield f"{layer_name}.{container}.{adapter}", value

    def state(self) -> dict[str, Tensor]:
        """A copy of all that training changes, on the CPU."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.moving()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` returned."""
        with torch.no_grad():
            for name, value in self.moving():
                value.copy_(state[name])

    def adapted_layers(self) -> Iterator[tuple[str, Any]]:
        """Names (within the encoder) and PEFT layers of the adapted projections."""
        if self.peft is None:
            return
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in self.encoder.model.named_modules():
            if isinstance(module, BaseTunerLayer) and hasattr(module, "get_delta_weight"):
                yield name, module

    def save(self, folder: Path) -> None:
        """Writes what is trained: a PEFT adapter, the head's tensors alone, or the whole model; always safetensors."""
        if self.peft is not None:
            set_rank_pattern(self.peft)
            # Embeddings are never trained; left to itself PEFT asks the hub whether the vocabulary grew.
            self.peft.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, every field "More Information Needed"
        elif self.method.trains == "head":
            from safetensors.torch import save_file

            folder.mkdir(parents=True, exist_ok=True)
            save_file({name.removeprefix("model."): value for name, value in self.state().items()}, folder / HEAD_FILE)
        else:
            self.encoder.model.save_pretrained(folder, safe_serialization=True)


def build(config: Config, device: torch.device, precision: str) -> RunModel:
    """The model of one run: `build_pack` of one."""
    return build_pack([config], device, precision).runs[0]


def build_pack(configs: Sequence[Config], device: torch.device, precision: str) -> Pack:
    """The models of runs that train together, on their device, every start drawn from its run's own seed.

    Args:
        configs: The runs; they share encoder, task and method, and differ in seed and hyper-parameters.
        device: Where to train.
        precision: `fp32` or `bf16` (of frozen weights and activations; an encoder that trains is always fp32).

    Raises:
        SymloraError: The encoder cannot be found or loaded, the adapter does not fit it, or `init_from` does not fit.
        CannotPack: These runs cannot share a pass (`Pack`).
    """
    first = configs[0]
    if len(configs) > 1:
        check_packable(first.method)
    source = find(first.model)
    # For encoders that do not run flat: bf16 sdpa is slow on a CPU (symlora.model.attention).
    slow_sdpa = device.type == "cpu" and precision == "bf16"
    model, drawn = load_classifier(source, first, "eager" if slow_sdpa else None)
    if encoder_is_frozen(first.method) and precision == "bf16":
        _encoder_to(model, torch.bfloat16)
    runs = [run_model(_with_shared_encoder(model), drawn, config, device) for config in configs[:-1]]
    runs.append(run_model(model, drawn, configs[-1], device))
    for run in runs:  # after every start was drawn, on the CPU: equal seeds give other numbers on other devices
        run.encoder.to(device)
    return Pack(runs)


def encoder_is_frozen(method: MethodConfig) -> bool:
    """Whether nothing of the encoder itself trains (full fine-tuning and BitFit do), so that it may be bfloat16."""
    return method.trains != "all" and not method.base_parameters


def _with_shared_encoder(model: Any) -> Any:
    """A copy of a classifier: the encoder's tensors are the very same, the head's are its own."""
    heads = tuple(f".{name}." for name in head_modules(model))
    shared = {id(p): p for name, p in model.named_parameters() if not any(part in f".{name}" for part in heads)}
    return copy.deepcopy(model, shared)


def run_model(model: Any, drawn: list[str], config: Config, device: torch.device) -> RunModel:
    """One run's head, adapter and dropout on a loaded classifier."""
    _draw(model, drawn, torch_generator(config.seed, "head"))
    if config.train.model_dropout is not None:
        set_dropout(model, config.train.model_dropout)
    peft_model = None
    if config.method.trains == "adapter":
        peft_model = add_adapter(model, config)
        if config.model.path is None:  # a folder may hold anything
            peft_model.peft_config["default"].revision = config.model.revision
    elif config.method.trains == "head":
        _train_head(model, config.method.base_parameters)
    streams = DropoutStreams([torch_generator(config.seed, "dropout", device=device)])
    use_own_dropout(model, streams)
    encoder = Encoder(model, model.config.pad_token_id or 0, streams)
    if encoder.max_length is not None and config.data.max_length > encoder.max_length:
        raise SymloraError(
            f"data.max_length={config.data.max_length}, but {config.model.name} has positions for "
            f"{encoder.max_length} tokens."
        )
    run_model = RunModel(encoder, peft_model, config.method, streams)
    if config.init_from is not None:
        initialise_from(run_model, Path(config.init_from))
    return run_model


def load_classifier(
    source: ModelSource, config: Config, attention_unless_flat: str | None = None
) -> tuple[Any, list[str]]:
    """A sequence classifier with pre-trained encoder weights, in float32, and the names of what each run must draw.

    Raises:
        SymloraError: It cannot be loaded, or encoder weights are missing from the file.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    attention.register()
    labels = config.task.labels
    quantization = four_bits(config.method.name) if config.method.load_in_4bit else {}
    try:
        hf_config = AutoConfig.from_pretrained(source.name_or_path, **source.arguments)
        hf_config.num_labels = len(labels) or 1
        if labels:
            hf_config.id2label = dict(enumerate(labels))
            hf_config.label2id = {label: number for number, label in enumerate(labels)}
        found = {key: getattr(hf_config, key, None) for key in config.model.shape}
        if found != config.model.shape:
            raise SymloraError(
                f"{source.name_or_path} has {found}, but model={config.model.name} is {config.model.shape}. Give it a "
                f"name of its own: model=local model.name=<name> model.path={source.name_or_path}"
            )
        flat = hf_config.model_type in FLAT_MODEL_TYPES
        with torch.random.fork_rng(devices=[]):  # the head is drawn below; the global generator must not move
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source.name_or_path,
                config=hf_config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # a head for another number of classes is drawn anew
                attn_implementation=attention.NAME if flat else attention_unless_flat,
                **quantization,
                **source.arguments,
            )
    except SymloraError:
        raise
    except Exception as error:  # OSError, ValueError, RuntimeError, safetensors' own: all mean "not loadable"
        raise load_failure(source, error) from error
    if not hasattr(getattr(model, model.base_model_prefix), "embeddings"):
        raise SymloraError(
            f"{source.name_or_path} is a {hf_config.model_type}: only encoders in BERT's manner (BERT, RoBERTa, "
            "ELECTRA, DeBERTa, DistilBERT, MPNet, ModernBERT, ...) can be trained here."
        )
    missing = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    heads = head_modules(model)
    foreign = [key for key in missing if not any(f".{name}." in f".{key}" for name in heads)]
    if foreign:
        raise SymloraError(
            f"The weights in {source.name_or_path} do not fit their config.json: {len(foreign)} encoder tensors are "
            f"missing or of another shape, for example {foreign[0]}."
        )
    keep_trainable(model)
    # PEFT writes this into the adapter's files, where a folder of this machine has no place.
    folder = Path(config.model.path).name if config.model.path else None
    model.name_or_path = model.config._name_or_path = config.model.hub or folder or config.model.name
    return model, missing


def _draw(model: Any, keys: list[str], generator: torch.Generator) -> None:
    """Head weights as transformers draws them, from the run's own generator.

    Matrices are normal with `initializer_range`, biases 0, and norms (ModernBERT's head has one) 1.
    """
    std = getattr(model.config, "initializer_range", 0.02)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key in keys:
            if key in parameters:
                parameter = parameters[key]
                if parameter.dim() > 1:
                    parameter.normal_(0.0, std, generator=generator)
                else:
                    parameter.fill_(1.0 if key.endswith(".weight") else 0.0)


def _encoder_to(model: Any, dtype: torch.dtype) -> None:
    base = getattr(model, model.base_model_prefix)
    base.to(dtype)
    if getattr(base, "pooler", None) is not None:
        base.pooler.float()


def _train_head(model: Any, base_parameters: Sequence[str]) -> None:
    """Only the head trains, and what of the encoder these expressions match."""
    heads = tuple(f".{name}." for name in head_modules(model))
    for expression in base_parameters:
        if not any(re.search(expression, name) for name, _ in model.named_parameters()):
            raise SymloraError(f"method.base_parameters: {expression!r} matches no parameter of this encoder.")
    for name, parameter in model.named_parameters():
        beside = any(re.search(expression, name) for expression in base_parameters)
        parameter.requires_grad_(beside or any(part in f".{name}" for part in heads))


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:<number>` names; `auto` heeds torchrun's LOCAL_RANK.

    Raises:
        SymloraError: It does not exist here.
    """
    if name == "auto":
        gpu = (
            torch.device("cuda", int(os.environ["LOCAL_RANK"])) if "LOCAL_RANK" in os.environ else torch.device("cuda")
        )
        return gpu if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SymloraError(f"device={name}: give auto, cpu, cuda or cuda:<number>.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SymloraError(f"device={name}: torch {torch.__version__} sees no CUDA device here.")
    if device.type not in ("cpu", "cuda"):
        raise SymloraError(f"device={name}: only cpu and cuda are supported.")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """`auto` becomes bf16 on a GPU that has it and on a CPU with AMX tiles (3x faster, measured), else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "bf16" if has_amx is not None and has_amx() else "fp32"
