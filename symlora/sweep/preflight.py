"""Refuse impossible sweeps before they begin, by Hydra's callbacks.

Hydra calls them under any launcher. It turns an Exception of a callback into a warning; SystemExit ends the command.
"""

import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

GROUPS = ("protocol", "model", "task", "method")


def swept(params: Mapping[str, Any] | None, overrides: list[str]) -> dict[str, list[str]]:
    """List the values of each key in a multirun.

    Args:
        params: `hydra.sweeper.params`.
        overrides: The command line's, without Hydra's own; they replace those of `params`.
    """
    given = [f"{key}={value}" for key, value in (params or {}).items()] + overrides
    values: dict[str, list[str]] = {}
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # expands `glob(*)`
    for override in OverridesParser.create(loader).parse_overrides(given):
        key = override.get_key_element().lstrip("+")
        if override.is_sweep_override():
            values[key] = list(override.sweep_string_iterator())
        elif not override.is_delete():
            values[key] = [override.get_value_element_as_str()]
    return values


class HasPlace(Callback):
    """Make Hydra's folder of a multirun, or exit in one line."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(config, folder / "multirun.yaml")  # as the sweeper will, without a message
        except OSError as error:
            sys.exit(
                f"error: the folder {folder} cannot be created or written to: {error.strerror}. Remove what is in its "
                "way, or set hydra.sweep.dir=<a writable folder>."
            )


class GridSeeds(Callback):
    """Check the protocol and the seeds of `sweep=grid`, or exit."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        values = swept(config.hydra.sweeper.get("params"), list(config.hydra.overrides.task))
        seeds, chosen_by = values.get("seed", ["0"]), [str(seed) for seed in config.protocol.grid_seeds]
        if len(values.get("protocol", [])) > 1:
            sys.exit("error: sweep=grid with several protocols: each has its own grid. Give one protocol per command.")
        if chosen_by and seeds != chosen_by:
            sys.exit(
                f"error: sweep=grid with seed={','.join(seeds)}: protocol {config.protocol.name} chooses by the mean "
                f"of the seeds {', '.join(chosen_by)}. Leave out seed."
            )
        if len(seeds) > 1 and not chosen_by:
            sys.exit(
                f"error: sweep=grid with {len(seeds)} seeds: a grid is never multiplied with seeds. Give one "
                "(seed=0), then `make select`, then `make seeds N=<seeds>`."
            )


class HasBest(Callback):
    """Check that the points of `sweep=seeds` were selected, or exit."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        values = swept(config.hydra.sweeper.get("params"), list(config.hydra.overrides.task))
        for key in ("train.lr", "train.batch_size"):
            if key in values:
                sys.exit(
                    f"error: sweep=seeds with {key}: the seeds are trained at what `make select` chose (configs/best). "
                    "Leave it out."
                )
        chose = {str(seed) for seed in config.protocol.grid_seeds}
        if again := chose & {*values.get("seed", [])}:
            sys.exit(f"error: sweep=seeds with seed {min(again)}: it chose the point, so it cannot be used again.")
        choices, sources = config.hydra.runtime.choices, config.hydra.runtime.config_sources
        folders = [Path(urlsplit(source.path).path) for source in sources if source.schema == "file"]
        for protocol, model, task, method in product(*(values.get(group, [choices[group]]) for group in GROUPS)):
            name = f"best/{protocol}/{model}/{method}-{task}.yaml"
            path = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if path is None:
                sys.exit(
                    f"error: there is no configs/{name}: nothing was selected for method={method} task={task} yet. "
                    f"Run `make select TASK={task} MODEL={model} PROTOCOL={protocol}`, after `make sweep` with "
                    "the same values."
                )
            selected = OmegaConf.load(path)
            for group, file in (("task", task), ("model", model)):
                known = OmegaConf.select(selected, f"{group}.name") or file
                if (given := values.get(f"{group}.name", [known])) != [known]:
                    sys.exit(
                        f"error: {path} was selected for {group}.name={known}, not {','.join(given)}. Run "
                        "`make select` with the same values again, which replaces it."
                    )
