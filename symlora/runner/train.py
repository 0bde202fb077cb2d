"""Train one run or a multirun from the command line."""

import sys
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from symlora.config.compose import CONFIG_DIR, check_files, quote_paths, resolve
from symlora.config.overrides import check_words
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.runner.reporter import Reporter
from symlora.store.folder import failure_text, finished_record, run_folder
from symlora.store.selection import criterion
from symlora.training.checkpoint_files import clear_settled
from symlora.training.interrupt import cluster_job, end_with_parent


def train(config: Config) -> dict[str, Any]:
    """Return a finished run's record, or train the run now.

    Raises:
        SymloraError: It could not be trained, or it failed; the message says why.
    """
    if (record := finished_record(config)) is not None:
        Reporter(config).skipped(run_folder(config), record)
        clear_settled(Path(config.results_dir))
        return record
    go_offline_if_unreachable()
    # torch, transformers and peft take seconds that no typing error need wait for
    from symlora.runner.run import run
    from symlora.training.distributed import launched_processes

    first = launched_processes().rank == 0
    folder, record = run(config, Reporter(config, quiet=not first, mirror=first))
    if record["status"] == "busy":
        raise SymloraError(record["error"])
    if record["status"] == "failed":
        raise SymloraError(failure_text(folder, record))
    return record


@hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """Train one run and return its score, for Hydra's sweepers."""
    hydra_config = HydraConfig.get()
    try:
        if current_process().name.startswith("Loky"):  # a worker of hydra/launcher=joblib
            end_with_parent()
        with cluster_job():
            return criterion(train(resolve(cfg)))[0]
    except SymloraError as error:
        if hydra_config.mode != RunMode.MULTIRUN:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        # The other jobs go on; Hydra repeats the first failure at the end, and exits with 1.
        print(f"error: {error}  [{' '.join(hydra_config.overrides.task)}]", file=sys.stderr)
        raise CompactHydraException(f"error: {error}") from None


def command(words: list[str]) -> None:
    """Run `symlora train` with these overrides and options of Hydra.

    Raises:
        SymloraError: A word cannot be read, or names what is not there.
    """
    check_files()
    if {"-m", "--multirun"} & {*words} and {"-c", "--cfg"} & {word.partition("=")[0] for word in words}:
        raise SymloraError("--cfg prints the configuration of one run: leave out -m, and give one value per setting")
    words = ["--hydra-help"] if "--hydra-help" in words else quote_paths(words)
    check_words(words)
    sys.argv = ["symlora train", *words]
    main()
