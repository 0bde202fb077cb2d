"""Train several runs on one frozen encoder.

Their small trained modules stand side by side; everything else is shared.

    y_k = f(θ_k, x_k),   k = 1 … K,   as   Y = vmap(f)(Θ, X)

A pack is K runs that share encoder, task, method and batch size. One flat batch holds the tokens of all of them, so
every frozen matrix is applied once. Only the modules that are trained (adapted projections and head) know about K:
each run keeps its own copy with ordinary parameters, whose values are slices of one tensor of all runs' (`Stack`).
PEFT's layers work as they are, optimizers and saving see ordinary parameters, and the parameters of K runs cost K small
modules and one encoder.

Runs with fewer rows are padded with copies of one of their own rows, whose results are not used: a NaN never leaves
its run.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.func import functional_call

from symlora.model.dropout import Masks, drops
from symlora.model.encoder import Encoder
from symlora.model.grouped import Fill
from symlora.model.head import head_modules
from symlora.model.packable import CannotPack
from symlora.model.projection import fits, projected
from symlora.model.run_model import RunModel
from symlora.model.stack import Stack


class Packed(nn.Module):
    """One trained module of each run, applied to its own rows.

    The members are of one structure, on shared frozen weights; the masks, which all share, know whose rows a batch
    holds.
    """

    def __init__(self, members: Sequence[nn.Module], masks: Masks, stacks: dict[int, Stack]) -> None:
        super().__init__()
        self.masks = masks
        self.members = list(members)  # a list and no ModuleList: the parameters belong to the runs
        self.trained: dict[str, Stack] = {}
        self.others: dict[str, list[Tensor]] = {}
        for name, tensors in _leaves(members).items():
            if not tensors[0].requires_grad:
                self.others[name] = tensors
                continue
            if id(tensors[0]) not in stacks:  # another module may share it
                stacks[id(tensors[0])] = Stack(tensors)
            self.trained[name] = stacks[id(tensors[0])]

    def train(self, mode: bool = True) -> "Packed":
        """Set training or evaluation mode, for the runs' modules too."""
        for member in self.members:
            member.train(mode)
        return super().train(mode)

    def drop(self, position: int) -> None:
        """Take a run out; the others keep their order."""
        del self.members[position]
        for tensors in self.others.values():
            del tensors[position]

    def forward(self, x: Tensor) -> Tensor:
        """Apply each run's module: [1, T, n] tokens or [B, …] sentences."""
        if len(self.members) == 1:
            out: Tensor = self.members[0](x)
            return out
        if fits(self.members[0], len(self.members)):  # the others are like it
            return projected(self.members, x, self.masks, {name: stack.values for name, stack in self.trained.items()})
        dim, counts = self.masks.counts(x)
        rows, most = (x[0] if dim else x), max(counts)
        fill = None if min(counts) == most else Fill.of(counts, x.device)
        stacked = rows if fill is None else _gathered(rows, fill.index, fill.back)
        stacked = stacked.view(len(counts), *((1,) if dim else ()), most, *rows.shape[1:])
        keys = torch.zeros(len(rows), dtype=torch.int64, device=x.device)
        if drops(self.members[0]):
            keys = self.masks.rows(rows.shape[:1])
        keys = (keys if fill is None else keys[fill.index]).view(len(counts), most)
        out = self._together(stacked, keys).flatten(0, 2 if dim else 1)
        if fill is not None:
            out = _gathered(out, fill.back, fill.index, fill.surplus)
        return out[None] if dim else out

    def _together(self, stacked: Tensor, keys: Tensor) -> Tensor:
        parameters = {name: stack.values for name, stack in self.trained.items()}
        parameters |= {name: torch.stack(tensors) for name, tensors in self.others.items()}

        def one(values: dict[str, Tensor], x: Tensor, given: Tensor) -> Tensor:
            self.masks.given = given
            out: Tensor = functional_call(self.members[0], values, (x,))
            return out

        try:
            out: Tensor = torch.vmap(one)(parameters, stacked, keys)
        finally:
            self.masks.given = None
        return out


