"""Our side of the bench: the training step of `fit_pack`, on a pack of K runs."""

import copy

import torch

from symlora.bench.work import Done, Load, done
from symlora.data.batches import pack_batch
from symlora.model.build import build_pack
from symlora.training.loop import _step
from symlora.training.run_state import RunState

_MANY = 10**6  # steps that the schedule plans for: the learning rate stays where it is


class Ours:
    """A pack, ready to train.

    Args:
        load: The case, one run's configuration and the rows. The runs differ in their seed.
        device: Where.
    """

    def __init__(self, load: Load, device: torch.device) -> None:
        self.work, self.runs = load.work, load.case.runs
        configs = []
        for seed in range(self.runs):
            config = copy.deepcopy(load.config)
            config.seed, config.train.model_dropout = seed, load.case.dropout
            configs.append(config)
        self.pack = build_pack(configs, device, load.case.precision)
        self._states = [
            RunState(number, config, model, _MANY)
            for number, (config, model) in enumerate(zip(configs, self.pack.runs, strict=True))
        ]

    def trained(self) -> dict[str, int]:
        """Number of values of each trained tensor of one run, by its name in the classifier."""
        return {_plain(name): p.numel() for name, p in self.pack.runs[0].trainable()}

    def run(self, turn: int, passes: int) -> Done:
        """Passes over the rows; batches are put together in time that counts, as in training."""
        self.pack.encoder.train()
        work, used, losses = self.work, [], []
        steps = work.steps(self.runs)
        for number in range(passes):
            orders = work.orders(turn, number, self.runs)
            used += orders
            for step in range(steps):
                batch = pack_batch(work.rows, orders, work.batch_size, step)
                losses += _step(self._states, batch, self.pack, 1, work.batch_size)
        return done(work, used, steps * passes, self.runs, sum(losses) / len(losses))


def _plain(name: str) -> str:
    """The name without what the wrappers put around it."""
    for part in ("base_model.model.", "modules_to_save.default.", "default.", "default"):
        name = name.replace(part, "")
    return name.removeprefix("model.")
