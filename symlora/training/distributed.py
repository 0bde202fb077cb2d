"""Share one run's batches among processes, and add up their gradients.

    ∇L = Σ_p (B_p / B) ∇L_p,   L_p: mean loss over the B_p rows of process p, B = Σ_p B_p

Started by `torchrun` or `accelerate launch`, which say in the environment how many processes there are. Only adapter
and head have gradients, so what is exchanged each step is small (1.2 MB for SymLoRA's start to 3.5 MB for LoRA and
head on RoBERTa-base) and one sum after the backward pass serves; torch's DistributedDataParallel would divide by the
number of processes, which is not the mean when shares are unequal.

The run equals that of one process up to the order of sums: the masks of dropout belong to the rows
(symlora.model.dropout). Scores are computed by every process alike, and written by the first.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from symlora.errors import SymloraError


@dataclass(frozen=True)
class Processes:
    """Which process this is, and of how many."""

    rank: int = 0
    size: int = 1

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the processes, in float32 and in place."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def agree(self, value: bool, device: torch.device) -> bool:
        """Return the first process's value."""
        said = torch.tensor(float(value and self.rank == 0), device=device)
        self.add_up([said])
        return bool(said)

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients over the processes; a missing one counts as 0."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.add_up([parameter.grad for parameter in parameters if parameter.grad is not None])


ALONE = Processes()


def launched_processes() -> Processes:
    """Read torchrun's variables; one process without them.

    Raises:
        SymloraError: The variables are no numbers, or contradict each other.
    """
    try:
        rank, size = int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError as error:
        raise SymloraError(f"RANK and WORLD_SIZE in the environment must be numbers: {error}.") from error
    if not 0 <= rank < size:
        raise SymloraError(f"RANK={rank} and WORLD_SIZE={size} in the environment contradict each other.")
    return Processes(rank, size)


@contextmanager
def connected(processes: Processes, device: torch.device) -> Iterator[None]:
    """Connect the processes within the block: nccl on GPUs, gloo on CPUs."""
    if processes.size == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()
    except BaseException:
        if device.type != "cuda":  # NCCL would wait here for the others, who wait for this process (pytorch #141510)
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()
