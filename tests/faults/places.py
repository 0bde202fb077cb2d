"""Copy the project, make a tiny encoder, and start the commands on them."""

import importlib
import os
import pkgutil
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from faults.children import Child, Plant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("symlora", "scripts", "configs", "results/published", "results/leaderboard")
PACKED = ("-m", "hydra/launcher=packed", "hydra.launcher.inner=basic")
SMALL = ("train.epochs=1", "data.demo_rows={train: 32, validation: 16, test: 4}")
SHORT = (*SMALL, "checkpoint.seconds=0")
SETTINGS = (
    *("task=mrpc", "method=symlora", "model=local", "model.name=tiny", "protocol=demo", "device=cpu", "precision=fp32"),
    *("data.demo_rows={train: 96, validation: 32, test: 4}", "train.epochs=3", "train.batch_size=8"),
    "train.model_dropout=0.1",
)


@dataclass(frozen=True)
class Place:
    """Start commands in a folder, on a copy of the project whose files can be damaged."""

    folder: Path  # of this try; commands run in it, and `{folder}` in their words is this
    project: Path  # the copy
    encoder: Path
    settings: tuple[str, ...]  # of `train`

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def child(self, *arguments: str, plant: Plant | None = None) -> Child:
        return Child([word.replace("{folder}", str(self.folder)) for word in arguments], self.folder, plant)

    def train(self, *overrides: str, plant: Plant | None = None) -> Child:
        """Start a small run, or several (`-m`)."""
        return self.child(*self.command(*overrides), plant=plant)

    def command(self, *overrides: str) -> list[str]:
        """Make the words of `symlora train`; a later value of a key replaces an earlier one."""
        keys: dict[str, str] = {}
        for override in (*self.settings, f"results_dir={self.runs}", *overrides):
            keys[override.partition("=")[0]] = override
        if "sweep" in keys:  # which brings its own
            del keys["train.batch_size"]
        return ["train", *sorted(keys.values(), key=lambda word: word.startswith("-"))]  # flags last, for argparse

    def below(self, name: str) -> "Place":
        """Make an empty folder of this one for a try."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return replace(self, folder=folder)

    def clear(self) -> None:
        shutil.rmtree(self.folder)


def copy_of_project(folder: Path) -> Path:
    """Copy what the commands read, and let this process and its children import the copy."""
    project = folder / "project"
    for name in COPIED:
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    sys.path.insert(0, str(project))
    os.environ["PYTHONPATH"] = str(project)
    return project


def make_encoder(folder: Path) -> Path:
    """Save a BERT of two layers with the demo's words, as `model.path` takes it."""
    from conftest import _random_model
    from transformers import BertTokenizerFast
    from transformers.utils import logging

    from symlora.data.demo import demo_split

    logging.disable_progress_bar()
    texts = [text for column in demo_split("mrpc", "train", 400).values() for text in column if isinstance(text, str)]
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    numbers = {word: number for number, word in enumerate(vocabulary)}
    BertTokenizerFast(vocab=numbers, model_max_length=128).save_pretrained(folder)
    shape = {"vocab_size": len(vocabulary), "max_position_embeddings": 128}
    _random_model("bert", False, 0, shape).save_pretrained(folder)
    return folder


def prepare(folder: Path) -> Place:
    """Copy the project, make the encoder, and import here what the commands import.

    Nothing but imports is done in this process: threads that a library starts do not live on in children.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.pop("GLUE_DIR", None)
    project = copy_of_project(folder)
    import torch

    import symlora

    torch.set_num_threads(1)
    encoder = make_encoder(folder / "encoder")
    for module in pkgutil.walk_packages(symlora.__path__, "symlora."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    settings = (*SETTINGS, f"model.path={encoder}", f"data.cache_dir={folder / 'tokens'}")
    (folder / "tries").mkdir()
    return Place(folder / "tries", project, encoder, settings)
