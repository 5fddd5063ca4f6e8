"""Functions of maps that measure statistics and return them, or use given ones."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from normwise.core import formulas
from normwise.core.arguments import check_residual
from normwise.core.bound import bound
from normwise.core.formulas import RenormTarget
from normwise.core.layout import in_layout_of
from normwise.core.moments import Moments
from normwise.core.numbers import check_groups, check_number, check_whole
from normwise.core.single_value import (
    check_values_per_chunk,
    check_values_per_group,
)
from normwise.core.tables import check_required, check_required_tables

from .passes import check_batch, measured, mixed, standardized
from .running import Options, Statistics, as_known, check_maps, check_options

if TYPE_CHECKING:
    from typing_extensions import Unpack


def batch_norm(
    x: Tensor,
    statistics: Statistics | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`BatchNorm2d`: pooled over N and space; the statistics are ``[1, C]``.

    >>> import torch
    >>> x = torch.randn(4, 3, 5, 5)
    >>> y, batch = batch_norm(x)
    >>> torch.allclose(batch_norm(x, batch)[0], y, atol=1e-6)
    True
    """
    check_batch("batch_norm", x, statistics, weight, bias, eps)
    formula = bound(formulas.batch_norm, eps=eps)
    return standardized("batch_norm", x, formula, statistics, weight, bias, eps, options)


