"""Damage every file that a command reads, and give it to that command."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from faults.children import Ended, Plant
from faults.damage import FLIPS, HEADERS, OTHERS, PLANS, RECORDS, VERSIONS, Change, Changes, named_by_content, tree
from faults.places import PACKED, SMALL, Place
from faults.points import checkpoints_at_once, killed_once_saved, planted
from faults.runs import differing, results_of, trained_anew
from faults.session import Session

SECTION = "runs/demo/tiny/symlora/mrpc/*/seed-0/"
CHECKPOINTS = "stopped/.checkpoints/*.safetensors"


def same(expected: Any, found: Any) -> bool:
    """Nothing that was expected has changed; settings, recorded as they were read, and other names do not count."""
    if not isinstance(expected, dict) or any(isinstance(value, bytes) for value in expected.values()):
        return bool(expected == found)
    left_out = {"config", "config.yaml"}
    return all(not differing(run, found.get(name, run)) - left_out for name, run in expected.items())


@dataclass(frozen=True)
class Command:
    """Hold a command that reads files, and what must be as ever if it comes to a result."""

    words: Sequence[str]  # `{run}` in them is a run folder
    result: str = "printed"  # or a results folder, or endings of files in `out`

    def found(self, place: Place, ended: Ended) -> Any:
        """Read what must be as ever; a run of another name is another configuration."""
        if self.result == "printed":
            return ended.printed.replace(str(place.folder), "")
        if not self.result.startswith("."):
            return results_of(place.folder / self.result)
        files = tree(place.folder / "out").items()
        return {name: text for name, text in files if name.endswith(tuple(self.result.split()))}

    def run(self, place: Place) -> Ended:
        words = [word.replace("{run}", str(next(place.folder.glob(SECTION), ""))) for word in self.words]
        return place.child(*(place.command(*words[1:]) if words[0] == "train" else words), plant=_no_pictures).wait()


def _no_pictures() -> None:
    """Drawing takes seconds, and says nothing of the files that were read."""
    from matplotlib.figure import Figure

    from symlora.report import report_page

    report_page.__dict__["FIGURES"] = {}  # the page would read the drawings
    Figure.savefig = lambda self, file, **named: Path(file).write_bytes(b"")  # type: ignore[method-assign,assignment]


def _train(*overrides: str, result: str = "runs") -> Command:
    return Command(("train", *overrides), result)


def _report(what: str) -> Command:
    return Command(("report", what, "--results-dir", "runs", "--out", "out"), ".csv .md")


TRAIN = _train("seed=5", *SMALL)
AGAIN = _train("method=symlora", "seed=0", *SMALL, result="printed")  # a run that is finished
RTE = ("task=rte", "data.source=glue", "data.dir={folder}/glue", "data.allow_subset=true",  # made-up rows
       "data.train_limit=64", "train.epochs=1")  # fmt: skip
GLUE = _train(*RTE)
FROM = _train("seed=6", *SMALL, "init_from={folder}/start")
SEEDS = _train("-m", "sweep=seeds", "hydra.launcher.inner=basic", "seed=5", *SMALL)
STOPPED = ("method=lora", "seed=7", *SMALL, "results_dir={folder}/stopped")
GO_ON = _train(*STOPPED, result="stopped")
SWEEP_ON = _train(*PACKED, *STOPPED, result="stopped")  # reads all checkpoints before it plans
PLANNED = _train(*PACKED, "method=lora", "seed=8,9", *SMALL)
TABLES, FIGURES, REPORT, AUDIT = (_report(what) for what in ("table1", "figure1", "report", "audit"))
RUNS, VERIFY = (Command((name, "runs")) for name in ("runs", "verify"))
STUDY = ("--tasks", "mrpc", "--model", "local", "--protocol", "demo", "model.name=tiny", "model.path={folder}/encoder",
         "results_dir={folder}/runs", "device=cpu", "precision=fp32", "train.batch_size=8", "train.model_dropout=0.1",
         *SMALL)  # fmt: skip
STATUS = Command(("status", "--seeds", "2", *STUDY))
SELECT = Command(("select", *STUDY))
EXPORT = Command(("export", "{run}", "{folder}/out", "--to", "lora"), ".json .md .safetensors")


@dataclass(frozen=True)
class Target:
    """Hold a file to damage."""

    path: str  # a pattern below the try's folder, or from `project/` on in the copy of the project
    commands: Sequence[Command]  # that read it
    names: Sequence[str] = ()  # one of these must be in a message; the file's own name is always right
    odd: Changes = ()  # content that can be read, and is odd

    @property
    def damages(self) -> Changes:
        # of what people type, another digit is an edit
        flips = () if "results/published" in self.path else FLIPS
        return (*VERSIONS, *flips, *OTHERS.get(Path(self.path).suffix, ()))

    def find(self, place: Place) -> Path:
        """Find the file; that there is none says that this suite is out of date."""
        root = place.project.parent if self.path.startswith("project/") else place.folder
        return min(root.glob(self.path), default=root / self.path)


def _configs(command: Command, *names: str, also: Sequence[str] = ()) -> Iterator[Target]:
    for name in names:
        yield Target(f"project/configs/{name}.yaml", (command,), (name, name.rpartition("/")[0] + ".", *also))


_START, _ENCODER = ("init_from", "{folder}/start"), ("model.path", "{folder}/encoder")
TARGETS = (
    Target(SECTION + "run.json", (RUNS, VERIFY, AGAIN, STATUS, TABLES, SELECT), ("seed-0",), RECORDS),
    Target(SECTION + "predictions.parquet", (AGAIN, TABLES, VERIFY), ("seed-0",)),
    Target(SECTION + "norms.parquet", (FIGURES, VERIFY), ("seed-0",)),
    Target(SECTION + "config.yaml", (VERIFY,), ("seed-0",)),
    Target(SECTION + "adapter/adapter_model.safetensors", (REPORT, AGAIN, EXPORT), ("seed-0",)),
    Target(SECTION + "adapter/adapter_config.json", (REPORT, EXPORT), ("seed-0",)),
    *(Target(f"start/adapter_{name}", (FROM,), _START) for name in ("config.json", "model.safetensors")),
    Target("cache/*.safetensors", (TRAIN,)),
    Target(CHECKPOINTS, (GO_ON, SWEEP_ON), odd=HEADERS),
    Target("runs/.checkpoints/*.plan.json", (PLANNED,), odd=PLANS),
    *(
        Target(f"encoder/{name}", (TRAIN,), _ENCODER)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ),
    *(Target(f"glue/rte/{split}-*.parquet", (GLUE,)) for split in ("train", "validation")),
    *(Target(f"project/results/published/{name}.yaml", (AUDIT,)) for name in ("glue", "symlora", "lora", "others")),
    Target("project/results/published/symlora.yaml", (TABLES,)),
    Target("project/results/leaderboard/scores.yaml", (TABLES,)),
    Target("project/configs/report.yaml", (TABLES,)),
    Target("project/configs/best/demo/local/symlora-mrpc.yaml", (SEEDS, TABLES)),
    *_configs(TRAIN, "config", "task/mrpc", "method/symlora", "model/local", "protocol/demo", "logger/none"),
    *_configs(SEEDS, "sweep/seeds", "hydra/launcher/packed", also=("hydra.launcher",)),
)
Try = tuple[Target, Command, str, Change]
"""Target, command, what is done to the target, and how."""


def tries() -> list[Try]:
    return [(target, command, *way) for target in TARGETS for command in target.commands for way in target.damages]


def odd_tries() -> list[Try]:
    """List all odd versions, with the first command of each target, then the next."""
    turns = range(max(len(target.commands) for target in TARGETS))
    return [(t, c, *way) for turn in turns for t in TARGETS for c in t.commands[turn : turn + 1] for way in t.odd]


@dataclass
class Files:
    """Hold a folder with every file, and what commands make of them undamaged."""

    good: Place  # never changed
    expected: dict[Command, Any] = field(default_factory=dict)

    def copied(self, name: str) -> Place:
        folder = self.good.folder.parent / name
        shutil.copytree(self.good.folder, folder)
        return _at_home(replace(self.good, folder=folder))


def _at_home(place: Place) -> Place:
    """Keep encoder and cache of tokens in the place's own folder."""
    own = (f"model.path={place.folder / 'encoder'}", f"data.cache_dir={place.folder / 'cache'}")
    return replace(place, settings=(*place.settings, *own))


