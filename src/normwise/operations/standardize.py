"""Plain standardization over a pool, by the fastest operator that gives what the general path gives."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from normwise.backends import Fused, fused_for
from normwise.core import formulas
from normwise.core.arguments import check_residual, finite_padding
from normwise.core.moments import Moments
from normwise.core.processes import ProcessGroup
from normwise.core.running import RunningStatistics

from . import fused, library, native
from .choice import kernels
from .epilogue import additions_are_watched, finish
from .normalize import normalize, normalize_and_measure
from .transforms import plain_operations_wanted, under_function_transform, without_autocast

#: Below these numbers of values torch's operators are faster, forward and backward in fp32 on one thread: the time of
#: the host decides, and they have less of it (`normwise bench` measures it). Instance normalization and channels_last
#: are what they are slow at; in channels_last over the batch they are as fast as the memory for much longer.
NATIVE_BELOW = {
    "batch": 1 << 17,
    "batch, channels last": 1 << 22,
    "group": 1 << 19,
    "group, channels last": 1 << 15,  # the operator cancels there, so that it gets a contiguous copy
    "instance": 1 << 14,
    "known": 1 << 20,
}


def over_batch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    processes: ProcessGroup | None = None,
) -> tuple[Tensor, Moments]:
    """Batch normalization in training; also the batch's moments, ``[1, C]``."""
    plain, operator = plain_operations_wanted(), native.takes(x, mask, weight, bias)
    backend = None if plain or processes is not None else _backend(_batch(x), x, mask, operator, residual, weight, bias)
    if backend is not None:
        return fused.standardize(backend, x, 0, weight, bias, eps, activation, residual)
    if plain and processes is None and mask is None and library.takes(x, weight, bias, residual):
        return library.standardize(x, 0, weight, bias, eps, activation, residual)
    if processes is None and not plain and operator:
        with without_autocast(x):
            y, pooled = native.over_batch(x, weight, bias, eps)
            return finish(y, activation, residual), pooled
    return normalize_and_measure(
        x,
        partial(formulas.batch_norm, eps=eps, processes=processes),
        weight,
        bias,
        activation=activation,
        residual=residual,
        mask=mask,
    )


def over_small_batch(
    x: Tensor,
    running: RunningStatistics,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
) -> Tensor | None:
    """`over_batch`, and the running statistics updated, where one operator does both in the least time of the host.

    None, and nothing changed, where it is not the way: another kernel is faster, somebody looks at the operations, or
    the statistics would not stay finite, which is for the layer's policy to judge.
    """
    mean, var, kind = running.mean, running.var, x.dtype
    if running.momentum is None or not 0 < x.numel() < NATIVE_BELOW[_batch(x)] or x.device.type != "cpu":
        return None
    if kind != mean.dtype or kind != var.dtype or plain_operations_wanted() or not native.takes(x, None, weight, bias):
        return None
    y, mean, var = native.over_batch_moving(x, weight, bias, eps, mean, var, running.momentum)
    if not math.isfinite((mean + var).sum().item()):
        return None
    running.replace(mean, var)
    return finish(y, activation, None)


def over_groups(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Group normalization; ``groups = C`` is instance and ``groups = 1`` layer normalization."""
    plain, operator = plain_operations_wanted(), native.takes(x, mask, weight, bias)
    backend = None if plain else _backend(_group(x, groups), x, mask, operator, residual, weight, bias)
    if backend is not None:
        return fused.standardize(backend, x, groups, weight, bias, eps, activation, residual)[0]
    if plain and mask is None and library.takes(x, weight, bias, residual):
        return library.standardize(x, groups, weight, bias, eps, activation, residual)[0]
    if operator and not under_function_transform():
        with without_autocast(x):
            return finish(native.over_groups(x, groups, weight, bias, eps), activation, residual)
    formula = partial(formulas.group_norm, groups=groups, eps=eps)
    return normalize(x, formula, weight, bias, activation=activation, residual=residual, mask=mask)


def by_running(
    x: Tensor,
    running: RunningStatistics,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Normalization by remembered statistics: batch normalization in evaluation.

    Of a ``mask`` of the shape ``[N, 1, *space]`` only remains that NaN and inf outside of it count as 0.
    """
    x, residual = finite_padding(mask, x, residual)
    plain, operator = plain_operations_wanted(), native.takes(x, None, weight, bias)
    backend = None if plain else _backend("known", x, None, operator, residual, weight, bias)
    if backend is not None:
        return fused.standardize(backend, x, 0, weight, bias, eps, activation, residual, running.moments())[0]
    if plain and library.takes(x, weight, bias, residual):
        return library.standardize(x, 0, weight, bias, eps, activation, residual, running.moments())[0]
    if operator:
        with without_autocast(x):
            y = native.by_known(x, running.mean, running.var, weight, bias, eps)
            return finish(y, activation, residual)
    formula, known = partial(formulas.standardized, eps=eps), running.moments()
    return normalize(x, formula, weight, bias, activation=activation, residual=residual, moments=known)


def _batch(x: Tensor) -> str:
    return "batch" if x.is_contiguous() else "batch, channels last"


def _group(x: Tensor, groups: int) -> str:
    if groups == x.shape[1]:
        return "instance"
    return "group" if x.is_contiguous() else "group, channels last"


def _backend(
    kind: str, x: Tensor, mask: Tensor | None, operator: bool, residual: Tensor | None, *parameters: Tensor | None
) -> Fused | None:
    """The backend whose fused kernel is the fastest way for ``x``: before torch's operator, but for small tensors."""
    if residual is not None:
        check_residual(residual, x)
        if additions_are_watched():
            return None
    elif operator and x.numel() < NATIVE_BELOW[kind]:
        return None
    return kernels(fused_for, x, mask, residual, *parameters)
