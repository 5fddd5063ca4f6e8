"""Positions as planes: the moments of the channels at each position, with a gradient, and the same put back."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core import formulas
from normwise.core.arguments import check_floating, check_input, finite_padding
from normwise.core.bound import bound
from normwise.core.moments import widen
from normwise.core.sizes import same
from normwise.core.tables import check_place

from .context import without_autocast
from .normalize import normalize


def positional_norm(
    x: Tensor,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``y``, mean and deviation of each position of ``x[N, C, *space]``, the two ``[N, 1, *space]``."""
    x, residual = finite_padding(mask, x, residual)
    channels = int(x.shape[1])  # a number of the formula, also where a graph has symbols for the others
    bessel = channels / (channels - 1)
    formula = bound(formulas.positional_norm, bessel=bessel, eps=eps)
    added = None if residual is None else _as_planes(residual)
    y, table = normalize(_as_planes(x), formula, activation=activation, residual=added, return_moments=True)
    std = (table.var * bessel + eps).sqrt()
    mean, std = (t.to(x.dtype).reshape(x.shape[0], 1, *x.shape[2:]) for t in (table.mean, std))
    return y.transpose(1, 2).view(x.shape) if x.dim() > 2 else y.squeeze(1), mean, std


def _as_planes(x: Tensor) -> Tensor:
    """``[N, positions, C]``, without a copy of what lies contiguous or with its channels last."""
    return x.flatten(2).transpose(1, 2) if x.dim() > 2 else x.unsqueeze(1)


def moment_shortcut(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""What `PositionalNorm2d` took away, put back elsewhere: :math:`x\,\sigma + \mu`.

    ``mean`` and ``std`` are ``[N, 1, *space]`` of ``x[N, C, *space]``, or of its shape. Computed in fp32 (fp64) and
    rounded once to the type of ``x``.

    Raises ValueError for other shapes.

    >>> x = torch.randn(2, 8, 4, 4)
    >>> y, mean, std = positional_norm(x, 1e-5)
    >>> torch.allclose(moment_shortcut(y, mean, std), x, atol=1e-5)
    True
    """
    check_input(x, "moment_shortcut")
    for name, t in (("mean", mean), ("std", std)):
        check_floating(t, f"moment_shortcut: {name}")
        check_place("moment_shortcut", name, t, x)
        if not (same(t.shape, (x.shape[0], 1, *x.shape[2:])) or same(t.shape, x.shape)):
            raise ValueError(
                f"moment_shortcut: {name} must be [N, 1, *space] = {[x.shape[0], 1, *x.shape[2:]]} or as x, "
                f"{list(x.shape)}, received {list(t.shape)}; the decoder's map must have the size of the encoder's."
            )
    with without_autocast(x):
        return torch.addcmul(widen(mean), widen(x), widen(std)).to(x.dtype)
