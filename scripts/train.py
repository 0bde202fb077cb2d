"""Trains one adapter on one GLUE task and writes one run folder. `--help` lists every setting."""

import sys
from pathlib import Path
from typing import Any

from symlora.training.interrupt import Stopped, stop_at_once

if __name__ == "__main__":
    stop_at_once()  # before the other imports, which take a second or more

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from symlora.config.compose import check_files, resolve
from symlora.config.overrides import check_words
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.model.hub import go_offline_if_unreachable
from symlora.runner.reporter import Reporter
from symlora.store.folder import finished_record, run_folder
from symlora.sweep.worker import failure
from symlora.training.checkpoint_files import clear_settled


def train(config: Config) -> dict[str, Any]:
    """The record of a run, finished before or trained now."""
    if (record := finished_record(config)) is not None:
        Reporter(config).skipped(run_folder(config), record)
        clear_settled(Path(config.results_dir))
        return record
    go_offline_if_unreachable()
    # torch, transformers and peft take seconds that no typing error need wait for
    from symlora.runner.run import run
    from symlora.training.distributed import launched_processes

    folder, record = run(config, Reporter(config, quiet=launched_processes().rank > 0))
    if record["status"] == "busy":
        raise SymloraError(record["error"])
    if record["status"] == "failed":
        raise SymloraError(failure(folder, record))
    return record


@hydra.main(config_path="../configs", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """One run. Its score is returned, for Hydra's sweepers."""
    hydra_config = HydraConfig.get()
    try:
        score: float | None = train(resolve(cfg))["score"]["value"]
        return score
    except SymloraError as error:
        if hydra_config.mode != RunMode.MULTIRUN:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        # The other jobs go on; Hydra repeats the first failure at the end, and exits with 1.
        print(f"error: {error}  [{' '.join(hydra_config.overrides.task)}]", file=sys.stderr)
        raise CompactHydraException(f"error: {error}") from None


if __name__ == "__main__":
    try:
        check_files()
        check_words(sys.argv[1:])
    except SymloraError as error:
        sys.exit(f"error: {error}")
    try:
        main()
    except Stopped:
        print("\nStopped. Finished runs are kept; the same command goes on from the last checkpoint.", file=sys.stderr)
        raise
