"""Damaged versions of every file that a command reads, given to that command."""

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from faults.children import Ended
from faults.damage import others, tree, versions
from faults.judge import Verdicts
from faults.kills import PACKED
from faults.odd import HEADERS, PLANS, RECORDS, Odd, named_by_content
from faults.places import Place
from faults.points import checkpoints_at_once, killed_once_saved, planted
from faults.runs import results_of, trained_anew
from faults.tables import write_glue

SMALL = ("train.epochs=1", "data.demo_rows={train: 32, validation: 16, test: 4}")
SECTION = "runs/demo/tiny/symlora/mrpc/*/seed-0/"
OPTIONS = ("--tasks", "mrpc", "--model", "local", "--protocol", "demo")

CHECKPOINTS = "stopped/.checkpoints/*.safetensors"

Result = Callable[[Place, Ended], Any]


@dataclass(frozen=True)
class Command:
    """A command that reads files, and what must be as ever if it comes to a result.

    Attributes:
        script: Name in scripts/.
        arguments: `{folder}` in them is the try's folder.
        result: What is compared.
    """

    script: str
    arguments: Sequence[str]
    result: Result

    def run(self, place: Place) -> Ended:
        """Until it ends."""
        run = next(place.folder.glob(SECTION), place.folder)
        places = {"{folder}": str(place.folder), "{run}": str(run)}
        arguments = [_filled(argument, places) for argument in self.arguments]
        if self.script == "train":
            arguments = place.command(*arguments)
        if "sweep=seeds" in arguments:  # which brings its own
            arguments = [argument for argument in arguments if not argument.startswith("train.batch_size=")]
        return place.ended(self.script, *arguments, plant=_no_pictures)


@dataclass(frozen=True)
class Target:
    """A file to damage.

    Attributes:
        path: Pattern below the try's folder or, with `project/` before it, below the copy of the project; the first
            match is taken.
        commands: That read it.
        names: One of these must be in a message; the file's own name is always right.
        odd: What else is tried: content that can be read, and is odd.
    """

    path: str
    commands: Sequence[Command]
    names: Sequence[str] = ()
    odd: Sequence[Odd] = ()

    @property
    def flips(self) -> int:
        """Of bits. What people type into results/published has no checksum: a changed digit there is an edit."""
        return 0 if "results/published" in self.path else 2

    def made(self, path: Path, content: bytes, rng: random.Random) -> list[tuple[str, bytes]]:
        """Name and content of every version of the file that is tried: damaged ones, then readable ones."""
        damaged = [*versions(content, rng, self.flips), *others(path.suffix)]
        return damaged + [(name, change(content)) for name, change in self.odd]

    def damaged(self) -> int:
        """How many of these are not `odd`."""
        return len([*versions(b"some", random.Random(0), self.flips), *others(Path(self.path).suffix)])

    def find(self, place: Place) -> Path:
        """The file.

        Raises:
            FileNotFoundError: There is none: this suite is out of date.
        """
        root, pattern = (
            (place.project, self.path[8:]) if self.path.startswith("project/") else (place.folder, self.path)
        )
        found = sorted(root.glob(pattern))
        if not found:
            raise FileNotFoundError(self.path)
        return found[0]


def _filled(text: str, places: Mapping[str, str]) -> str:
    for name, path in places.items():
        text = text.replace(name, path)
    return text


