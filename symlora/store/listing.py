"""List run folders: a line per configuration, mean and spread over seeds.

A look at what there is, not a report: it tests nothing and compares nothing.
"""

from collections.abc import Iterable
from statistics import fmean, stdev
from typing import Any

HEADER = (
    f"{'task':6} {'metric':20} {'method':8} {'lr':>7} {'batch':>5} {'epochs':>6} {'adapter':>8} {'trained':>8} "
    f"{'seeds':>5} {'mean':>6} {'s':>5} {'seconds':>8}  configuration"
)


def table(records: Iterable[dict[str, Any]]) -> str:
    """Scores in points, as the protocol of each run selects its epoch.

    Args:
        records: Contents of run.json files (symlora.store.folder.scan).

    Returns:
        A block of lines for each protocol and model: mean and standard deviation (n - 1) of the score over the seeds,
        and mean seconds a run. Failed runs are counted, not averaged.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    notes: dict[tuple[str, str], str] = {}
    for record in records:
        config = record["config"]
        block = (config["protocol"]["name"], config["model"]["name"])
        notes[block] = config["model"]["note"]
        key = (*block, config["task"]["name"], config["method"]["name"], config["train"]["lr"], record["config_hash"])
        groups.setdefault(key, []).append(record)
    lines: list[str] = []
    for block in sorted(notes):
        lines += ["", f"protocol {block[0]}, model {block[1]}", HEADER]
        lines += [_line(runs) for key, runs in sorted(groups.items()) if key[:2] == block]
        lines += [notes[block]] if notes[block] else []
    return "\n".join(lines).lstrip()


def _line(runs: list[dict[str, Any]]) -> str:
    config, parameters = runs[0]["config"], runs[0].get("parameters", {"adapter": 0, "total": 0})
    train, finished = config["train"], [run for run in runs if run["status"] == "finished"]
    scores = [100 * run["score"]["value"] for run in finished if run["score"]["value"] is not None]
    mean = f"{fmean(scores):6.1f}" if scores else "  none"
    spread = f"{stdev(scores):5.1f}" if len(scores) > 1 else "    -"
    seconds = f"{fmean(run['cost']['seconds'] for run in finished):8.0f}" if finished else "       -"
    failed = f"  ({len(runs) - len(finished)} failed)" if len(finished) < len(runs) else ""
    undefined = f"  ({len(finished) - len(scores)} without a score)" if len(scores) < len(finished) else ""
    chance = sum(run["score"].get("at_chance", False) for run in finished)
    at_chance = f"  ({chance} at chance)" if chance else ""
    return (
        f"{config['task']['name']:6} {config['task']['score']:20} {config['method']['name']:8} {train['lr']:>7g} "
        f"{train['batch_size']:>5} {train['epochs']:>6} {parameters['adapter']:>8,} {parameters['total']:>8,} "
        f"{len(scores):>5} {mean} {spread} {seconds}  {runs[0]['config_hash']}{failed}{undefined}{at_chance}"
    )
