"""The kernels in C++, compiled on first use and bound with ctypes; `reference.py` is their specification."""

from __future__ import annotations

import ctypes
import math
import os
from functools import cache
from typing import Any, overload

import torch
from torch import Tensor

from normwise.core.activations import ACTIVATIONS, Activation
from normwise.core.layout import in_layout_of
from normwise.core.moments import Moments, statistics_dtype

from . import build
from .huge_pages import empty_like

name = "cpu"

ELEMENTS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ACTIVATION_NUMBERS = {None: 0} | {name: number for number, name in enumerate(ACTIVATIONS, start=1)}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

_SHAPE = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
_P, _I = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "nw_version": (),
    "nw_vector_bytes": (),
    "nw_moments": (*_SHAPE, _P, _P, _P, _P, _P),
    "nw_apply": (*_SHAPE, _P, _P, _P, _P, ctypes.c_int, _P),
    "nw_backward_reduce": (*_SHAPE, _P, _P, _P, _P, _P, ctypes.c_int, _P, _P),
    "nw_standardize": (*_SHAPE, _I, ctypes.c_int, ctypes.c_double, *(_P,) * 4, ctypes.c_int, *(_P,) * 3),
    "nw_standardize_backward": (*_SHAPE, _I, ctypes.c_int, ctypes.c_double, *(_P,) * 5, ctypes.c_int, *(_P,) * 6),
    "nw_backward_apply": (*_SHAPE, _P, _P, _P, _P, _P, _P, ctypes.c_int, _P, _P),
}

# After a fork the OpenMP pool of the parent is gone but not forgotten: a child that asked for threads would hang.
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_in_child)


def threads() -> int:
    """The threads that a kernel may use: torch's own setting, and one in a forked process."""
    return 1 if _forked else torch.get_num_threads()


def unavailable() -> str | None:
    """Why this backend cannot be used on this machine; None where it can. The first call compiles the kernels."""
    return _loaded()[1]