def _no_pictures() -> None:
    """Drawing takes seconds, and says nothing of the files that were read."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda self, file, **named: Path(file).write_bytes(b"")  # type: ignore[method-assign,assignment]


def trained(place: Place, ended: Ended) -> dict[str, Any]:
    """The runs. A run of another name is another configuration: it was told apart."""
    return results_of(place.runs)


def taken_up(place: Place, ended: Ended) -> dict[str, Any]:
    """The run that was stopped."""
    return results_of(place.folder / "stopped")


def printed(place: Place, ended: Ended) -> str:
    """What the command says."""
    return ended.printed.replace(str(place.folder), "")


def written(place: Place, ended: Ended) -> dict[str, bytes]:
    """The numbers: CSV and Markdown files."""
    return {name: text for name, text in tree(place.folder / "out").items() if name.endswith((".csv", ".md"))}


def exported(place: Place, ended: Ended) -> dict[str, bytes]:
    """The adapter that was written."""
    return tree(place.folder / "out")


def _without_settings(run: Any) -> Any:
    """What a run computed. Its settings are recorded as they were read, comments and descriptions included."""
    return {key: value for key, value in run.items() if key not in ("config", "config.yaml")}


def same(expected: Any, found: Any) -> bool:
    """Whether nothing that was expected has changed; runs of other names do not count."""
    if isinstance(expected, dict) and not any(isinstance(value, bytes) for value in expected.values()):
        return all(_without_settings(found.get(name, run)) == _without_settings(run) for name, run in expected.items())
    return bool(expected == found)


TRAIN = Command("train", ("seed=5", *SMALL), trained)
AGAIN = Command("train", ("method=symlora", "seed=0", *SMALL), printed)  # a run that is finished
GLUE = Command(
    "train",
    ("task=rte", "data.source=glue", "data.dir={folder}/glue", "data.train_limit=64", "train.epochs=1"),
    trained,
)
FROM = Command("train", ("seed=6", *SMALL, "init_from={folder}/start"), trained)
SEEDS = Command(
    "train",
    ("-m", "sweep=seeds", "hydra.launcher.inner=basic", "method=symlora", "model=local", "seed=5", *SMALL),
    trained,
)
STOPPED = ("method=lora", "seed=7", *SMALL, "results_dir={folder}/stopped")
GO_ON = Command("train", STOPPED, taken_up)
SWEEP_ON = Command("train", (*PACKED, *STOPPED), taken_up)  # reads all checkpoints before it plans
PLANNED = Command("train", (*PACKED, "method=lora", "seed=8,9", *SMALL), trained)
TABLES = Command("report", ("table1", "--results-dir", "runs", "--out", "out"), written)
FIGURES = Command("report", ("figure1", "--results-dir", "runs", "--out", "out"), written)
REPORT = Command("report", ("report", "--results-dir", "runs", "--out", "out"), written)
AUDIT = Command("report", ("audit", "--out", "out"), written)
RUNS = Command("runs", ("runs",), printed)
VERIFY = Command("verify_results", ("runs",), printed)
STUDY = ("model.name=tiny", "model.path={folder}/encoder", "results_dir={folder}/runs", "device=cpu", "precision=fp32",
         "train.batch_size=8", "train.model_dropout=0.1", *SMALL)  # fmt: skip
STATUS = Command("status", (*OPTIONS, "--seeds", "2", *STUDY), printed)
SELECT = Command("select_best", (*OPTIONS, *STUDY), printed)
EXPORT = Command("export", ("{run}", "{folder}/out", "--to", "lora"), exported)

TARGETS = (
    Target(SECTION + "run.json", (RUNS, VERIFY, AGAIN, STATUS, TABLES, SELECT), ("seed-0",), RECORDS),
    Target(SECTION + "predictions.parquet", (AGAIN, TABLES, VERIFY), ("seed-0",)),
    Target(SECTION + "norms.parquet", (FIGURES, VERIFY), ("seed-0",)),
    Target(SECTION + "config.yaml", (VERIFY,), ("seed-0",)),
    Target(SECTION + "adapter/adapter_model.safetensors", (REPORT, AGAIN, EXPORT), ("seed-0",)),
    Target(SECTION + "adapter/adapter_config.json", (REPORT, EXPORT), ("seed-0",)),
    Target("start/adapter_config.json", (FROM,), ("init_from", "{folder}/start")),
    Target("start/adapter_model.safetensors", (FROM,), ("init_from", "{folder}/start")),
    Target("cache/*.safetensors", (TRAIN,)),
    Target(CHECKPOINTS, (GO_ON, SWEEP_ON), odd=HEADERS),
    Target("runs/.checkpoints/*.plan.json", (PLANNED,), odd=PLANS),
    Target("encoder/config.json", (TRAIN,), ("model.path", "{folder}/encoder")),
    Target("encoder/model.safetensors", (TRAIN,), ("model.path", "{folder}/encoder")),
    Target("encoder/tokenizer.json", (TRAIN,), ("model.path", "{folder}/encoder")),
    Target("encoder/tokenizer_config.json", (TRAIN,), ("model.path", "{folder}/encoder")),
    Target("glue/rte/train-*.parquet", (GLUE,)),
    Target("glue/rte/validation-*.parquet", (GLUE,)),
    *(Target(f"project/results/published/{name}.yaml", (AUDIT,)) for name in ("glue", "symlora", "lora", "others")),
    Target("project/results/published/symlora.yaml", (TABLES,)),
    Target("project/results/leaderboard/scores.yaml", (TABLES,)),
    Target("project/configs/report.yaml", (TABLES,)),
    Target("project/configs/best/demo/local/symlora-mrpc.yaml", (SEEDS, TABLES)),
    *(
        Target(f"project/configs/{name}.yaml", (TRAIN,), (name, name.rpartition("/")[0] + "."))
        for name in ("config", "task/mrpc", "method/symlora", "model/local", "protocol/demo", "logger/none")
    ),
    *(
        Target(f"project/configs/{name}.yaml", (SEEDS,), (name, name.rpartition("/")[0] + ".", "hydra.launcher"))
        for name in ("sweep/seeds", "hydra/launcher/packed")
    ),
)


@dataclass
class Files:
    """A folder with every file that is read, and what the commands give while all are whole.

    Attributes:
        good: The folder, never changed.
        expected: Results of the commands.
    """

    good: Place
    expected: dict[Command, Any] = field(default_factory=dict)

    def copied(self, name: str) -> Place:
        """A copy to damage."""
        shutil.rmtree(self.good.folder.parent / name, ignore_errors=True)
        here = self.good.below(f"../{name}")
        here.folder = here.folder.resolve()
        here.clear()
        shutil.copytree(self.good.folder, here.folder)
        return _at_home(here)


def _at_home(place: Place) -> Place:
    """The same, with encoder and cache of tokens in its own folder."""
    own = {"model.path": place.folder / "encoder", "data.cache_dir": place.folder / "cache"}
    kept = [setting for setting in place.settings if setting.partition("=")[0] not in own]
    place.settings = [*kept, *(f"{key}={value}" for key, value in own.items())]
    return place


def good_files(place: Place, *, quick: bool = False) -> Files:
    """Makes every file, or one finished run alone.

    Raises:
        RuntimeError: A command failed.
    """
    good = place.below("good")
    shutil.copytree(place.encoder, good.folder / "encoder")
    _at_home(good)
    if quick:
        if (ended := good.train("method=symlora", "seed=0", *SMALL).wait()).status:
            raise RuntimeError(ended.printed)
        return Files(good)
    leaderboard = good.project / "results/leaderboard/scores.yaml"
    leaderboard.write_text(
        "- protocol: demo\n  model: tiny\n  method: symlora\n  task: mrpc\n  score: 78.1\n  date: 2026-12-01\n"
        "  url: https://gluebenchmark.com/leaderboard\n"
    )
    best = good.project / "configs/best/demo/local/symlora-mrpc.yaml"
    best.parent.mkdir(parents=True)
    best.write_text("# @package _global_\ntrain:\n  lr: 0.005\n  batch_size: 8\n")
    stop = killed_once_saved(good.folder / "stopped")
    commands: list[tuple[Sequence[str], Any]] = [
        ((*PACKED, "method=symlora,lora", "seed=0,1", *SMALL), None),
        (("seed=5", *SMALL, "results_dir={folder}/cached"), partial(write_glue, good.folder / "glue")),
        (
            (*STOPPED, "checkpoint.seconds=0"),
            planted(checkpoints_at_once, stop),
        ),
    ]
    for overrides, plant in commands:
        given = [override.replace("{folder}", str(good.folder)) for override in overrides]
        ended = good.train(*given, plant=plant).wait()
        if ended.status not in (0, -9):
            raise RuntimeError(f"{overrides} ended with {ended.status}: {ended.printed}")
    shutil.rmtree(good.folder / "cached")
    (start,) = good.runs.glob("demo/tiny/symlora/mrpc/*/seed-1/adapter")
    shutil.copytree(start, good.folder / "start")
    _plan(good)
    return Files(good)


def _plan(good: Place) -> None:
    """The plan of a sweep that was stopped before it trained."""
    from symlora.training.checkpoint_files import write_plan

    (first,) = good.runs.glob("demo/tiny/lora/mrpc/*/seed-0")
    write_plan(good.runs, [str(first.relative_to(good.runs).with_name(name)) for name in ("seed-8", "seed-9")])


def tries() -> Iterator[tuple[Target, Command, int]]:
    """Target, command, and the number of the version: all damaged ones, target by target."""
    for target in TARGETS:
        for command in target.commands:
            yield from ((target, command, number) for number in range(target.damaged()))


def odd_tries() -> Iterator[tuple[Target, Command, int]]:
    """The same of the odd ones: all with the first command of their target, then all with the next."""
    for turn in range(max(len(target.commands) for target in TARGETS)):
        for target in TARGETS:
            for number in range(len(target.odd)):
                if turn < len(target.commands):
                    yield target, target.commands[turn], target.damaged() + number


def damaged_file(
    files: Files, target: Target, command: Command, rng: random.Random, verdicts: Verdicts, number: int
) -> None:
    """Damages one file in one way, and judges what the command makes of it."""
    if command not in files.expected:
        here = files.copied("whole")
        ended = command.run(here)
        if ended.status:
            raise RuntimeError(f"{command} failed on whole files:\n{ended.printed}")
        files.expected[command] = command.result(here, ended)
        if command in (GO_ON, SWEEP_ON):
            verdicts.ignored += [f"{command.arguments}: {run}" for run in trained_anew(here.folder / "stopped")]
        here.clear()
    here = files.copied("damaged")
    path = target.find(here)
    content = path.read_bytes()
    how, changed = target.made(path, content, rng)[number]
    path.write_bytes(changed)
    if target.path == CHECKPOINTS and number >= target.damaged():
        path = path.rename(named_by_content(path, changed))
    before = tree(here.folder)
    try:
        ended = command.run(here)
    finally:
        if target.path.startswith("project/"):  # which is no copy of this try's
            path.write_bytes(content)
    names = [path.name, *(name.replace("{folder}", str(here.folder)) for name in target.names)]
    right = ended.status == 0 and same(files.expected[command], command.result(here, ended))
    said = f"{target.path}, {how}: {command.script} {' '.join(command.arguments[:3])}"
    verdicts.enter("files", said, ended, names, right)
    verdicts.damaged += [f"{said}: changed {name}" for name in _changed(before, tree(here.folder), path, here.folder)]
    here.clear()


def _changed(before: dict[str, bytes], after: dict[str, bytes], damaged: Path, folder: Path) -> list[str]:
    """Files of runs that were changed or removed; the damaged one may be, and what a run in work leaves behind."""
    own = str(damaged.relative_to(folder)) if damaged.is_relative_to(folder) else ""
    return [
        name
        for name, content in before.items()
        if name.startswith("runs/demo") and "/." not in name and name != own and after.get(name) != content
    ]
