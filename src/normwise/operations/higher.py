"""Functions of autograd: called directly, and with gradients that can be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def direct_call(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    """``function.apply`` for where a kernel is called: without its search for transforms, of which there are none."""
    return super(torch.autograd.Function, function).apply  # pyright: ignore[reportAttributeAccessIssue]


def differentiable_gradients(
    operation: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad_y: Tensor
) -> list[Tensor | None]:
    """The gradients of ``operation(*inputs)``, as functions of the inputs and ``grad_y``; None where none is wanted.

    ``operation`` consists of plain differentiable operations.
    """
    # Aliases: the derivative is taken with respect to this use of the tensors, not through their history.
    aliases = [None if t is None else t.view_as(t) for t in inputs]
    wanted = [t for t in aliases if t is not None and t.requires_grad]
    found = torch.autograd.grad(operation(*aliases), wanted, grad_y, create_graph=True, allow_unused=True)
    grads = iter(found)
    return [None if t is None or not t.requires_grad else next(grads) for t in aliases]
