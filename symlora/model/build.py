"""Build a run's model: pre-trained encoder, head, adapter, precision."""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from symlora.config.schema import Config, MethodConfig
from symlora.errors import SymloraError
from symlora.model import attention
from symlora.model.adapter import add_adapter
from symlora.model.device import DTYPES, keep_memory
from symlora.model.dropout import Masks, set_dropout, use_dropout_modules, use_own_dropout
from symlora.model.encoder import FLAT_MODEL_TYPES, Encoder
from symlora.model.fused import use_fused_output
from symlora.model.head import head_modules, output_layer
from symlora.model.pack import PackedModel
from symlora.model.packable import CannotPack, why_alone
from symlora.model.projection import use_projection
from symlora.model.run_model import RunModel
from symlora.model.source import ModelSource, find, load_failure, wrong_shape
from symlora.model.start_from import initialise_from
from symlora.seeds import torch_generator

Load = Callable[[Any], Any]
# Heads under the names that transformers gives them, and BERT's pooler: they are trained (head.head_modules).
_HEADS = ["classifier", "pooler", "pre_classifier", "score", "head", "summary"]


def build(config: Config, device: torch.device, precision: str) -> RunModel:
    """Build the model of one run: `build_pack` of one."""
    return build_pack([config], device, precision).runs[0]


def build_pack(
    configs: Sequence[Config], device: torch.device, precision: str, trained: Sequence[Load] | None = None
) -> PackedModel:
    """Build the models of runs that train together, on their device.

    Every start is drawn from its run's own seed.

    Args:
        configs: The runs; they share encoder, task and method, and differ in seed and hyper-parameters.
        precision: A key of DTYPES, of frozen weights and activations; an encoder that trains is always fp32.
        trained: For each run, what puts its trained values on the classifier and returns PEFT's model, if any.

    Raises:
        CannotPack: These runs cannot share a pass (`PackedModel`).
    """
    first = configs[0]
    if len(configs) > 1 and (alone := why_alone(first.method)):
        raise CannotPack(alone)
    if device.type == "cpu":
        keep_memory()
    source = find(first.model)
    # For encoders on padded batches: sdpa in bf16 is slow on a CPU (symlora.model.attention).
    slow_sdpa = device.type == "cpu" and precision != "fp32"
    model, drawn = load_classifier(source, first, "eager" if slow_sdpa else None)
    if encoder_is_frozen(first.method) and precision != "fp32":
        base = getattr(model, model.base_model_prefix)
        base.to(DTYPES[precision])
        if getattr(base, "pooler", None) is not None:
            base.pooler.float()
    masks = Masks()
    loads: Sequence[Load | None] = trained or [None] * len(configs)
    each = zip(configs[:-1], loads[:-1], strict=True)
    runs = [run_model(_with_shared_encoder(model), drawn, config, masks, load) for config, load in each]
    runs.append(run_model(model, drawn, configs[-1], masks, loads[-1]))
    for run in runs:  # starts are drawn on the CPU, because a seed gives other numbers on other devices
        run.encoder.to(device)
    return PackedModel(runs)


def encoder_is_frozen(method: MethodConfig) -> bool:
    """Tell whether nothing of the encoder trains, which allows 16 bits."""
    biases = method.peft_config.get("bias", "none") != "none"
    return method.trains != "all" and not method.base_parameters and not biases


def _with_shared_encoder(model: Any) -> Any:
    """Copy a classifier: the encoder's tensors are shared, the head's copied."""
    heads = tuple(f".{name}." for name in head_modules(model))
    shared = {id(p): p for name, p in model.named_parameters() if not any(part in f".{name}" for part in heads)}
    return copy.deepcopy(model, shared)


def run_model(model: Any, drawn: list[str], config: Config, masks: Masks, trained: Load | None = None) -> RunModel:
    """Add one run's head, adapter and dropout to a loaded classifier."""
    _draw(model, drawn, torch_generator(config.seed, "head"))
    if config.train.model_dropout is not None:
        set_dropout(model, config.train.model_dropout)
    peft_model = None
    if trained is not None:
        peft_model = trained(model)
    elif config.method.trains == "adapter":
        peft_model = add_adapter(model, config)
        if config.model.path is None:  # a folder has no revision
            peft_model.peft_config["default"].revision = config.model.revision
    elif config.method.trains == "head":
        _train_head(model, config.method.base_parameters)
    use_own_dropout(model, masks)
    use_projection(model, masks)
    if model.config._attn_implementation == attention.NAME:  # blocks of other encoders may compute something else
        use_fused_output(model)
    encoder = Encoder(model, model.config.pad_token_id or 0, masks)
    if encoder.max_length is not None and config.data.max_length > encoder.max_length:
        raise SymloraError(
            f"data.max_length={config.data.max_length}, but {config.model.name} has positions for "
            f"{encoder.max_length} tokens."
        )
    run_model = RunModel(encoder, peft_model, config.method)
    if config.init_from is not None:
        initialise_from(run_model, Path(config.init_from))
    return run_model


