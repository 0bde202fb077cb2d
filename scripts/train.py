"""Trains one adapter on one GLUE task and writes one run folder. `--help` lists every setting."""

import sys

import hydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from symlora.config import resolve
from symlora.errors import SymloraError
from symlora.hub import go_offline_if_unreachable


@hydra.main(config_path="../configs", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """One run. Its score is returned, for Hydra's sweepers."""
    try:
        config = resolve(cfg)
        go_offline_if_unreachable()
        from symlora.reporter import (
            Reporter,
        )  # torch and transformers: seconds that --help and a typing error need not wait
        from symlora.run import run

        folder, record = run(config, Reporter(config))
    except SymloraError as error:
        # Hydra prints this kind without a traceback, and goes on with the other jobs of a multirun.
        raise CompactHydraException(f"error: {error}") from None
    if record["status"] == "failed":
        raise CompactHydraException(f"error: the run failed: {record['error']} (traceback in {folder}/run.json)")
    value: float | None = record["score"]["value"]
    return value


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nInterrupted. Finished runs are kept; the interrupted one starts again next time.", file=sys.stderr)
        sys.exit(130)
