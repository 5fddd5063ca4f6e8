"""Instance normalization whose affine map is the statistics of another tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.core import formulas
from normwise.core.arguments import check_floating, check_input
from normwise.core.bound import bound
from normwise.core.sizes import product, same
from normwise.core.tables import check_place
from normwise.operations.measure import measure
from normwise.operations.normalize import normalize


class Style(NamedTuple):
    """The statistics of a style for AdaIN: mean and standard deviation of each channel, ``[N, C]`` or ``[1, C]``."""

    mean: Tensor
    std: Tensor


def adaptive_instance_norm(
    x: Tensor,
    style: Tensor | tuple[Tensor, Tensor],
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r""":math:`\sigma_s (x-\mu_x)/\sqrt{\sigma_x^2+\epsilon} + \mu_s` (Huang and Belongie 2017, arXiv:1703.06868)."""
    check_input(x, "AdaptiveInstanceNorm")
    _check_planes(x, "content")
    if isinstance(style, Tensor) and style.is_floating_point() and x.dtype is torch.float64:
        style = style.double()  # otherwise its statistics would be computed in fp32
    style = as_style(style)
    for name, table in style._asdict().items():
        check_place("AdaptiveInstanceNorm", f"the style's {name}", table, x)
        if not (same(table.shape, x.shape[:2]) or same(table.shape, (1, x.shape[1]))):
            raise ValueError(
                f"AdaptiveInstanceNorm: the style's {name} must be [N, C] = {list(x.shape[:2])} or {[1, x.shape[1]]}, "
                f"received {list(table.shape)}; content and style need the same channels."
            )
    formula = bound(formulas.instance_norm, eps=eps)
    return normalize(x, formula, style.std, style.mean, activation=activation, residual=residual, mask=mask)


def as_style(style: Any) -> Style:
    """The statistics of a style tensor, or a pair of statistics as it is."""
    if isinstance(style, Tensor):
        return style_statistics(style)
    if not (isinstance(style, tuple) and len(style) == 2):
        raise TypeError(
            "AdaptiveInstanceNorm: style must be a tensor [N, C, *space] or a pair (mean, std), received "
            f"{type(style).__name__}."
        )
    for name, table in zip(Style._fields, style, strict=True):
        check_floating(table, f"AdaptiveInstanceNorm: the style's {name}")
    return Style(*style)


def style_statistics(style: Tensor, mask: Tensor | None = None) -> Style:
    """Mean and (biased) standard deviation of each plane of ``style[N, C, *space]``, over a mask if given."""
    check_input(style, "AdaptiveInstanceNorm: style")
    _check_planes(style, "style")
    table = measure(style, mask)
    # The root's slope at 0 is infinite; an even plane gets the subgradient 0.
    positive = table.var > 0
    return Style(table.mean, torch.where(positive, torch.where(positive, table.var, 1).sqrt(), 0))


def _check_planes(x: Tensor, role: str) -> None:
    if product(x.shape[2:]) == 1:
        raise ValueError(
            f"AdaptiveInstanceNorm: the {role} has one value in each plane, {list(x.shape)}; its deviation is 0 and "
            "nothing of the content would be left."
        )
