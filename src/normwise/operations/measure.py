"""Moments alone, by the fastest means that give the gradient somebody asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.backends import select
from normwise.core.arguments import as_mask, check_input
from normwise.core.layout import check_memory
from normwise.core.moments import Moments

from .context import plain_operations_wanted, without_autocast


def measure(x: Tensor, mask: Tensor | None = None) -> Moments:
    """`Moments.of` ``x[N, C, *space]`` over the values where ``mask`` is true, differentiable.

    Raises TypeError for integer or complex input and ValueError for shapes that do not fit.

    >>> x = torch.randn(2, 3, 4)
    >>> torch.allclose(measure(x).mean, x.mean(2).double())
    True
    """
    check_input(x, "measure")
    mask = None if mask is None else as_mask(mask, x)
    check_memory(x, mask)
    with without_autocast(x):
        if plain_operations_wanted() or (torch.is_grad_enabled() and x.requires_grad):
            return Moments.of(x, mask)
        with torch.no_grad():
            return select(x).moments(x, mask)
