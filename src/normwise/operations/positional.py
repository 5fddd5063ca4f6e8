"""Normalization over the channels at each position, its moments with a gradient, and their return to another map."""

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
    """``y``, and the mean and standard deviation at each position of ``x[N, C, *space]``, both ``[N, 1, *space]``."""
    x, residual = finite_padding(mask, x, residual)
    channels = int(x.shape[1])  # a number in the formula, even where other sizes of the graph are symbols
    # √(b σ² + ε) = √b √(σ² + ε / b), b = C / (C - 1): the kernels' biased variance, and a constant factor in γ.
    bessel = channels / (channels - 1)
    dtype = statistics_dtype(x.dtype)
    gain = torch.full((channels,), bessel**-0.5, dtype=dtype, device=x.device)
    formula = bound(formulas.instance_norm, eps=eps / bessel)
    request = Request(x, formula, (gain, None), activation, residual, view=PIXELS, measured=True, differentiable=True)
    result = run(request)
    moments = result.statistics()
    std = (moments.var * bessel + eps).sqrt()
    return result.y, moments.mean.to(x.dtype), std.to(x.dtype)


def moment_shortcut(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""Give another map the moments that `PositionalNorm2d` removed: :math:`x\,\sigma + \mu`.

    ``mean`` and ``std`` are ``[N, 1, *space]`` for ``x[N, C, *space]``, or have the shape of ``x``. Computed in fp32
    (fp64) and rounded once to the dtype of ``x``.

    Raises TypeError for tensors that are not floating, ValueError for other shapes.

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
