"""Starting from another adapter: what would make another function of the same weights is refused, the rest is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyFactory, run_config
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from symlora.config.identity import config_hash
from symlora.errors import SymloraError
from symlora.model.build import build
from symlora.model.run_model import RunModel
from symlora.store.adapter_folder import BASE_SCALE, PREFIX


def built(folder: Path, method: str, source: Path | None = None, **peft_config: Any) -> RunModel:
    config = run_config(folder, method)
    config.method.peft_config |= peft_config
    config.init_from = None if source is None else str(source)
    return build(config, torch.device("cpu"), "fp32")


SMALL: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 4, "target_r": 2},
    "fourierft": {"n_frequency": 50},
    "randlora": {"r": 4, "randlora_alpha": 8},
    "vera": {"r": 16},
}


LORA = {"lora_alpha": 3, "use_rslora": True, "use_dora": True, "init_lora_weights": "pissa"}
OTHER: dict[str, dict[str, Any]] = {
    "dylora": {"frozen": False},
    "fourierft": {"scaling": 20.0, "random_loc_seed": 1},
    "randlora": {"randlora_alpha": 9},
    "hra": {"apply_GS": True},
    "lokr": {"r": 24},
    "lora": {**LORA, "alpha_pattern": {"query": 2}, "rank_pattern": {"query": 2}},
    "miss": {"init_weights": "bat"},
    "prilora": {"r_first": 5},
    "symlora": {"alpha": 3, "train_lambda": False},
    "symlora_orthonormal": {"init_std": 0.25},
}


@pytest.fixture
def saved(tiny: TinyFactory, tmp_path: Path) -> Any:
    """`saved(method)`: the folder of an adapter with made-up weights."""

    def save(method: str) -> Path:
        model = built(tiny("bert"), method, **SMALL.get(method, {}))
        with torch.no_grad():
            for _, value in model.trainable():
                value.add_(0.1)
        model.save(tmp_path / method)
        return tmp_path / method

    return save


@pytest.mark.parametrize(
    ("method", "key", "value"), [(method, *other) for method, others in OTHER.items() for other in others.items()]
)
def test_another_scale_or_structure_is_refused(
    method: str, key: str, value: Any, tiny: TinyFactory, saved: Any
) -> None:
    with pytest.raises(SymloraError, match=rf"init_from=.* has {key}=.*, this run .*Set .*method\.peft_config\.{key}="):
        built(tiny("bert"), method, saved(method), **SMALL.get(method, {}) | {key: value})


@pytest.mark.parametrize(
    ("method", "other"),
    [
        ("adalora", {"tinit": 5, "tfinal": 7, "deltaT": 3, "beta1": 0.5, "orth_reg_weight": 0.1}),
        ("fourierft", {"init_weights": True}),
        ("lora", {"lora_dropout": 0.1, "init_lora_weights": False, "exclude_modules": ["dense", "nowhere"]}),
        ("singlora", {"ramp": 0.5}),
        ("prilora", {"pruned_share": 0.1, "pruning_interval": 7, "norm_decay": 0.5}),
        ("sara", {"dropout": 0.1}),
        ("symlora", {"dropout": 0.1, "init_std": 0.1, "alpha": 8.0}),
        ("vera", {"d_initial": 0.5}),
    ],
)
def test_another_training_is_not(method: str, other: dict[str, Any], tiny: TinyFactory, saved: Any) -> None:
    source = saved(method)
    theirs = built(tiny("bert"), method, source, **SMALL.get(method, {})).state()
    found = built(tiny("bert"), method, source, **SMALL.get(method, {}) | other).state()
    for name, value in found.items():
        assert torch.equal(value, theirs[name]), name


def test_a_file_of_few_keys_has_the_defaults(tiny: TinyFactory, saved: Any) -> None:
    """An older PEFT's, or one written by hand."""
    source = saved("lora")
    path = source / "adapter_config.json"
    whole = json.loads(path.read_text())
    few = {key: whole[key] for key in ("peft_type", "r", "target_modules")}
    path.write_text(json.dumps(few | {"lora_alpha": whole["lora_alpha"]}))
    built(tiny("bert"), "lora", source)
    path.write_text(json.dumps(few | {"lora_alpha": 77}))
    with pytest.raises(SymloraError, match=r"has lora_alpha=77"):
        built(tiny("bert"), "lora", source)