def four_bits(method: str) -> dict[str, Any]:
    """Return arguments for NF4 in all but the head (QLoRA, arXiv 2305.14314).

    Raises:
        SymloraError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise SymloraError(f"method={method} needs bitsandbytes: pip install bitsandbytes.")
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
    """Keep bitsandbytes' layers trainable on CPUs with AVX-512 BF16."""
    for module in model.modules():  # it would repack the weights in evaluation, and could not train on them afterwards
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_classifier(
    source: ModelSource, config: Config, attention_unless_flat: str | None = None
) -> tuple[Any, list[str]]:
    """Load a float32 classifier, and the names of parameters to draw.

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
        stored_classes = [str(name).lower() for _, name in sorted((hf_config.id2label or {}).items())]
        hf_config.num_labels = len(labels) or 1
        if labels:
            hf_config.id2label = dict(enumerate(labels))
            hf_config.label2id = {label: number for number, label in enumerate(labels)}
        found = {key: getattr(hf_config, key, None) for key in config.model.shape}
        if found != config.model.shape:
            raise wrong_shape(source, config.model.name, found, config.model.shape)
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
            f"{source.name_or_path} is a {hf_config.model_type}: only BERT-style encoders (BERT, RoBERTa, "
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
    if flat and hf_config.model_type == "modernbert":
        use_dropout_modules(model)
    keep_trainable(model)
    model.loaded = _describe_loaded(model, missing, info["unexpected_keys"], stored_classes, labels)
    # PEFT writes this into the adapter's files, where a folder of this machine has no place.
    folder = Path(config.model.path).name if config.model.path else None
    model.name_or_path = model.config._name_or_path = config.model.hub or folder or config.model.name
    return model, missing


def _describe_loaded(
    model: Any, missing: Sequence[str], unexpected: Iterable[str], stored_classes: list[str], labels: list[str]
) -> dict[str, Any]:
    """Describe head and weights for run.json; put stored classes in order."""
    names = [
        name for name, _ in model.named_parameters() if any(f".{head}." in f".{name}" for head in head_modules(model))
    ]
    drawn, kept = (
        list(dict.fromkeys(name.rpartition(".")[0] for name in names if (name in missing) == new))
        for new in (True, False)
    )
    notes = []
    expected = [label.lower() for label in labels]
    named = not any(name.startswith("label_") for name in stored_classes)
    if output_layer(model) in kept and named and labels and stored_classes != expected:
        if sorted(stored_classes) == sorted(expected):
            with torch.no_grad():
                for value in model.get_submodule(output_layer(model)).parameters():
                    value.copy_(value[[stored_classes.index(label) for label in expected]])
            notes.append(f"the stored head's classes ({', '.join(stored_classes)}) were put into the task's order")
        else:
            notes.append(f"the head starts from a stored one, whose classes are {', '.join(stored_classes)}")
    if model.config._attn_implementation != attention.NAME:
        notes.append(f"{model.config.model_type} runs on padded batches, so each of its runs trains alone")
    layers = sorted(key for key in unexpected if re.search(r"\blayers?\.\d", key))
    if layers:
        notes.append(f"{len(layers)} tensors of the weights' layers have no place in this encoder, such as {layers[0]}")
    return {"head": {"kept": kept, "drawn": drawn}, "notes": notes}


def _draw(model: Any, keys: list[str], generator: torch.Generator) -> None:
    """Draw head weights as transformers does for BERT, from a generator.

    For ModernBERT it has truncated normals of other widths; here all heads start alike.
    """
    std = getattr(model.config, "initializer_range", 0.02)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key in keys:
            if key in parameters:
                parameter = parameters[key]
                if parameter.dim() > 1:
                    parameter.normal_(0.0, std, generator=generator)
                else:  # a norm (ModernBERT's head has one) or a bias
                    parameter.fill_(1.0 if key.endswith(".weight") else 0.0)


def _train_head(model: Any, base_parameters: Sequence[str]) -> None:
    """Train only the head and the parameters that these expressions match."""
    heads = tuple(f".{name}." for name in head_modules(model))
    for expression in base_parameters:
        if not any(re.search(expression, name) for name, _ in model.named_parameters()):
            raise SymloraError(f"method.base_parameters: {expression!r} matches no parameter of this encoder.")
    for name, parameter in model.named_parameters():
        beside = any(re.search(expression, name) for expression in base_parameters)
        parameter.requires_grad_(beside or any(part in f".{name}" for part in heads))
