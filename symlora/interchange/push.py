"""Upload an exported folder to the hub, with a model card.

Without `confirm` nothing is sent: the files are listed. The login is huggingface_hub's own (`hf auth login`, or the
environment variable HF_TOKEN); no token is read or kept here.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from peft import PeftConfig

from symlora.adapters.registry import METHODS
from symlora.errors import SymloraError
from symlora.interchange.merged import LABELLED, model_class
from symlora.store.adapter_folder import BASE_SCALE, CONFIG, StoredAdapter

CARD = "README.md"
_TEMPLATE = """---
{{ card_data }}
---

# {{ method }} on {{ base }}{% if not adapter %}, merged{% endif %}

## Loading it

```python
{% if adapter -%}
{% if ours %}import symlora  # so that PEFT knows the method
{% endif %}from peft import PeftModel
from transformers import {{ auto }}
{% if scaled %}from symlora.interchange.base_scale import apply_base_scale
{% endif %}
base = {{ auto }}.from_pretrained("{{ base }}"{{ labels }})
{% if scaled %}apply_base_scale(base, "{{ folder }}")
{% endif %}model = PeftModel.from_pretrained(base, "{{ folder }}")
{%- else -%}
from transformers import {{ auto }}

model = {{ auto }}.from_pretrained("{{ folder }}")
{%- endif %}
```

`"{{ folder }}"` is this folder{% if not scaled %}, or its name on the hub{% endif %}.
{%- if local %} `"{{ base }}"` is the folder of the base model, which is on no hub: give its path.{% endif %}
{%- if ours and adapter %} The package symlora brings the method.{% endif %}

These weights were made from {{ base }}, whose own licence holds: add a `license:` line above.
"""


def check_name(name: str) -> None:
    """Check that a name has the form USER/NAME."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise SymloraError(f"--push {name}: {' '.join(str(error).split())}") from error
    if "/" not in name:
        raise SymloraError(f"--push {name}: give USER/NAME, the account and the repository.")


def push(folder: Path, name: str, confirm: bool) -> Iterator[str]:
    """Upload a folder, or say what would be uploaded; yield lines."""
    yield f"{'uploading' if confirm else 'would upload'} to https://huggingface.co/{name}:"
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield f"{file.stat().st_size:>14,}  {file.relative_to(folder).as_posix()}"
    config = PeftConfig.from_pretrained(str(folder)) if (folder / CONFIG).is_file() else None
    if config and (base := config.base_model_name_or_path) and Path(base).is_absolute():
        yield f"note: {CONFIG} names the base model by a path on this machine: {base}"
    if not confirm:
        yield "dry run: nothing was sent. Read README.md, then push with --confirm."
        return
    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        done = api.upload_folder(folder_path=folder, repo_id=name, commit_message="Upload with symlora")
    except Exception as error:  # login, network and HTTP errors share no base class
        reason = " ".join(str(error).split())[:300]
        raise SymloraError(f"{name} could not be uploaded: {reason} (Log in with `hf auth login`.)") from error
    yield f"uploaded: {done.commit_url}"


def write_card(folder: Path, adapter: StoredAdapter, base: str | None) -> None:
    """Write README.md next to an exported adapter; a run's own card stays."""
    if (folder / CARD).exists():
        return
    config = PeftConfig.from_pretrained(str(folder)) if (folder / CONFIG).is_file() else None
    method = str(getattr((config or adapter.config).peft_type, "value", adapter.method))
    named = adapter.run["config"]["model"]["hub"] if adapter.run is not None else None
    hub = named or base or (adapter.config.base_model_name_or_path if adapter.run is None else None)
    local = hub is None or Path(hub).is_absolute() or Path(hub).exists()
    name = Path(hub or adapter.config.base_model_name_or_path or "base").name if local else hub
    merged = json.loads((folder / "config.json").read_text()) if config is None else {}
    classifies = adapter.config.task_type == "SEQ_CLS"
    saved = set(adapter.config.modules_to_save or ())
    head = [len(value) for key, value in adapter.tensors.items() if value.dim() == 2 and saved & set(key.split("."))]
    data = ModelCardData(
        base_model=None if local else name,
        library_name="peft" if config else "transformers",
        pipeline_tag="text-classification" if classifies else None,
        tags=["symlora"],
    )
    ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        method=method,
        base=name,
        local=local and config,
        folder=folder.name,
        adapter=config,
        ours=method in METHODS,
        scaled=(folder / BASE_SCALE).is_file(),
        auto=model_class(adapter, merged.get("architectures")).__name__,
        labels=f", num_labels={min(head)}, ignore_mismatched_sizes=True"
        if adapter.config.task_type in LABELLED and head
        else "",
    ).save(folder / CARD)