def write_glue(folder: Path) -> None:
    """Write both splits of RTE as the hub lays them out."""
    (folder / "rte").mkdir(parents=True)
    words = np.array(["actor", "artist", "helped", "doctor", "guard", "happy"])
    for split, rows in (("train", 2490), ("validation", 277)):  # as published
        generator = np.random.default_rng(0)
        texts = [[" ".join(row) for row in words[generator.integers(len(words), size=(rows, 4))]] for _ in range(2)]
        columns: list[Any] = [*texts, generator.integers(2, size=rows), np.arange(rows)]
        table = pd.DataFrame(dict(zip(("sentence1", "sentence2", "label", "idx"), columns, strict=True)))
        table.to_parquet(folder / "rte" / f"{split}-00000-of-00001.parquet")


def good_files(place: Place, *, quick: bool = False) -> Files:
    """Make every file, or one finished run alone."""
    good = place.below("good")
    shutil.copytree(place.encoder, good.folder / "encoder")
    good = _at_home(good)
    if quick:
        _make(good, "method=symlora", "seed=0", *SMALL)
        return Files(good)
    leaderboard = good.project / "results/leaderboard/scores.yaml"
    leaderboard.write_text(
        "- protocol: demo\n  model: tiny\n  method: symlora\n  task: mrpc\n  score: 78.1\n  date: 2026-12-01\n"
        "  url: https://gluebenchmark.com/leaderboard\n"
    )
    best = good.project / "configs/best/demo/local/symlora-mrpc.yaml"
    best.parent.mkdir(parents=True)
    best.write_text("# @package _global_\ntrain:\n  lr: 0.005\n  batch_size: 8\n")
    _make(good, *PACKED, "method=symlora,lora", "seed=0,1", *SMALL)
    _make(good, "seed=5", *SMALL, "results_dir={folder}/cached")  # fills the cache
    write_glue(good.folder / "glue")
    stop = planted(checkpoints_at_once, killed_once_saved(good.folder / "stopped"))
    _make(good, *STOPPED, "checkpoint.seconds=0", plant=stop)
    shutil.rmtree(good.folder / "cached")
    (start,) = good.runs.glob("demo/tiny/symlora/mrpc/*/seed-1/adapter")
    shutil.copytree(start, good.folder / "start")
    (first,) = good.runs.glob("demo/tiny/lora/mrpc/*/seed-0")

    from symlora.training.checkpoint_files import write_plan

    # of a sweep that was stopped before it trained
    write_plan(good.runs, [str(first.relative_to(good.runs).with_name(name)) for name in ("seed-8", "seed-9")])
    return Files(good)


