r"""Outputs that are not affine in x: a formula may return such a response instead of `Affine`.

.. math:: y = f(x;\ \text{scale},\ \text{shift} + \text{residual}, \ldots)

The type that a formula returns names the function; a `Response` holds it and its derivatives, as `Activation` does.
The coefficients broadcast against ``[N, C]``, and the first two are always a scale and a shift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .moments import Moments

Coefficient = Tensor | float


class Thresholded(NamedTuple):
    r""":math:`y = \max(x \cdot \text{scale} + \text{shift},\ \text{threshold})`; a tie is not cut.

    ``statistics`` as in `Affine`.

    >>> from normwise import normalize
    >>> x = torch.randn(2, 3, 5)
    >>> torch.equal(normalize(x, lambda moments: Thresholded(1.0, 0.0, -0.5)), x.clamp_min(-0.5))
    True
    """

    scale: Coefficient
    shift: Coefficient
    threshold: Coefficient
    statistics: Moments | None = None


class Gated(NamedTuple):
    r""":math:`y = x\,\mathrm{sigmoid}(v x) \cdot \text{scale} + \text{shift}`."""

    scale: Coefficient
    shift: Coefficient
    v: Coefficient
    statistics: Moments | None = None


class LargerScale(NamedTuple):
    r""":math:`y = x \cdot \text{scale} / \max(\text{least},\ v x + \text{own}) + \text{shift}`.

    At a tie each argument of the maximum gets half of the gradient, as with `torch.maximum`.
    """

    scale: Coefficient
    shift: Coefficient
    least: Coefficient
    v: Coefficient
    own: Coefficient
    statistics: Moments | None = None


#: The classes of all outputs but `Affine`.
Responding = Thresholded | Gated | LargerScale


class Response(NamedTuple):
    """``function(x, *tables)`` is differentiable PyTorch; ``slopes`` gives its derivatives, that by x first."""

    name: str
    function: Callable[..., Tensor]
    slopes: Callable[..., tuple[Tensor, ...]]


def _thresholded(x: Tensor, scale: Tensor, shift: Tensor, threshold: Tensor) -> Tensor:
    y = torch.addcmul(shift, x, scale)
    # Not relu(y - τ) + τ, which would round y to the precision of τ. Not `maximum`, whose backward splits the gradient
    # at a tie: γ = β = τ = 0 must have a gradient for γ.
    return torch.where(y < threshold, threshold, y)


def _thresholded_slopes(x: Tensor, scale: Tensor, shift: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
    cut = (torch.addcmul(shift, x, scale) < threshold).to(x.dtype)
    passed = 1 - cut
    return passed * scale, passed * x, passed, cut


def _gated(x: Tensor, scale: Tensor, shift: Tensor, v: Tensor) -> Tensor:
    return torch.addcmul(shift, x * torch.sigmoid(v * x), scale)


def _gated_slopes(x: Tensor, scale: Tensor, _shift: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    gate, closed = torch.sigmoid(v * x), torch.sigmoid(-v * x)  # 1 - gate would lose its digits
    gated = x * gate
    return scale * gate * (1 + v * x * closed), gated, torch.ones_like(x), scale * x * gated * closed


def _larger_scale(x: Tensor, scale: Tensor, shift: Tensor, least: Tensor, v: Tensor, own: Tensor) -> Tensor:
    return x * scale / torch.maximum(least, v * x + own) + shift


def _larger_scale_slopes(
    x: Tensor, scale: Tensor, _shift: Tensor, least: Tensor, v: Tensor, own: Tensor
) -> tuple[Tensor, ...]:
    other = v * x + own
    larger = torch.maximum(least, other)
    share = torch.where(other > least, 1.0, torch.where(other == least, 0.5, 0.0)).to(x.dtype)
    response = x / larger
    per_larger = -scale * response / larger
    # Where v x + own is the larger: γ/m - v γ x/m² = γ own/m², without the difference of two large numbers.
    per_x = scale / larger * (1 - share + share * own / larger)
    by_other = share * per_larger
    return per_x, response, torch.ones_like(x), (1 - share) * per_larger, by_other * x, by_other


#: Every response, by the class that a formula returns.
RESPONSES: dict[type, Response] = {
    Thresholded: Response("thresholded", _thresholded, _thresholded_slopes),
    Gated: Response("gated", _gated, _gated_slopes),
    LargerScale: Response("larger scale", _larger_scale, _larger_scale_slopes),
}
