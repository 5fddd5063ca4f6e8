"""Functions of autograd: called directly, and with gradients that can be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from normwise.core.layout import check_memory


def direct_call(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    """``function.apply`` for where a kernel is called: without its search for transforms, of which there are none."""
    return super(torch.autograd.Function, function).apply  # pyright: ignore[reportAttributeAccessIssue]


def check_unchanged(x: Tensor, grad_y: Tensor) -> None:
    """RuntimeError where ``x``, saved for a backward pass, has another shape than in the forward pass, or no memory."""
    check_memory(x)
    if x.shape != grad_y.shape:
        raise RuntimeError(
            f"An input of shape {list(grad_y.shape)} that the backward pass needs has shape {list(x.shape)} now; do "
            "not assign to its .data before the backward pass."
        )


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
