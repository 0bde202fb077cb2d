"""Group runs that can share a pass over the frozen encoder.

Runs of one pack have the same encoder, task, data, method structure, batch size and number of steps. They may differ in
seed, learning rates, weight decay, warm-up and clipping. Packs are filled up to a number of tokens per step, then split
where a worker would otherwise wait for the others.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from symlora.config.identity import pack_key
from symlora.config.schema import Config


@dataclass(frozen=True)
class Job:
    """One run of a multirun."""

    index: int  # its place among the jobs of the multirun
    config: Config
    tokens: float  # mean of a training row
    rows: int  # training rows
    packable: bool = True  # whether it can share a pass at all

    @property
    def step_tokens(self) -> float:
        """Return the mean tokens of a step."""
        return self.tokens * min(self.config.train.batch_size, self.rows)

    @property
    def cost(self) -> float:
        """Return the tokens trained on; time is proportional to them."""
        return self.tokens * self.rows * self.config.train.epochs


@dataclass(frozen=True)
class PackPlan:
    """Runs to train together."""

    jobs: tuple[Job, ...]

    @property
    def step_tokens(self) -> float:
        """Return the mean tokens of a step."""
        return sum(job.step_tokens for job in self.jobs)

    @property
    def cost(self) -> float:
        """Return the tokens trained on."""
        return sum(job.cost for job in self.jobs)

    @property
    def title(self) -> str:
        """Name what its runs have in common."""
        config = self.jobs[0].config
        return f"{config.method.name} on {config.task.name}, batch {config.train.batch_size}"


def most_tokens(device_type: str, precision: str) -> int:
    """Return the default limit on the mean tokens of a step.

    In float32 on a CPU larger packs gain nothing (docs/bench.md).
    """
    return 3000 if (device_type, precision) == ("cpu", "fp32") else 8192


def plan(jobs: Sequence[Job], max_tokens: float, workers: int) -> list[PackPlan]:
    """Put every job into one pack, the longest packs first.

    Args:
        jobs: All jobs, in order.
        max_tokens: Mean tokens per step at most. A job that has more gets a pack of its own.
        workers: Packs that run at the same time.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        key = pack_key(job.config) if job.packable else f"alone {job.index}"
        groups.setdefault(key, []).append(job)
    packs: list[PackPlan] = []
    for group in groups.values():
        largest = max(1, int(max_tokens // group[0].step_tokens))
        packs += _even(group, math.ceil(len(group) / largest))
    return sorted(_spread(packs, workers), key=lambda pack: -pack.cost)


def _even(jobs: Sequence[Job], count: int) -> list[PackPlan]:
    """Cut jobs into `count` packs whose sizes differ by at most one."""
    ends = [round(part * len(jobs) / count) for part in range(count + 1)]
    return [PackPlan(tuple(jobs[start:end])) for start, end in zip(ends, ends[1:], strict=False)]


def _spread(packs: list[PackPlan], workers: int) -> list[PackPlan]:
    """Split the longest packs while that shortens the sweep."""
    best, best_end = packs, _end(packs, workers)
    total = sum(pack.cost for pack in packs)
    while len(packs) < workers or best_end > 1.05 * total / workers:
        longest = max((pack for pack in packs if len(pack.jobs) > 1), key=lambda pack: pack.cost, default=None)
        if longest is None:
            break
        spare = len(packs) < workers
        packs = [pack for pack in packs if pack is not longest] + _even(longest.jobs, 2)
        end = _end(packs, workers)
        if spare or end < best_end * (1 - 1e-9):
            best, best_end = packs, end
    return best


def _end(packs: Sequence[PackPlan], workers: int) -> float:
    """Return when the last worker ends, longest packs first."""
    busy = [0.0] * workers
    for cost in sorted((pack.cost for pack in packs), reverse=True):
        heapq.heappushpop(busy, busy[0] + cost)
    return max(busy)
