"""What a run tells people while it runs: a progress bar on a terminal, plain lines elsewhere; and the mirror in W&B."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symlora.config.identity import slug
from symlora.config.schema import Config, LoggerConfig

if TYPE_CHECKING:  # torch and transformers take seconds, and a finished run is reported without them
    from symlora.training.loop import StepProgress
    from symlora.training.result import Epoch

PLAIN_EVERY = 30.0  # seconds between two lines within an epoch where there is no terminal


class Reporter:
    """Prints to stderr, so that stdout stays free for results.

    Args:
        config: The run.
        quiet: Say nothing but errors.
    """

    def __init__(self, config: Config, *, quiet: bool = False) -> None:
        self.config = config
        self.quiet = quiet
        self._bar: Any = None
        self._last_line = 0.0
        self._steps = 0  # of this process
        self._mirror: _Wandb | None = None
        self._wants_bar = config.progress and sys.stderr.isatty() and not quiet

    def started(self, folder: Path, record: dict[str, Any]) -> None:
        """Announces the run."""
        config = self.config
        parameters, data = record["parameters"], record["data"]
        rows = ", ".join(f"{name} {described['rows']:,}" for name, described in data.items())
        cut = data["train"]["truncated_rows"] / data["train"]["rows"]
        self._say(f"{_title(config)}  ->  {folder}")
        self._say(
            f"  trained parameters: adapter {parameters['adapter']:,} + head {parameters['head']:,}"
            + (f" + encoder {parameters['encoder']:,}" if parameters["encoder"] else "")
            + f" = {parameters['total']:,}"
        )
        self._say(f"  rows: {rows}; {cut:.1%} of the training rows cut at {config.data.max_length} tokens")
        self._say(
            f"  {record['provenance']['device']}, {record['precision']}, {record['provenance']['threads']} threads"
        )
        if config.model.note:
            self._say(f"  note: {config.model.note}")
        if config.logger.name == "wandb":
            try:
                self._mirror = _Wandb(config.logger, config, record)
            except Exception as error:  # no key, no network: the folder is the record, the run goes on
                self._say(f"  W&B mirrors nothing: {error}")
        if self._wants_bar:
            from tqdm import tqdm

            self._bar = tqdm(unit="step", dynamic_ncols=True, leave=False)
        self._started = self._last_line = time.perf_counter()

    def step(self, progress: "StepProgress") -> None:
        """After every step."""
        self._steps += 1
        if self._mirror is not None:
            self._mirror.log({"train/loss": progress.loss, "epoch": progress.epoch})
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
            left = (self._last_line - self._started) / self._steps * (progress.steps - progress.step)
            at = f"step {progress.step:,}/{progress.steps:,}"
            self._say(f"  {at}  loss {progress.loss:.3f}  about {format_duration(left)} left")

    def epoch(self, epoch: "Epoch") -> None:
        """After every epoch."""
        scores = "  ".join(
            f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            for split, metrics in epoch.metrics.items()
        )
        self._say(
            f"  epoch {epoch.number}/{self.config.train.epochs}  loss {epoch.train_loss:.3f}  {scores}"
            f"  ({epoch.seconds:.0f} s)"
        )
        if self._mirror is not None:
            flat = {
                f"{split}/{name}": value for split, metrics in epoch.metrics.items() for name, value in metrics.items()
            }
            self._mirror.log({"epoch": epoch.number, "train/epoch_loss": epoch.train_loss, **flat})

    def skipped(self, folder: Path, record: dict[str, Any]) -> None:
        """The run's record stands there already."""
        if record["status"] == "failed":
            self._say(f"{_title(self.config)}: failed in another process of this sweep: {record['error']}")
            return
        self._say(f"{_title(self.config)}: already finished in {folder} ({_score(record)}); force=true trains it again")

    def finished(self, folder: Path, record: dict[str, Any]) -> None:
        """The last word on a run."""
        self.close()
        if record["status"] == "failed":
            self._say(f"  FAILED: {record['error']}")
            return
        for rule, chosen in record["selections"].items():
            values = "  ".join(
                f"{split}: " + ", ".join(f"{name} {_number(value)}" for name, value in metrics.items())
                for split, metrics in chosen["metrics"].items()
            )
            mark = "*" if rule == record["score"]["selection"] else " "
            self._say(f"  {mark} {rule:8} (epoch {chosen['epoch']})  {values}")
        self._say(f"  {_score(record)}; {format_duration(record['cost']['seconds'])}")
        if record["score"]["at_chance"]:
            chance = record["score"]["chance"]
            self._say(f"  at chance: a constant prediction gets {chance:.4f}. The run is kept, and marked.")

    def close(self) -> None:
        """Ends bar and mirror; safe to call twice."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._mirror is not None:
            self._mirror.finish()
            self._mirror = None

    def _say(self, text: str) -> None:
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


class _Wandb:
    """One W&B run, named after the configuration, so that a repeat is recognised. The key stays with `wandb login`."""

    def __init__(self, logger: LoggerConfig, config: Config, record: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # read when wandb is imported
        import wandb

        self._run = wandb.init(
            project=logger.project,
            mode=logger.mode,  # type: ignore[arg-type]  # checked in symlora.config
            group=logger.group or f"{config.protocol.name}-{config.model.name}",
            job_type=logger.job_type,
            tags=[config.method.name, config.task.name, config.protocol.name, config.model.name],
            name=f"{config.method.name}-{config.task.name}-{slug(config)}-seed-{config.seed}",
            id=f"{record['config_hash']}-{config.seed}",
            config=record["config"],
            settings=wandb.Settings(x_disable_machine_info=True, disable_code=True, disable_git=True),
        )

    def log(self, values: dict[str, float]) -> None:
        self._run.log(values)

    def finish(self) -> None:
        self._run.finish()


def _title(config: Config) -> str:
    where = f"{config.model.name}, protocol {config.protocol.name}, seed {config.seed}"
    return f"{config.method.name} on {config.task.name}, {where}"


def _score(record: dict[str, Any]) -> str:
    score = record["score"]
    return f"{score['metric']} {_number(score['value'])} on {score['split']} ({score['selection']} epoch)"


def _number(value: float | None) -> str:
    return "not defined" if value is None or value != value else f"{value:.4f}"


def format_duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