def ghost_batch_norm(
    x: Tensor,
    statistics: Statistics | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    ghost_size: int = 32,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`GhostBatchNorm2d`: pooled over chunks of ``ghost_size`` samples; the statistics are the batch's, ``[1, C]``.

    >>> import torch
    >>> ghost_batch_norm(torch.randn(5, 3, 4), ghost_size=2)[1].mean.shape
    torch.Size([1, 3])
    """
    check_batch("ghost_batch_norm", x, statistics, weight, bias, eps)
    check_whole("ghost_batch_norm", "ghost_size", ghost_size, 1)
    if statistics is None:
        check_values_per_chunk("ghost_batch_norm", x, ghost_size)
    formula = bound(formulas.ghost_batch_norm, ghost_size=ghost_size, eps=eps)
    return standardized("ghost_batch_norm", x, formula, statistics, weight, bias, eps, options)


def batch_renorm(
    x: Tensor,
    running: Statistics,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    r_max: float = 3.0,
    d_max: float = 5.0,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`BatchRenorm2d` in training, corrected towards ``running``; the statistics are the batch's, ``[1, C]``.

    Evaluation is `batch_norm` with ``running``.

    >>> import torch
    >>> from normwise.functional import initial_statistics
    >>> x, running = torch.randn(4, 3, 5), initial_statistics(3)
    >>> y, batch = batch_renorm(x, running, r_max=1e6, d_max=1e6)
    >>> torch.allclose(y, batch_norm(x, running)[0], atol=1e-5)
    True
    """
    check_batch("batch_renorm", x, None, weight, bias, eps)
    check_number("batch_renorm", "r_max", r_max, 1.0)
    check_number("batch_renorm", "d_max", d_max, 0.0)
    known = as_known("batch_renorm", running, x)
    target = RenormTarget(known.mean, known.var, r_max, d_max)
    return measured("batch_renorm", x, partial(formulas.batch_renorm, target=target, eps=eps), options, weight, bias)


def instance_norm(
    x: Tensor,
    statistics: Statistics | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`InstanceNorm2d`: each plane separately; the statistics are ``[N, C]``.

    >>> import torch
    >>> image = torch.randn(1, 3, 8, 8)
    >>> whole, table = instance_norm(image)
    >>> tiles = [instance_norm(tile, table)[0] for tile in image.split(4, dim=3)]
    >>> torch.allclose(torch.cat(tiles, dim=3), whole, atol=1e-6)          # no seam
    True
    """
    check_maps("instance_norm", x, eps, weight=weight, bias=bias)
    if statistics is None:
        check_values_per_group("instance_norm", x, 1)
    formula = bound(formulas.instance_norm, eps=eps)
    return standardized("instance_norm", x, formula, statistics, weight, bias, eps, options)


def group_norm(
    x: Tensor,
    num_groups: int,
    statistics: Statistics | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`GroupNorm`: pooled over C/G channels and space; the statistics are the groups', repeated to ``[N, C]``.

    >>> import torch
    >>> x = torch.randn(2, 6, 4)
    >>> torch.allclose(group_norm(x, 6)[0], instance_norm(x)[0], atol=1e-6)
    True
    """
    check_maps("group_norm", x, eps, weight=weight, bias=bias)
    check_groups("group_norm", num_groups, x.shape[1])
    if statistics is None:
        check_values_per_group("group_norm", x, x.shape[1] // num_groups)
    formula = bound(formulas.group_norm, groups=num_groups, eps=eps)
    return standardized("group_norm", x, formula, statistics, weight, bias, eps, options)


def switchable_norm(
    x: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    statistics: Statistics | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`SwitchableNorm2d`: a mixture of instance, layer and batch, ``mean_weight`` and ``var_weight`` ``[3]`` each.

    The given and returned statistics are the batch's, ``[1, C]``; the others are always measured.

    >>> import torch
    >>> only_batch = torch.tensor([-1e4, -1e4, 1e4])
    >>> x = torch.randn(4, 3, 5)
    >>> torch.allclose(switchable_norm(x, only_batch, only_batch)[0], batch_norm(x)[0], atol=1e-6)
    True
    """
    branches = ("instance", "layer", "batch")
    check_batch("switchable_norm", x, statistics, weight, bias, eps)
    check_required("switchable_norm", x, (len(branches),), mean_weight=mean_weight, var_weight=var_weight)
    formula = bound(formulas.switchable_norm, branches=branches, eps=eps)
    return mixed("switchable_norm", x, formula, statistics, options, weight, bias, mean_weight, var_weight)


def batch_instance_norm(
    x: Tensor,
    gate: Tensor,
    statistics: Statistics | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`BatchInstanceNorm2d`: ``gate`` ``[C]``, from 0 to 1, is the share of batch, the rest of instance normalization.

    The given and returned statistics are the batch's, ``[1, C]``; the instance's are always measured.

    >>> import torch
    >>> x = torch.randn(4, 3, 5)
    >>> torch.allclose(batch_instance_norm(x, torch.zeros(3))[0], instance_norm(x)[0], atol=1e-6)
    True
    """
    check_batch("batch_instance_norm", x, statistics, weight, bias, eps)
    check_required_tables("batch_instance_norm", x, gate=gate)
    formula = bound(formulas.batch_instance_norm, eps=eps)
    return mixed("batch_instance_norm", x, formula, statistics, options, weight, bias, gate)


def evo_norm_b0(
    x: Tensor,
    v: Tensor,
    statistics: Statistics | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`EvoNormB0`, with ``v`` ``[C]``; the given and returned statistics are the batch's, ``[1, C]``.

    >>> import torch
    >>> evo_norm_b0(torch.randn(4, 3, 5), torch.ones(3))[1].var.shape
    torch.Size([1, 3])
    """
    check_batch("evo_norm_b0", x, statistics, weight, bias, eps)
    check_required_tables("evo_norm_b0", x, v=v)
    formula = bound(formulas.evo_norm_b0, eps=eps)
    return mixed("evo_norm_b0", x, formula, statistics, options, weight, bias, v)


def ibn(
    x: Tensor,
    first: int,
    statistics: Statistics | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **options: Unpack[Options],
) -> tuple[Tensor, Moments]:
    """`IBN2d`: instance normalization of the ``first`` channels, batch normalization of the others.

    The given and returned statistics are those of the other channels. ``weight`` and ``bias`` are for all channels,
    ``[C]`` or ``[N, C]``.

    >>> import torch
    >>> x = torch.randn(4, 3, 5, 5)
    >>> y, batch = ibn(x, 1)
    >>> torch.allclose(y[:, 1:], batch_norm(x[:, 1:], batch)[0], atol=1e-6)
    True
    """
    check_maps("ibn", x, eps, weight=weight, bias=bias)
    check_options("ibn", options)
    check_whole("ibn", "first", first, 1)
    if first >= x.shape[1]:
        raise ValueError(f"ibn: first must leave a channel for the batch, received {first} of {x.shape[1]} channels.")
    residual = options.get("residual")
    if residual is not None:
        check_residual(residual, x)
    parts = slice(None, first), slice(first, None)
    beside: list[Options] = [{**options, "residual": None if residual is None else residual[:, part]} for part in parts]
    tables = [[None if t is None else t[..., part] for t in (weight, bias)] for part in parts]
    of_instances, _ = instance_norm(x[:, parts[0]], None, *tables[0], eps=eps, **beside[0])
    of_batch, batch = batch_norm(x[:, parts[1]], statistics, *tables[1], eps=eps, **beside[1])
    return in_layout_of(x, torch.cat((of_instances, of_batch), 1)), batch
