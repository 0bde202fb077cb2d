"""Where the tries take place: a copy of the project, a tiny encoder, and the commands that run on it."""

import copy
import importlib
import multiprocessing.util
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.children import Child, Ended, Plant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("symlora", "scripts", "configs", "results/published", "results/leaderboard")


@dataclass
class Place:
    """A copy of the project, so that its own files can be damaged, and a folder for everything else.

    Attributes:
        folder: Of this try; commands run in it.
        project: The copy.
        encoder: A BERT of two layers with random weights, and a tokenizer of words.
    """

    folder: Path
    project: Path
    encoder: Path
    settings: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        """The results folder of `train`."""
        return self.folder / "runs"

    def child(self, script: str, *arguments: str, plant: Plant | None = None) -> Child:
        """Starts scripts/<script>.py in a child."""
        return Child(self.project / "scripts" / f"{script}.py", arguments, self.folder, plant)

    def train(self, *overrides: str, plant: Plant | None = None) -> Child:
        """Starts a small run, or several (`-m`)."""
        return self.child("train", *self.command(*overrides), plant=plant)

    def command(self, *overrides: str) -> list[str]:
        """The command line of `train`; a later value of a key replaces an earlier one."""
        keys: dict[str, str] = {}
        for override in (*self.settings, f"results_dir={self.runs}", *overrides):
            keys[override.partition("=")[0]] = override
        return sorted(keys.values(), key=lambda override: override.startswith("-"))  # flags last, or argparse is lost

    def ended(self, script: str, *arguments: str, plant: Plant | None = None) -> Ended:
        """The same, until it ends."""
        return self.child(script, *arguments, plant=plant).wait()

    def below(self, name: str) -> "Place":
        """The same in an empty folder of this one."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        other = copy.copy(self)
        other.folder = folder
        return other

    def clear(self) -> None:
        """Removes its folder."""
        shutil.rmtree(self.folder)


def copy_of_project(folder: Path) -> Path:
    """Copies what the commands read, and makes this process and its children import the copy."""
    project = folder / "project"
    for name in COPIED:
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    sys.path.insert(0, str(project))
    os.environ["PYTHONPATH"] = str(project)
    return project


def make_encoder(folder: Path) -> Path:
    """A folder as `model.path` takes it. Its vocabulary is the demo's words, so that its files are small."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast
    from transformers.utils import logging

    from symlora.data.demo import demo_split

    logging.disable_progress_bar()
    texts = [text for column in demo_split("mrpc", "train", 400).values() for text in column if isinstance(text, str)]
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    numbers = {word: number for number, word in enumerate(vocabulary)}
    BertTokenizerFast(vocab=numbers, model_max_length=128).save_pretrained(folder)
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128, initializer_range=0.2, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


SETTINGS = (
    "task=mrpc",
    "method=symlora",
    "model=local",
    "model.name=tiny",
    "protocol=demo",
    "data.demo_rows={train: 96, validation: 32, test: 4}",
    "train.epochs=3",
    "train.batch_size=8",
    "train.model_dropout=0.1",
    "device=cpu",
    "precision=fp32",
)


def prepare(folder: Path, *, quick: bool = False) -> Place:
    """Copies the project, makes the encoder, and imports here what the commands import.

    Nothing but imports is done in this process: threads that a library starts do not live on in children.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.pop("GLUE_DIR", None)
    project = copy_of_project(folder)
    import torch

    torch.set_num_threads(1)
    encoder = make_encoder(folder / "encoder")
    settings = [*SETTINGS, f"model.path={encoder}", f"data.cache_dir={folder / 'tokens'}"]
    place = Place(folder / "tries", project, encoder, settings)
    place.folder.mkdir()
    first = place.below("first")
    commands: Sequence[tuple[str, list[str]]] = (
        ("train", first.command()),
        ("train", first.command("-m", "hydra/launcher=packed", "hydra.launcher.inner=basic", "seed=0,1")),
        ("report", ["report", "--results-dir", "runs", "--out", "out"]),
    )
    for script, arguments in commands[: 1 if quick else None]:
        _import_as(first, script, arguments)
    first.clear()
    return place


def _import_as(place: Place, script: str, arguments: Sequence[str]) -> None:
    """Runs a command in a child, and imports here what it imported there."""
    listed = place.folder / "modules"

    def list_at_exit() -> None:
        multiprocessing.util.Finalize(None, _write_modules, (str(listed),), exitpriority=1)

    ended = place.child(script, *arguments, plant=list_at_exit).wait()
    if ended.status:
        sys.exit(f"error: an ordinary `{script}` ended with {ended.status}:\n{ended.printed}")
    for name in listed.read_text().split():
        try:
            importlib.import_module(name)
        except Exception:  # made by another module, and not to be imported by itself
            continue


def _write_modules(path: str) -> None:
    Path(path).write_text("\n".join(sorted(name for name in sys.modules if not name.startswith("__"))))
