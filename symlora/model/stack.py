"""Stack a parameter of all runs, and clip their gradients."""

import weakref
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from symlora.model.device import to_device


class Stack:
    """One parameter of every run, side by side in memory.

    Autograd sees K runs as one leaf, `values` [K, …], so that a step takes as many operators for any K. The runs' own
    parameters are slices of it, and their gradients slices of `gradient`, kept from the backward pass to clipping.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.gradient: Tensor | None = None
        self._join()

    def _join(self) -> None:
        self.values = torch.stack([parameter.detach() for parameter in self.parameters]).requires_grad_()
        for parameter, own in zip(self.parameters, self.values.detach(), strict=True):
            parameter.data = own
        me = weakref.ref(self)  # a strong reference in a hook would keep the stack alive

        def hook(values: Tensor) -> None:
            if (stack := me()) is not None:
                stack._hand_out(values)

        self.values.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def drop(self, position: int) -> None:
        """Take a run out; the others keep their order."""
        gone = self.parameters.pop(position)
        gone.data = gone.data.clone()  # a slice would keep the memory of all
        self._join()

    def _hand_out(self, values: Tensor) -> None:
        """Add each run's part of the gradient to its own parameter's."""
        assert values.grad is not None
        self.gradient, values.grad = values.grad, None
        for parameter, own in zip(self.parameters, self.gradient, strict=True):
            if parameter.grad is not None:  # of other rows of the batch, or of a penalty
                own.add_(parameter.grad)
            parameter.grad = own


def clip_gradients(parameters: Sequence[Sequence[Tensor]], limits: Sequence[float], stacks: Collection[Stack]) -> None:
    """Clip each run's gradient norm; a limit of 0 does not clip.

    As torch.nn.utils.clip_grad_norm_, for all runs at once where the gradients are in stacks. They are not where one
    run trains, or is left of a pack.
    """
    found = [stack.gradient for stack in stacks if stack.gradient is not None]
    for stack in stacks:
        stack.gradient = None
    if not found:
        for own, limit in zip(parameters, limits, strict=True):
            if limit:
                torch.nn.utils.clip_grad_norm_(own, limit)
    elif any(limits):
        parts = [torch.linalg.vector_norm(gradient.reshape(len(limits), -1), dim=1) for gradient in found]
        norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        most = to_device(torch.tensor(limits), norms.device)
        factors = (most / (norms + 1e-6)).clamp(max=1.0).where(most > 0, 1.0)
        for gradient in found:
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
