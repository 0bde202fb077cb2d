"""Which runs share a pass over the frozen encoder.

Runs can share one when they have the same encoder, task, data, method structure, batch size and number of steps; they
may differ in what concerns the trained modules alone: seed, learning rates, weight decay, warm-up, clipping. Packs are
filled up to a budget of tokens a step, then split where a worker would wait for the others.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from symlora.config.identity import pack_key
from symlora.config.schema import Config

# Tokens a step. CPU: gains end there (a prototype: 1.5 times at 1,500 tokens of CoLA, 1.1 times at 2,000 of RTE). GPU:
# an estimate, for a 12 x 768 encoder, of where a step is no longer bound by its launches.
MAX_TOKENS_CPU = 2048
MAX_TOKENS_GPU = 8192


@dataclass(frozen=True)
class Job:
    """One run of a multirun.

    Attributes:
        index: Its place among the jobs that Hydra asked for.
        config: The run.
        tokens: Mean tokens of a training row.
        rows: Training rows.
        packable: Whether it can share a pass at all.
    """

    index: int
    config: Config
    tokens: float
    rows: int
    packable: bool = True

    @property
    def step_tokens(self) -> float:
        """Mean tokens of a step."""
        return self.tokens * min(self.config.train.batch_size, self.rows)

    @property
    def cost(self) -> float:
        """Tokens trained on: what the time is proportional to."""
        return self.tokens * self.rows * self.config.train.epochs


@dataclass(frozen=True)
class PackPlan:
    """Runs that are trained together."""

    jobs: tuple[Job, ...]

    @property
    def step_tokens(self) -> float:
        """Mean tokens of a step of the whole pack."""
        return sum(job.step_tokens for job in self.jobs)

    @property
    def cost(self) -> float:
        """Tokens trained on."""
        return sum(job.cost for job in self.jobs)

    @property
    def title(self) -> str:
        """What its runs have in common."""
        config = self.jobs[0].config
        return f"{config.method.name} on {config.task.name}, batch {config.train.batch_size}"


def plan(jobs: Sequence[Job], max_tokens: float, workers: int) -> list[PackPlan]:
    """Puts every job into one pack.

    Args:
        jobs: All jobs, in order.
        max_tokens: Tokens a step at most, on average. A job that has more by itself gets a pack of its own.
        workers: Packs that run at the same time.

    Returns:
        Packs, the longest first (which keeps the workers' ends together).
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
    """Cuts jobs into `count` packs whose sizes differ by at most one."""
    ends = [round(part * len(jobs) / count) for part in range(count + 1)]
    return [PackPlan(tuple(jobs[start:end])) for start, end in zip(ends, ends[1:], strict=False)]


def _spread(packs: list[PackPlan], workers: int) -> list[PackPlan]:
    """Splits the longest packs: until every worker has one, then as long as that makes the whole end earlier."""
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
    """When the last worker is done, if each takes the longest pack left."""
    busy = [0.0] * workers
    for cost in sorted((pack.cost for pack in packs), reverse=True):
        heapq.heappushpop(busy, busy[0] + cost)
    return max(busy)
