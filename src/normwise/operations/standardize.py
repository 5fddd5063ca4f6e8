"""Plain standardization over a pool, by the fastest operator that gives what the general path gives."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from normwise.backends import Fused, cpu, fused_for, select
from normwise.core import formulas
from normwise.core.arguments import check_residual, finite_padding
from normwise.core.moments import Moments, statistics_dtype
from normwise.core.processes import ProcessGroup
from normwise.core.running import RunningStatistics

from . import fused, library, native
from .choice import kernels
from .epilogue import additions_are_watched, finish
from .normalize import normalize, normalize_and_measure
from .transforms import needs_graph, plain_operations_wanted, under_function_transform, without_autocast

#: Below these numbers of values torch's operators are faster, forward and backward in fp32 on one thread: the time of
#: the host decides, and they have less of it (`normwise bench` measures it). The second number holds where a residual
#: or an activation follows, for which an operator needs a pass more. Instance normalization and channels_last are what
#: they are slow at. The kernels alone are the faster ones from much smaller tensors on.
NATIVE_BELOW = {
    "batch": (1 << 15, 1 << 15),
    "batch, channels last": (1 << 20, 1 << 17),
    "group": (1 << 19, 3 << 15),
    "group, channels last": (1 << 13, 1 << 13),  # the operator cancels there, so that it gets a contiguous copy
    "instance": (0, 0),
    "known": (1 << 19, 1 << 17),
    "known, channels last": (1 << 19, 1 << 17),
}
#: The same where no backward will come, and the operator stands alone: a kernel then costs no more of the host's time,
#: and with a residual or an activation less.
NATIVE_BELOW_FORWARD = {
    "batch": 1 << 14,
    "batch, channels last": 1 << 16,
    "group": 3 << 19,
    "group, channels last": 0,
    "instance": 0,
    "known": 1 << 20,
    "known, channels last": 1 << 16,
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
    backend = None
    if not plain and processes is None:
        backend = _backend(_batch(x), x, mask, operator, activation, residual, weight, bias)
    if backend is not None:
        y, table = fused.standardize(backend, x, 0, weight, bias, eps, activation, residual, measured=True)
        mean, var = table.unbind()  # type: ignore[union-attr]
        return y, Moments(mean, var, x.numel() // x.shape[1])
    if plain and processes is None and mask is None and library.takes(x, weight, bias, residual):
        return library.standardize(x, 0, weight, bias, eps, activation, residual)
    if processes is None and not plain and operator is not None and x.numel() > 0:
        with without_autocast(x):
            y, pooled = native.over_batch(*operator(x, weight, bias), eps)
            return native.narrowed(finish(y, activation, residual), x), pooled
    return normalize_and_measure(
        x,
        partial(formulas.batch_norm, eps=eps, processes=processes),
        weight,
        bias,
        activation=activation,
        residual=residual,
        mask=mask,
    )


def over_batch_remembered(
    x: Tensor,
    running: RunningStatistics,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
) -> Tensor | None:
    """`over_batch`, and the running statistics updated, in the least time of the host.

    None, and nothing changed, where it is not the way: somebody looks at the operations, the tensors are not plain
    ones, or the statistics are not finite, which is for the layer's policy to judge.
    """
    if plain_operations_wanted() or select(x) is not cpu or not cpu.remembers(x.dtype, running):
        return None
    operator, count = native.takes(x, None, weight, bias), x.numel() // x.shape[1]
    if operator is not None and _is_small(_batch(x), x, operator, activation, None, weight, bias):
        y, mean, root = native.over_batch_measured(*operator(x, weight, bias), eps)
        if not cpu.remember(x.dtype, running, mean, root, eps, count):
            return None
        return native.narrowed(finish(y, activation, None), x)
    backend = kernels(fused_for, x, None, weight, bias)
    if backend is None:
        return None
    y, table = fused.standardize(backend, x, 0, weight, bias, eps, activation, None, measured=True)
    return y if table is not None and cpu.remember(x.dtype, running, table, None, eps, count) else None


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
    backend = None if plain else _backend(_group(x, groups), x, mask, operator, activation, residual, weight, bias)
    if backend is not None:
        return fused.standardize(backend, x, groups, weight, bias, eps, activation, residual)[0]
    if plain and mask is None and library.takes(x, weight, bias, residual):
        return library.standardize(x, groups, weight, bias, eps, activation, residual)[0]
    # Of no values torch's operators make errors, and here a gradient of NaN.
    if operator is not None and not under_function_transform() and x.numel() > 0:
        with without_autocast(x):
            # On every device: torch's operator keeps the statistics for its backward in the type of the values.
            prepare = operator if statistics_dtype(x.dtype) is x.dtype else native.widened
            values, weight, bias = prepare(x, weight, bias)
            y = native.over_groups(values, groups, weight, bias, eps, to_be_narrowed=values.dtype != x.dtype)
            return native.narrowed(finish(y, activation, residual), x)
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
    backend = None if plain else _backend(_known(x), x, None, operator, activation, residual, weight, bias)
    if backend is not None:
        return fused.standardize(backend, x, 0, weight, bias, eps, activation, residual, running[:2])[0]
    if plain and library.takes(x, weight, bias, residual):
        return library.standardize(x, 0, weight, bias, eps, activation, residual, running.moments())[0]
    if operator is not None and (plain or x.numel() > 0):
        with without_autocast(x):
            values, weight, bias = operator(x, weight, bias)
            y = native.by_known(values, running.mean, running.var, weight, bias, eps)
            return native.narrowed(finish(y, activation, residual), x)
    formula, known = partial(formulas.standardized, eps=eps), running.moments()
    return normalize(x, formula, weight, bias, activation=activation, residual=residual, moments=known)


def _batch(x: Tensor) -> str:
    return "batch" if x.is_contiguous() else "batch, channels last"


def _known(x: Tensor) -> str:
    return "known" if x.is_contiguous() else "known, channels last"


def _group(x: Tensor, groups: int) -> str:
    if groups == x.shape[1]:
        return "instance"
    return "group" if x.is_contiguous() else "group, channels last"


def _backend(
    kind: str,
    x: Tensor,
    mask: Tensor | None,
    operator: native.Preparation | None,
    activation: str | None,
    residual: Tensor | None,
    *parameters: Tensor | None,
) -> Fused | None:
    """The backend whose fused kernel is the fastest way for ``x``: before torch's operator, but for small tensors."""
    if residual is not None:
        check_residual(residual, x)
        if additions_are_watched():
            return None
    if operator is not None and _is_small(kind, x, operator, activation, residual, *parameters):
        return None
    return kernels(fused_for, x, mask, residual, *parameters)


def _is_small(
    kind: str,
    x: Tensor,
    operator: native.Preparation,
    activation: str | None,
    residual: Tensor | None,
    *parameters: Tensor | None,
) -> bool:
    if operator is native.widened:
        return False  # so many conversions around the operator that a kernel is faster at every size
    alone = activation is None and residual is None
    if needs_graph(x, residual, *parameters):
        least = NATIVE_BELOW[kind][not alone]
    else:
        least = NATIVE_BELOW_FORWARD[kind] if alone else 0
    return x.numel() < least
