"""Merge an adapter into its base model."""

import contextlib
import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from peft.utils import get_peft_model_state_dict

from symlora.config.schema import ModelConfig
from symlora.errors import SymloraError
from symlora.interchange.base_scale import apply_base_scale
from symlora.interchange.write import new_folder
from symlora.model.head import output_layer
from symlora.model.source import ModelSource, find, in_folder, load_failure, load_tokenizer
from symlora.store.adapter_folder import PREFIX, StoredAdapter

# Names of transformers' classes by PEFT's task type.
_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
LABELLED = ("SEQ_CLS", "TOKEN_CLS")  # whose head has an output for each class
_UNUSUAL_LABELS = 97  # a number of labels by which the output layer is recognised


def export_merged(adapter: StoredAdapter, out: Path, base: str | None = None) -> Any:
    """Write the base model with the adapter merged in, and its tokenizer.

    The adapter is of any PEFT method that can be merged. A base-scale file next to a LoRA is applied. `out` becomes
    what `save_pretrained` writes, in the base model's dtype; `base` is as in `base_source`.

    Raises:
        SymloraError: The base model is not available or is another than the adapter's, the method cannot be merged, or
            the merged weights are not finite. `out` is then not there.
    """
    source = base_source(adapter, base)
    model = load_base(adapter, source)
    try:
        merged = put_on(model, adapter).merge_and_unload(safe_merge=True)
    except KeyError as error:  # PEFT raises it for the head
        raise SymloraError(f"{adapter.folder} was made for another base model: it has no {error.args[0]}.") from error
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, re.error) as error:
        raise SymloraError(
            f"{adapter.folder} cannot be merged into {source.name_or_path}: {' '.join(str(error).split())[:500]}"
        ) from error
    with new_folder(out) as work:
        merged.save_pretrained(work)
        with contextlib.suppress(SymloraError):  # the base model may have no tokenizer
            load_tokenizer(source).save_pretrained(work)
    return merged


def put_on(model: Any, adapter: StoredAdapter, source: Path | None = None, **options: Any) -> Any:
    """Load an adapter, and its base scale, onto a plain model.

    Messages name `source`, or the adapter's folder. `options` go to `PeftModel.from_pretrained`; its errors pass.

    Raises:
        SymloraError: The adapter lacks a tensor that the model has, or has one more.
    """
    apply_base_scale(model, adapter.folder)
    wrapped = PeftModel.from_pretrained(model, str(adapter.folder), **options)
    # Compared with the model, because PEFT leaves what the file does not have as it was drawn.
    odd = sorted(get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys() ^ adapter.tensors.keys())
    if odd:
        raise SymloraError(
            f"{source or adapter.folder} was made for another base model, task or method: {odd[0]} has no counterpart."
        )
    return wrapped


def path_not_kept(source: Path, name: str) -> SymloraError:
    """Say that the path of a run's encoder was not kept."""
    return SymloraError(
        f"{source} was trained on a model in a folder named {name}. Its path was not kept: give it (--base)."
    )


def base_source(adapter: StoredAdapter, base: str | None = None) -> ModelSource:
    """Find the adapter's base model: `base`, the run's, or the adapter's own.

    Raises:
        SymloraError: No base model is named, or a folder holds none.
    """
    if base is None and adapter.run is not None:
        recorded = adapter.run["config"]["model"]
        if recorded["path"] is not None:
            raise path_not_kept(adapter.folder.parent, recorded["path"])
        return find(ModelConfig(**{key: recorded[key] for key in ("name", "hub", "revision", "package")}))
    named = adapter.config.base_model_name_or_path
    name = base or named
    if not name:
        raise SymloraError(f"{adapter.folder} names no base model. Give its folder or hub name (--base).")
    if base is None and Path(name).is_absolute() and not Path(name).exists():
        raise SymloraError(f"{adapter.folder} names the base model {name}, which is not here. Give --base.")
    if Path(name).is_dir():
        return in_folder(Path(name), "--base" if base else str(adapter.folder))
    return ModelSource(name, adapter.config.revision if name == named else None)


def load_base(adapter: StoredAdapter, source: ModelSource) -> Any:
    """Load the base model, with as many outputs as the adapter's head.

    Raises:
        SymloraError: It cannot be loaded, or weights are missing that the adapter does not bring.
    """
    try:
        config: Any = transformers.AutoConfig.from_pretrained(source.name_or_path, **source.arguments)
        auto = model_class(adapter, config.architectures)
        if adapter.config.task_type in LABELLED:
            _set_labels(config, adapter, auto)
        model, info = auto.from_pretrained(
            source.name_or_path,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the base model's own head may be another task's
            **source.arguments,
        )
    except SymloraError:
        raise
    except Exception as error:  # OSError, ValueError, RuntimeError, safetensors' own: all mean "not loadable"
        raise load_failure(source, error) from error
    drawn = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    lost = sorted(name for name in drawn if PREFIX + name not in adapter.tensors)
    if lost:
        raise SymloraError(f"{source.name_or_path} has no weights for {lost[0]}, and neither has {adapter.folder}.")
    return model.eval()


def model_class(adapter: StoredAdapter, architectures: Sequence[str] | None = None) -> Any:
    """Choose transformers' class: by task type, as noted, or the base's.

    `architectures` is the base model's, where it is at hand.
    """
    noted = adapter.config.auto_mapping or {}
    name = _AUTO_CLASSES.get(adapter.config.task_type)
    if name is None and str(noted.get("parent_library")).startswith("transformers."):
        name = str(noted.get("base_model_class"))
    elif name is None and architectures:  # as saved by a model's own `add_adapter`; a bare encoder has no prefix
        start = getattr(getattr(transformers, architectures[0], None), "base_model_prefix", "")
        name = architectures[0] if any(key.startswith(f"{PREFIX}{start}.") for key in adapter.tensors) else None
    found = getattr(transformers, name or "AutoModel", None)
    if not hasattr(found, "from_pretrained"):
        raise SymloraError(f"{adapter.folder} was made for a {name}, which transformers does not have.")
    return found


def _set_labels(config: Any, adapter: StoredAdapter, auto: Any) -> None:
    """Set number and names of classes in a model's configuration."""
    probe = copy.deepcopy(config)
    probe.num_labels = _UNUSUAL_LABELS
    with torch.device("meta"):
        stored = adapter.tensors.get(f"{PREFIX}{output_layer(auto.from_config(probe))}.weight")
    if stored is None:  # saved without a head: the base model's own is meant
        return
    config.num_labels = len(stored)
    names = []
    if adapter.run is not None:  # the problem's type decides what transformers' pipeline makes of the logits
        names = adapter.run["config"]["task"]["labels"]
        config.problem_type = "single_label_classification" if names else "regression"
    if len(names) == len(stored):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
