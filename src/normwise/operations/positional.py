"""Positions as planes: the moments of the channels at each position, with a gradient, and the same put back."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core import formulas
from normwise.core.arguments import check_floating, check_input, finite_padding
from normwise.core.bound import bound
from normwise.core.moments import statistics_dtype, widen
from normwise.core.sizes import same
from normwise.core.tables import check_place

from .context import without_autocast
from .normalize import run
from .request import PIXELS, Request


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
    # √(b σ² + ε) = √b √(σ² + ε / b), b = C / (C - 1): the kernels' biased variance, and a constant for γ.
    bessel = channels / (channels - 1)
    kind = statistics_dtype(x.dtype)
    gain = torch.full((channels,), bessel**-0.5, dtype=kind, device=x.device)
    formula = bound(formulas.instance_norm, eps=eps / bessel)
    asked = Request(x, formula, (gain, None), activation, residual, view=PIXELS, measured=True, differentiable=True)
    result = run(asked)
    moments = result.statistics()
    std = (moments.var * bessel + eps).sqrt()
    return result.y, moments.mean.to(x.dtype), std.to(x.dtype)


def moment_shortcut(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""What `PositionalNorm2d` took away, put back elsewhere: :math:`x\,\sigma + \mu`.

    ``mean`` and ``std`` are ``[N, 1, *space]`` of ``x[N, C, *space]``, or of its shape. Computed in fp32 (fp64) and
    rounded once to the type of ``x``.

    Raises ValueError for other shapes.

    >>> import torch
    >>> from normwise.functional import positional_norm
    >>> x = torch.randn(2, 8, 4, 4)
    >>> y, mean, std = positional_norm(x, eps=1e-5)
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
