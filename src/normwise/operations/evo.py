"""EvoNorm: a statistic under an elementwise function that is not affine in ``x``, in plain PyTorch operations."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core.arguments import as_mask, check_input, check_residual, finite_outside
from normwise.core.moments import Moments, widen
from normwise.core.processes import ProcessGroup

from .epilogue import finish
from .measure import measure
from .transforms import without_autocast


def evo_norm_b0(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    v: Tensor,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    known: Moments | None = None,
    processes: ProcessGroup | None = None,
) -> tuple[Tensor, Moments]:
    r""":math:`\gamma x / \max(\sigma_B, v x + \sigma_I) + \beta`; also the batch's moments, ``[1, C]``.

    ``known`` stands in for the batch's statistics (Liu et al. 2020, arXiv:2004.02967).
    """
    x, residual, mask = _checked(x, residual, mask)
    with without_autocast(x):
        instance = measure(x, mask)
        batch = instance.over_batch(processes) if known is None else known
        values = widen(x)
        by_batch, by_instance = (_spread(torch.sqrt(t.var + eps), values) for t in (batch, instance))
        y = values / torch.maximum(by_batch, _spread(v, values) * values + by_instance)
        return _finish(y, x, weight, bias, activation, residual), batch.detached()


def evo_norm_s0(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    v: Tensor,
    groups: int,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r""":math:`\gamma x\,\mathrm{sigmoid}(v x) / \sigma_G + \beta` (Liu et al. 2020, arXiv:2004.02967)."""
    x, residual, mask = _checked(x, residual, mask)
    with without_autocast(x):
        group = measure(x, mask).over_groups(groups)
        values = widen(x)
        y = values * torch.sigmoid(_spread(v, values) * values) * _spread(torch.rsqrt(group.var + eps), values)
        return _finish(y, x, weight, bias, activation, residual)


def _checked(x: Tensor, residual: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    check_input(x, "EvoNorm")
    if residual is not None:
        check_residual(residual, x)
    if mask is None:
        return x, residual, None
    mask = as_mask(mask, x)
    return finite_outside(mask, x), None if residual is None else finite_outside(mask, residual), mask


def _spread(table: Tensor, values: Tensor) -> Tensor:
    """A ``[C]``, ``[1, C]`` or ``[N, C]`` table in the values' dtype and in a shape that broadcasts over them."""
    return table.to(values.dtype).reshape(*table.shape, *[1] * (values.dim() - 2))


def _finish(
    y: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, activation: str | None, residual: Tensor | None
) -> Tensor:
    if weight is not None:
        y = y * _spread(weight, y)
    if bias is not None:
        y = y + _spread(bias, y)
    return finish(y, activation, residual).to(x.dtype)
