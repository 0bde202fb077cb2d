"""Expand a multirun command into its runs, without starting them."""

import copy
from itertools import product

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

import symlora.sweep.launchers  # noqa: F401  # registers the schema of hydra/launcher=packed
from symlora.config.compose import CONFIG_DIR, our_configs, quote_paths, resolve
from symlora.config.schema import Config
from symlora.sweep.preflight import GROUPS, swept


def expand(*overrides: str) -> list[Config]:
    """List the runs of `symlora train -m <overrides>`.

    Each combination of task, method, model and protocol is composed once; the other swept values are set in it.

    Raises:
        SymloraError: An override names no key or has a wrong value.
    """
    with our_configs():
        words = quote_paths(overrides)
        parsed = OverridesParser.create().parse_overrides(words)
        fixed = [text for text, override in zip(words, parsed, strict=True) if not override.is_sweep_override()]
        params = compose("config", fixed, return_hydra_config=True).hydra.sweeper.params or {}
        values = swept(params, [text for text in words if not text.startswith("hydra")])
        groups = {group: values[group] for group in (*GROUPS, "budget", "logger") if group in values}
        keys = [key for key in values if key not in groups and (key in params or len(values[key]) > 1)]
        configs = []
        for choice in product(*groups.values()):  # each is composed once; the other values are set in it
            chosen = [f"{group}={value}" for group, value in zip(groups, choice, strict=True)]
            composed = compose("config", [*fixed, *chosen])
            for point in product(*(values[key] for key in keys)):
                cfg = copy.deepcopy(composed)
                with open_dict(cfg):
                    cfg.merge_with_dotlist([f"{key}={value}" for key, value in zip(keys, point, strict=True)])
                configs.append(resolve(cfg))
        return configs


def tasks_of(protocol: str) -> list[str]:
    """List the tasks of a protocol's recipe, the default of `make study`.

    From its own file if it has a recipe, else from the protocol that it is made from. WNLI is left out, as in both
    papers.
    """
    path = CONFIG_DIR / "protocol" / f"{protocol}.yaml"
    own = OmegaConf.select(OmegaConf.load(path), "protocol.recipe") or {}
    tasks = [str(task) for task in own if task != "wnli" and (path.parents[1] / "task" / f"{task}.yaml").is_file()]
    return tasks or tasks_of("paper")
