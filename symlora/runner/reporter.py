"""Report a run's progress to the terminal and to W&B."""

import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from symlora.config.identity import config_hash, file_sha256, slug
from symlora.config.schema import Config
from symlora.store.folder import RUN_FILE, recorded_config, run_folder
from symlora.store.locks import write_progress

if TYPE_CHECKING:  # torch and transformers take seconds, and a finished run is reported without them
    from symlora.model.run_model import ParameterCounts
    from symlora.training.loop import StepProgress
    from symlora.training.result import Epoch

PLAIN_EVERY = 30.0  # seconds between two lines within an epoch where there is no terminal
SHARE_EVERY = 3.0  # seconds between two versions of the file that `symlora status --watch` reads
BINS = 32  # losses in that file, over the whole course


class Reporter:
    """Print to stderr, and mirror in W&B if asked.

    `quiet` prints nothing; the caller reports errors. Only one of several processes has `mirror`.
    """

    def __init__(self, config: Config, *, quiet: bool = False, mirror: bool = True) -> None:
        self.config = config
        self.quiet = quiet
        self._bar: Any = None
        self._last_line = 0.0
        self._steps = 0  # of this process
        self._per_epoch = 0  # steps
        self._shares = mirror  # one process of several does
        self._last_share = 0.0
        self._losses = defaultdict[int, list[float]](list)
        self._scores: list[float | None] = []
        self._mirror = _Wandb(config) if mirror and config.logger.name == "wandb" else None

    def started(self, folder: Path, record: dict[str, Any], counts: "ParameterCounts") -> None:
        """Announce the run."""
        config = self.config
        self._steps, self._scores = 0, []  # a pack in which memory ran out begins again, in halves
        self._losses.clear()
        data, origin = record["data"], record["provenance"]
        self._per_epoch = math.ceil(data["train"]["rows"] / config.train.batch_size)
        rows = ", ".join(f"{name} {described['rows']:,}" for name, described in data.items())
        cut = data["train"]["truncated_rows"] / data["train"]["rows"]
        self._say(f"{_title(config)}  ->  {folder}")
        self._say(f"  trained parameters: {counts}")
        if config.data.source == "own":
            classes = data["train"].get("classes", {})
            named = ", ".join(f"{name} {count:,}" for name, count in [*classes.items()][:20])
            more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
            self._say(
                f"  columns: {', '.join(config.task.columns)}; labels in {config.task.label}: {named or 'scores'}{more}"
            )
            self._say(f"  metrics: {', '.join(config.task.metrics)}; the score is {config.task.score}")
        self._say(f"  rows: {rows}; {cut:.1%} of the training rows cut at {config.data.max_length} tokens")
        self._say(f"  {origin['device']}, {record['precision']}, {origin['threads']} threads")
        tokenizer, head = origin["tokenizer"], origin["head"]
        words = {"kept": "pre-trained", "drawn": "newly initialised", "taken": "from init_from"}
        starts = "; ".join(f"{', '.join(head[how])} {word}" for how, word in words.items() if head.get(how))
        case, segments = ("lower case" if tokenizer["lower_case"] else "case kept"), tokenizer["segments"]
        self._say(f"  tokenizer: {tokenizer['class']}, {case}, {segments} segment(s); head: {starts}")
        for note in filter(None, [config.model.note, *origin["notes"]]):
            self._say(f"  note: {note}")
        if config.progress and sys.stderr.isatty() and not self.quiet:
            from tqdm import tqdm

            self._bar = tqdm(unit="step", dynamic_ncols=True, leave=False)
        self._started = self._last_line = self._last_share = time.perf_counter()

    def step(self, progress: "StepProgress") -> None:
        """Report a step."""
        self._steps += 1
        self._losses[progress.step * BINS // progress.steps].append(progress.loss)
        if self._shares and time.perf_counter() - self._last_share > SHARE_EVERY:
            self._last_share = time.perf_counter()
            self._share(progress)
        if self._mirror is not None:
            self._mirror.log({"train/loss": progress.loss, "epoch": progress.epoch}, progress.step)
        if self._bar is not None:
            if self._bar.total is None:
                self._bar.reset(total=progress.steps)
                self._bar.n = self._bar.initial = progress.step - 1  # more than 0 where a stopped run goes on
            self._bar.set_description(
                f"{self.config.task.name} epoch {progress.epoch}/{self.config.train.epochs}", refresh=False
            )
            score = "" if progress.score is None else f", {self.config.task.score} {progress.score:.4f}"
            self._bar.set_postfix_str(f"loss {progress.loss:.3f}{score}", refresh=False)
            self._bar.update()
        elif time.perf_counter() - self._last_line > PLAIN_EVERY:
            self._last_line = time.perf_counter()
            left = self._left(progress)
            at = f"step {progress.step:,}/{progress.steps:,}"
            self._say(f"  {at}  loss {progress.loss:.3f}  about {format_duration(left)} left")

    def epoch(self, epoch: "Epoch") -> None:
        """Report an epoch."""
        self._scores.append(next(iter(epoch.metrics.values())).get(self.config.task.score))
        self._say(
            f"  epoch {epoch.number}/{self.config.train.epochs}  loss {epoch.train_loss:.3f}  "
            f"{_metrics(epoch.metrics)}  ({epoch.seconds:.0f} s)"
        )
        if self._mirror is not None:
            flat = {
                f"{split}/{name}": value for split, metrics in epoch.metrics.items() for name, value in metrics.items()
            }
            values = {"epoch": epoch.number, "train/epoch_loss": epoch.train_loss, **flat}
            self._mirror.log(values, epoch.number * self._per_epoch)

    def _left(self, progress: "StepProgress") -> float:
        return (time.perf_counter() - self._started) / self._steps * (progress.steps - progress.step)

    def _share(self, progress: "StepProgress") -> None:
        shared = {
            "epoch": progress.epoch,
            "epochs": self.config.train.epochs,
            "share": progress.step / progress.steps,
            "resumed": (progress.step - self._steps) / progress.steps,  # done by an earlier process
            "left": self._left(progress),
            "losses": [fmean(losses) for losses in self._losses.values()],
            "metric": self.config.task.score,
            "scores": self._scores,
        }
        write_progress(Path(self.config.results_dir), run_folder(self.config), shared)

    def skipped(self, folder: Path, record: dict[str, Any]) -> None:
        """Report that the run exists already."""
        if record["status"] == "failed":
            self._say(f"{_title(self.config)}: failed in another process of this sweep: {record['error']}")
            return
        self._say(f"{_title(self.config)}: already finished in {folder} ({_score(record)}); force=true trains it again")

    def finished(self, folder: Path, record: dict[str, Any]) -> None:
        """Report how a run ended."""
        if self._mirror is not None:
            self._mirror.end(record)
        self.close()
        if record["status"] == "failed":
            self._say(f"  FAILED: {record['error']}")
            return
        if (stopped := record.get("stopped_epoch")) is not None:
            train = self.config.train
            self._say(
                f"  stopped after epoch {stopped} of {train.epochs}: no better score (train.patience={train.patience})"
            )
        for rule, chosen in record["selections"].items():
            mark = "*" if rule == record["score"]["selection"] else " "
            self._say(f"  {mark} {rule:8} (epoch {chosen['epoch']})  {_metrics(chosen['metrics'])}")
        self._say(f"  {_score(record)}; {format_duration(record['cost']['seconds'])}")
        if record["score"]["at_chance"]:
            chance = record["score"]["chance"]
            self._say(f"  at chance: a constant prediction gets {chance:.4f}. The run is kept, and marked.")

    def close(self) -> None:
        """Close the bar and the mirror; safe to call twice."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._mirror is not None:
            self._mirror.close()  # a pack that is trained again in halves begins anew

    def _say(self, text: str) -> None:
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


class _Wandb:
    """One W&B run, named after the configuration.

    It begins with the first step or epoch, which tells whether the run goes on from a checkpoint: then it continues the
    W&B run of the same id. W&B's step is the training step. The key stays with `wandb login`.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._run: Any = None
        self._failed = False

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values at a training step."""
        if self._begin(resume=step > 1):
            self._run.log(dict(values), step=step)

    def end(self, record: Mapping[str, Any]) -> None:
        """Write how the run ended into the summary."""
        if not self._begin(resume=True):  # trained before: only the folder was missing
            return
        summary = {"status": record["status"], "protocol/selection": self._config.protocol.selection}
        if record["status"] == "finished":
            score = record["score"]
            chosen = record["selections"][score["selection"]]
            summary |= {"score": score["value"], "score/metric": score["metric"], "score/split": score["split"]}
            summary |= {"score/epoch": chosen["epoch"], "at_chance": score["at_chance"]}
        self._run.summary.update(summary)
        self.close(int(record["status"] != "finished"))

    def close(self, exit_code: int = 1) -> None:
        """End the W&B run; by default as one that was stopped."""
        if self._run is not None:
            self._run.finish(exit_code=exit_code)
            self._run = None

    def _begin(self, *, resume: bool) -> bool:
        """Start or continue the W&B run; False where that is not possible."""
        if self._run is not None or self._failed:
            return not self._failed
        os.environ.setdefault("WANDB_SILENT", "true")  # read when wandb is imported
        config, logger = self._config, self._config.logger
        standing = run_folder(config) / RUN_FILE  # what a forced run will replace tells it from the one before
        again = f"-{file_sha256(standing)[:6]}" if config.force and standing.is_file() else ""
        try:
            import wandb

            self._run = wandb.init(
                project=logger.project,
                dir=os.environ.get("WANDB_DIR", os.getcwd()),  # W&B itself keeps its first run's folder
                mode=logger.mode,  # type: ignore[arg-type]  # checked in symlora.config
                group=logger.group or f"{config.protocol.name}-{config.model.name}",
                job_type=logger.job_type,
                tags=[config.method.name, config.task.name, config.protocol.name, config.model.name],
                name=f"{config.method.name}-{config.task.name}-{slug(config)}-seed-{config.seed}",
                id=f"{config_hash(config)}-{config.seed}{again}",
                resume="allow" if resume else None,
                reinit="create_new",  # a pack's runs share this process
                config=recorded_config(config),
                settings=wandb.Settings(x_disable_machine_info=True, disable_code=True, disable_git=True),
            )
        except Exception as error:  # no key, no network: the folder is the record, the run goes on
            self._failed = True
            print(f"W&B is off for {_title(config)}: {error}", file=sys.stderr)
        return not self._failed


def _title(config: Config) -> str:
    where = f"{config.model.name}, protocol {config.protocol.name}, seed {config.seed}"
    return f"{config.method.name} on {config.task.name}, {where}"


def _score(record: dict[str, Any]) -> str:
    score = record["score"]
    return f"{score['metric']} {_number(score['value'])} on {score['split']} ({score['selection']} epoch)"


def _metrics(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    """Format the metrics of every split."""
    return "  ".join(
        f"{split}: " + ", ".join(f"{name} {_number(value)}" for name, value in values.items())
        for split, values in metrics.items()
    )


def _number(value: float | None) -> str:
    return "not defined" if value is None or value != value else f"{value:.4f}"


def format_duration(seconds: float) -> str:
    """Format seconds, as in 1 h 05 min."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