def _leaves(members: Sequence[nn.Module]) -> dict[str, list[Tensor]]:
    """Collect the runs' tensors that must be stacked, by name.

    Trained tensors, and frozen ones that differ between runs. Those that a method changes between steps
    (`changing_layer_names`) are included, as they soon differ.
    """
    changing = tuple(f"{name}." for name in getattr(members[0], "changing_layer_names", ()))
    named = [{**dict(member.named_parameters()), **dict(member.named_buffers())} for member in members]
    found = {}
    for name, first in named[0].items():
        tensors = [tensors[name] for tensors in named]
        shared = all(t.data_ptr() == first.data_ptr() for t in tensors) or ".original_module." in f".{name}"
        moves = first.requires_grad or name.startswith(changing)
        if moves or not (shared or all(torch.equal(t, first) for t in tensors)):
            found[name] = tensors
    return found


class Gather(torch.autograd.Function):
    """Gather rows of x by `index`.

    The backward pass gathers by the inverse index, where torch's would add row by row; rows that are `surplus` get the
    gradient 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, surplus: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, surplus)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, surplus = ctx.saved_tensors
        found = grads[0].index_select(0, inverse)
        return found if surplus is None else found.index_fill_(0, surplus, 0.0), None, None, None


def _gathered(x: Tensor, index: Tensor, inverse: Tensor, surplus: Tensor | None = None) -> Tensor:
    out: Tensor = Gather.apply(x, index, inverse, surplus)  # type: ignore[no-untyped-call]
    return out


class PackedModel:
    """Runs that train together.

    Args:
        runs: Made by `symlora.model.build.build_pack`.

    Raises:
        CannotPack: Something is trained outside of adapted projections and head (full fine-tuning, `bias="all"`), or
            the encoder does not run on flat batches: such runs train alone.
    """

    def __init__(self, runs: Sequence[RunModel]) -> None:
        self.runs = list(runs)  # the frozen weights are the same tensors in all
        self._packed: list[Packed] = []
        self.stacks: dict[int, Stack] = {}  # by the identity of the first run's parameter; empty if there is one run
        # It takes batches that hold the rows of all runs (`Batch.sizes`), and returns the logits of all.
        self.encoder = self.runs[0].encoder if len(self.runs) == 1 else self._host()

    def drop(self, position: int) -> None:
        """Take a run out; the others keep their order."""
        del self.runs[position]
        for packed in self._packed:
            packed.drop(position)
        for stack in self.stacks.values():
            stack.drop(position)

    def _host(self) -> Encoder:
        """Copy the first run's encoder, with `Packed` where something is trained."""
        first = self.runs[0].encoder
        if not first.flat:
            raise CannotPack("this encoder does not run on flat batches, so its runs train one at a time")
        shared: dict[int, Any] = {id(p): p for p in first.parameters()}
        shared[id(first.masks)] = first.masks
        host = copy.deepcopy(first, shared)
        names = [name for name, _ in trained_modules(self.runs[0])]
        loose = [n for n, _ in self.runs[0].trainable() if not any(n.startswith(f"{name}.") for name in names)]
        if loose:
            raise CannotPack(f"{loose[0]} is trained outside of adapted projections and head: such runs train alone")
        owners: dict[int, int] = {}
        for number, run in enumerate(self.runs):
            for name, parameter in run.trainable():
                if owners.setdefault(id(parameter), number) != number:
                    raise CannotPack(f"{name} is trained and belongs to the shared encoder: such runs train alone")
        for name in names:
            members = [run.encoder.get_submodule(name) for run in self.runs]
            packed = Packed(members, first.masks, self.stacks)
            self._packed.append(packed)
            parent, _, child = name.rpartition(".")
            setattr(host.get_submodule(parent), child, packed)
        return host


def trained_modules(run: RunModel) -> list[tuple[str, nn.Module]]:
    """List each run's own modules by name: projections, head, trained LayerNorms."""
    model = run.encoder.model
    base = f"model.{model.base_model_prefix}"
    prefixes = {f"model.{name}" if hasattr(model, name) else f"{base}.{name}" for name in head_modules(model)}
    found: list[tuple[str, nn.Module]] = []
    for name, module in run.encoder.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        beside = isinstance(module, ModulesToSaveWrapper) and isinstance(module.original_module, nn.LayerNorm)
        if not inside and (isinstance(module, BaseTunerLayer) or beside or name in prefixes):
            if isinstance(module, BaseTunerLayer) and not isinstance(module.get_base_layer(), nn.Linear):
                raise CannotPack(f"{name} adapts a {type(module.get_base_layer()).__name__}: such runs train alone")
            found.append((name, module))
    return found