def serves(x: Tensor) -> bool:
    """Whether the kernels take this tensor: a plain one on the CPU with something in it."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.dtype in ELEMENTS
        and x.numel() > 0
    )


def moments(x: Tensor, mask: Tensor | None) -> Moments:
    """See `reference.moments`."""
    x, last = dense(x)
    samples, channels = x.shape[:2]
    mean, var = torch.empty(2, samples, channels, dtype=torch.float64).unbind()
    count = None if mask is None else torch.empty(samples, 1, dtype=torch.float64)
    mask = None if mask is None else mask.contiguous()
    call("nw_moments", *shape_of(x, last), x.data_ptr(), pointer(mask), *map(pointer, (mean, var, count)))
    return Moments(mean, var, math.prod(x.shape[2:]) if count is None else count)


def apply(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    """See `reference.apply`."""
    if residual is not None and residual.dtype != x.dtype:
        wide = (t.to(mean.dtype) for t in (x, residual))
        return apply(next(wide), mean, scale, shift, next(wide), activation).to(x.dtype)
    x, last = dense(x)
    residual = like(x, residual)
    y = empty_like(x)
    tables = _Tables(mean, scale, shift)
    number = activation_number(activation)
    call("nw_apply", *shape_of(x, last), x.data_ptr(), pointer(residual), *tables.arguments, number, y.data_ptr())
    return y


def backward_reduce(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> tuple[Tensor, Tensor]:
    """See `reference.backward_reduce`."""
    if residual is not None and residual.dtype != x.dtype:
        grad_y, x, residual = (t.to(mean.dtype) for t in (grad_y, x, residual))
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    sums = torch.empty(2, *x.shape[:2], dtype=mean.dtype).unbind()
    tables = _Tables(mean, scale, shift)
    call(
        "nw_backward_reduce",
        *shape_of(x, last),
        *map(pointer, (grad_y, x, residual)),
        *tables.arguments,
        activation_number(activation),
        *map(pointer, sums),
    )
    return sums[0], sums[1]


def backward_apply(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
    slope: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """See `reference.backward_apply`."""
    if residual is not None and residual.dtype != x.dtype:
        kinds = x.dtype, residual.dtype
        grad_y, x, residual = (t.to(mean.dtype) for t in (grad_y, x, residual))
        grads = backward_apply(grad_y, x, mean, scale, shift, residual, activation, slope, offset, mask)
        return grads[0].to(kinds[0]), None if grads[1] is None else grads[1].to(kinds[1])
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    grad_x = empty_like(x)
    grad_residual = None if residual is None else empty_like(x)
    mask = None if mask is None else mask.contiguous()
    tables = _Tables(mean, scale, shift, slope, offset)
    call(
        "nw_backward_apply",
        *shape_of(x, last),
        *map(pointer, (grad_y, x, residual, mask)),
        *tables.arguments,
        activation_number(activation),
        *map(pointer, (grad_x, grad_residual)),
    )
    return grad_x, grad_residual


def standardize(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    known: Moments | None,
) -> tuple[Tensor, Moments]:
    """``y = f(γ (x - μ)/√(σ² + ε) + β + residual)`` over groups of channels (0: over the batch), and the moments.

    The moments are ``[N, groups]``, or ``[1, C]`` over the batch and where they are known.
    """
    kind = statistics_dtype(x.dtype)
    if residual is not None and residual.dtype != x.dtype:
        y, table = standardize(x.to(kind), groups, weight, bias, eps, residual.to(kind), activation, known)
        return y.to(x.dtype), table
    x, last = dense(x)
    residual = like(x, residual)
    y = empty_like(x)
    weight, bias = parameter(weight, kind), parameter(bias, kind)
    samples, channels = x.shape[:2]
    if known is None:
        table = torch.empty((2, samples, groups) if groups else (2, 1, channels), dtype=torch.float64).unbind()
        count = x.numel() // (samples * groups if groups else channels)
    else:
        table, count = (known.mean.contiguous(), known.var.contiguous()), known.count
    call(
        "nw_standardize",
        *(*shape_of(x, last), groups, known is not None, eps),
        *map(pointer, (x, residual, weight, bias)),
        activation_number(activation),
        *map(pointer, (y, *table)),
    )
    return y, Moments(table[0], table[1], count)


def standardize_backward(
    grad_y: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    moments: Moments,
    *,
    known: bool,
    values: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, residual, weight and bias; the first two only where the ``values`` need them."""
    kind = statistics_dtype(x.dtype)
    if residual is not None and residual.dtype != x.dtype:
        wide = (t.to(kind) for t in (grad_y, x, residual))
        rest = (activation, moments)
        found = standardize_backward(
            next(wide), next(wide), groups, weight, bias, eps, next(wide), *rest, known=known, values=values
        )
        kinds = (x.dtype, residual.dtype)
        grads = [None if g is None else g.to(k) for g, k in zip(found[:2], kinds, strict=True)]
        return grads[0], grads[1], found[2], found[3]
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    wide_weight, wide_bias = parameter(weight, kind), parameter(bias, kind)
    grad_x = empty_like(x) if values else None
    grad_residual = empty_like(x) if values and residual is not None else None
    grad_weight, grad_bias = (None if p is None else torch.empty(p.shape, dtype=kind) for p in (weight, bias))
    call(
        "nw_standardize_backward",
        *(*shape_of(x, last), groups, known, eps),
        *map(pointer, (grad_y, x, residual, wide_weight, wide_bias)),
        activation_number(activation),
        *map(pointer, (moments.mean, moments.var, grad_x, grad_residual, grad_weight, grad_bias)),
    )
    if weight is not None and grad_weight is not None:
        grad_weight = grad_weight.to(weight.dtype)
    if bias is not None and grad_bias is not None:
        grad_bias = grad_bias.to(bias.dtype)
    return grad_x, grad_residual, grad_weight, grad_bias