@pytest.mark.parametrize(
    ("kind", "trained_as", "taken", "drawn", "kept"),
    [
        ("bert", "classifier", [], ["classifier"], ["bert.pooler.dense"]),
        ("deberta-v2", "classifier", [], ["classifier", "pooler.dense"], []),
        ("modernbert", "classifier", [], ["classifier", "head.dense", "head.norm"], []),
        ("distilbert", "classifier", ["pre_classifier"], ["classifier"], []),  # PEFT goes by the ends of names
        ("roberta", "classifier", ["classifier.dense"], ["classifier.out_proj"], []),
        ("roberta", "headless", [], ["classifier.dense", "classifier.out_proj"], []),
        ("bert", "headless", [], ["classifier"], ["bert.pooler.dense"]),
        ("bert", "encoder", [], ["classifier"], ["bert.pooler.dense"]),
        ("bert", "masked-lm", [], ["classifier"], ["bert.pooler.dense"]),
    ],
)
def test_what_an_adapter_of_others_lacks_starts_as_without_it(
    kind: str, trained_as: str, taken: Any, drawn: Any, kept: Any, tiny: TinyFactory, tmp_path: Path
) -> None:
    """Trained with PEFT alone, whose default is to save `classifier` and `score`; in old PEFT's file format."""
    fresh = built(tiny(kind), "lora")
    own: Any = fresh.peft.peft_config["default"] if fresh.peft else None
    auto: Any = {"encoder": AutoModel, "masked-lm": AutoModelForMaskedLM}.get(
        trained_as, AutoModelForSequenceClassification
    )
    config = LoraConfig(
        r=own.r, lora_alpha=own.lora_alpha, init_lora_weights=False, target_modules=own.target_modules,
        task_type="SEQ_CLS" if trained_as == "classifier" else None,
        modules_to_save=["transform"] if trained_as == "masked-lm" else None,
    )  # fmt: skip
    get_peft_model(auto.from_pretrained(tiny(kind)), config).save_pretrained(str(tmp_path))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    model, before = built(tiny(kind), "lora", tmp_path), fresh.state()
    loaded = model.encoder.model.loaded
    head = {how: sorted(names) for how, names in loaded["head"].items()}
    assert head == {"taken": taken, "drawn": drawn, "kept": kept}
    assert ("transform.dense of that adapter left out" in "".join(loaded["notes"])) == (trained_as == "masked-lm")
    for name, value in model.state().items():
        saved_name = name.replace(".modules_to_save", "").replace(".default", "")
        theirs = [t for key, t in tensors.items() if saved_name.endswith(f".{key.removeprefix(PREFIX)}")]
        from_them = "lora_" in name or any(module in saved_name for module in taken)
        assert torch.equal(value, theirs[0] if from_them else before[name]), name


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("inside", [".", "adapter"])
def test_other_weights_are_another_run(name: str, inside: str, tiny: TinyFactory, tmp_path: Path) -> None:
    config = run_config(tiny("bert"), "lora")
    config.init_from = str(tmp_path)
    (tmp_path / "adapter").mkdir()
    if inside == ".":
        (tmp_path / "adapter" / name).write_bytes(b"of a second adapter, called adapter")
    hashes = set()
    for content in (b"one", b"other!"):
        (tmp_path / inside / name).write_bytes(content)
        hashes.add(config_hash(config))
    assert len(hashes) == 2


def test_prilora_in_older_words_is_a_start(tiny: TinyFactory, saved: Any) -> None:
    folder = saved("prilora")
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    ranks = content["rank_pattern"].values()
    older = {rf".*\.{number}\..*": rank for number, rank in enumerate(ranks)}
    path.write_text(json.dumps(content | {"rank_pattern": older}))
    built(tiny("bert"), "prilora", folder)


def test_a_lora_on_scaled_weights_is_no_start(tiny: TinyFactory, saved: Any) -> None:
    folder = saved("lora")
    save_file({"bert.encoder.layer.0.attention.self.query.weight": torch.tensor([0.5])}, folder / BASE_SCALE)
    with pytest.raises(SymloraError, match=r"a LoRA on scaled weights.*Start method=symlora from"):
        built(tiny("bert"), "lora", folder)


def test_xgblora_starts_from_nothing(tiny: TinyFactory, saved: Any) -> None:
    with pytest.raises(SymloraError, match=r"init_from=.*xgblora cannot start from an adapter"):
        built(tiny("bert"), "xgblora", saved("xgblora"))


def test_a_pruned_adalora_is_no_start(tiny: TinyFactory, tmp_path: Path) -> None:
    model = built(tiny("bert"), "adalora", **SMALL["adalora"])
    with torch.no_grad():
        for name, value in model.trainable():
            if "lora_E" in name:
                value[2:] = 0
                value[:2] = 1
    model.save(tmp_path)
    with pytest.raises(SymloraError, match=r"init_from=.*pruned this adapter.*fewer triplets than init_r=4"):
        built(tiny("bert"), "adalora", tmp_path, **SMALL["adalora"])