def _make(good: Place, *overrides: str, plant: Plant | None = None) -> None:
    ended = good.train(*overrides, plant=plant).wait()
    if ended.status not in (0, -9):
        raise RuntimeError(f"{overrides} ended with {ended.status}: {ended.printed}")


def damaged_file(files: Files, session: Session, target: Target, command: Command, how: str, change: Change) -> None:
    """Damage one file in one way, and judge what the command makes of it."""
    if command not in files.expected:
        here = files.copied("whole")
        ended = command.run(here)
        if ended.status:
            raise RuntimeError(f"{command} failed on whole files:\n{ended.printed}")
        files.expected[command] = command.found(here, ended)
        if command in (GO_ON, SWEEP_ON):
            session.add("trained anew beside a checkpoint", str(command.words), trained_anew(here.folder / "stopped"))
        here.clear()
    here = files.copied("damaged")
    path = target.find(here)
    content = path.read_bytes()
    changed = change(content, session.rng)
    path.write_bytes(changed)
    if (how, change) in HEADERS:
        path = path.rename(named_by_content(path, changed))
    before = tree(here.folder)
    try:
        ended = command.run(here)
    finally:
        if target.path.startswith("project/"):  # which is no copy of this try's
            path.write_bytes(content)
    names = [path.name, *(name.replace("{folder}", str(here.folder)) for name in target.names)]
    said = f"{target.path}, {how}: {' '.join(command.words[:4])}"
    session.judge("files", said, ended, names, same(files.expected[command], command.found(here, ended)))
    after, own = tree(here.folder), str(path.relative_to(here.folder)) if path.is_relative_to(here.folder) else ""
    others = [name for name in before if name.startswith("runs/demo") and "/." not in name and name != own]
    session.add("other run changed", said, [name for name in others if after.get(name) != before[name]])
    here.clear()