def parameter(p: Tensor | None, kind: torch.dtype) -> Tensor | None:
    """A layer's parameter as the kernels read it."""
    return None if p is None else p.detach().to(kind).contiguous()


class _Tables:
    """Tables ``[N, C]`` of any strides as the kernels take them; keeps them alive during the call."""

    def __init__(self, *tables: Tensor | None) -> None:
        self.kept = tables
        strides = [n for t in tables for n in ((0, 0) if t is None else t.stride())]
        self.pointers = (_P * len(tables))(*map(pointer, tables))
        self.strides = (ctypes.c_int64 * len(strides))(*strides)

    @property
    def arguments(self) -> tuple[Any, Any]:
        return self.pointers, self.strides


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """``x`` in a layout that the kernels read, copied if need be, and whether its channels are neighbours."""
    if x.is_contiguous():
        return x, x.dim() == 2 or x.numel() == x.shape[0] * x.shape[1]
    if x.dim() in _CHANNELS_LAST and x.is_contiguous(memory_format=_CHANNELS_LAST[x.dim()]):
        return x, True
    if x.dim() == 3 and x.transpose(1, 2).is_contiguous():
        return x, True
    return dense(in_layout_of(x, x))


@overload
def like(x: Tensor, t: Tensor) -> Tensor: ...
@overload
def like(x: Tensor, t: None) -> None: ...
def like(x: Tensor, t: Tensor | None) -> Tensor | None:
    """``t``, of ``x``'s shape, in the layout of ``x``."""
    if t is None or t.stride() == x.stride():
        return t
    return torch.empty_like(x, dtype=t.dtype).copy_(t)


def shape_of(x: Tensor, last: bool) -> tuple[int, int, int, int, int, int]:
    """The first arguments of every kernel over ``[N, C, *space]``."""
    samples, channels = x.shape[:2]
    return ELEMENTS[x.dtype], last, samples, channels, x.numel() // (samples * channels), threads()


def pointer(t: Tensor | None) -> int | None:
    """The address of the data, or a null pointer."""
    return None if t is None else t.data_ptr()


def activation_number(activation: Activation | None) -> int:
    """The activation as the kernels know it."""
    return ACTIVATION_NUMBERS[None if activation is None else activation.name]


def call(kernel: str, *arguments: Any) -> None:
    """Run one kernel."""
    library, reason = _loaded()
    if library is None:
        raise RuntimeError(f"The backend 'cpu' is not available: {reason}")
    if getattr(library, kernel)(*arguments):
        raise MemoryError(f"{kernel}: not enough memory for its tables.")


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        return build.load(_bind_and_check), None
    except build.BuildError as reason:
        return None, str(reason)


def _bind_and_check(library: ctypes.CDLL) -> None:
    """Declare the signatures, and let every element type compute a few numbers that are known.

    Raises OSError for a library without these functions and ArithmeticError for wrong results.
    """
    for function, signature in _SIGNATURES.items():
        if not hasattr(library, function):
            raise OSError(f"the library has no function {function}")
        getattr(library, function).argtypes = signature
        getattr(library, function).restype = ctypes.c_int
    for dtype, number in ELEMENTS.items():
        x = torch.arange(2 * 3 * 37).remainder(17).to(dtype).view(2, 3, 37)
        exact = x.double()
        found = torch.empty(2, 2, 3, dtype=torch.float64)
        arguments = (number, 0, 2, 3, 37, 1, x.data_ptr(), None, found[0].data_ptr(), found[1].data_ptr(), None)
        failed = library.nw_moments(*arguments)
        expected = torch.stack([exact.mean(2), exact.var(2, correction=0)])
        if failed or not torch.allclose(found, expected, rtol=1e-5):
            raise ArithmeticError(f"the self-test failed for {dtype}")
