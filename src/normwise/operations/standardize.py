"""Plain standardization over a pool, by the fastest operator that gives what the general path gives."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from normwise.backends import Fused
from normwise.core import formulas
from normwise.core.activations import activation_named
from normwise.core.arguments import check_residual, finite_padding
from normwise.core.moments import Moments
from normwise.core.processes import ProcessGroup
from normwise.core.running import RunningStatistics

from . import fused, library, native
from .normalize import normalize, normalize_and_measure
from .transforms import plain_operations_wanted, under_function_transform, without_autocast

#: Below this many values the host's own time decides, and torch's operators have less of it.
NATIVE_BELOW = 32768


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
    backend = _fused(x, mask, weight, bias, residual) if processes is None else None
    if backend is not None:
        return fused.standardize(backend, x, 0, weight, bias, eps, activation, residual)
    if processes is None and mask is None and library.takes(x, weight, bias, residual):
        return library.standardize(x, 0, weight, bias, eps, activation, residual)
    if processes is None and native.takes(x, mask, weight, bias) and not plain_operations_wanted():
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
    backend = _fused(x, mask, weight, bias, residual)
    if backend is not None:
        return fused.standardize(backend, x, groups, weight, bias, eps, activation, residual)[0]
    if mask is None and library.takes(x, weight, bias, residual):
        return library.standardize(x, groups, weight, bias, eps, activation, residual)[0]
    if native.takes(x, mask, weight, bias) and not under_function_transform():
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
    backend = _fused(x, None, weight, bias, residual)
    if backend is not None:
        return fused.standardize(backend, x, 0, weight, bias, eps, activation, residual, running.moments())[0]
    if library.takes(x, weight, bias, residual):
        return library.standardize(x, 0, weight, bias, eps, activation, residual, running.moments())[0]
    if native.takes(x, None, weight, bias):
        with without_autocast(x):
            y = native.by_known(x, running.mean, running.var, weight, bias, eps)
            return finish(y, activation, residual)
    formula, known = partial(formulas.standardized, eps=eps), running.moments()
    return normalize(x, formula, weight, bias, activation=activation, residual=residual, moments=known)


def _fused(x: Tensor, mask: Tensor | None, *others: Tensor | None) -> Fused | None:
    """The backend whose fused kernel is the fastest way for ``x``: before torch's operator, but for tiny tensors."""
    if mask is not None or plain_operations_wanted():  # before the size is asked for, which an export may leave open
        return None
    weight, bias, residual = others
    if x.numel() < NATIVE_BELOW and residual is None and native.takes(x, None, weight, bias):
        return None
    return fused.takes(x, *others)


def finish(y: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """Residual and activation after an operator that cannot fuse them."""
    if residual is not None:
        check_residual(residual, y)
        y = (y + residual).to(y.dtype)
    act = activation_named(activation)
    return y if act is None else act.function(y)
