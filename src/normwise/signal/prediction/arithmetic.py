"""Sums and products of signals, parameters and numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .gaussian import Signal, add, multiply

Operand = Signal | Tensor | float


def constant(tensor: Tensor, like: Signal) -> Signal:
    """A parameter or buffer as a signal that broadcasts against `like`: its moments along the same channels."""
    tensor = tensor.reshape((1,) * (len(like.shape) - tensor.dim()) + tuple(tensor.shape))
    measured, whole = Signal.measured(tensor, like.axis), torch.ones(like.channels, dtype=torch.float64)
    return Signal.gaussian(tensor.shape, like.axis, measured.mean * whole, measured.variance * whole)


def plus(a: Operand, b: Operand, alpha: float = 1) -> Signal:
    """``a + alpha * b``."""
    b = b if alpha == 1 else times(b, alpha)
    return _binary(a, b, operator.add, lambda x, shift: x.scaled(1.0, shift), add)


def minus(a: Operand, b: Operand, alpha: float = 1) -> Signal:
    """``a - alpha * b``."""
    return plus(a, times(b, -alpha))


def times(a: Operand, b: Operand) -> Any:
    """``a * b``."""
    if not isinstance(a, Signal) and not isinstance(b, Signal):
        return a * b
    return _binary(a, b, operator.mul, Signal.scaled, multiply)


def divided(a: Operand, b: Operand) -> Signal:
    """``a / b``, where b is a number or a parameter, or where both are functions of the same values."""
    if not isinstance(b, Signal):
        return times(a, 1 / b)
    if isinstance(a, Signal) and a.latent is b.latent:
        return a.together(b, operator.truediv)
    if isinstance(a, (int, float)):
        return b.apply(lambda z: a / z)
    raise NotImplementedError("a division by a signal")


def _binary(
    a: Operand,
    b: Operand,
    pointwise: Callable[[Any, Any], Any],
    with_number: Callable[[Signal, Any], Signal],
    independent: Callable[[Signal, Signal], Signal],
) -> Signal:
    if not isinstance(a, Signal):
        a, b = b, a  # both operations are commutative
    if not isinstance(a, Signal):
        raise NotImplementedError("arithmetic without a signal")
    if isinstance(b, Tensor) and b.numel() > 1:
        return _with_constant(a, constant(b, a), with_number, independent)
    if isinstance(b, (Tensor, int, float)):
        return with_number(a, float(b))
    if a.latent is b.latent and a.shape == b.shape and a.axis == b.axis:
        return a.together(b, pointwise)
    return independent(a, b.along(a.axis))


def _with_constant(
    a: Signal,
    b: Signal,
    with_number: Callable[[Signal, Any], Signal],
    independent: Callable[[Signal, Signal], Signal],
) -> Signal:
    """Combine a signal with a parameter: one number per channel is exact, a map of numbers is treated like noise."""
    same_shape = torch.broadcast_shapes(a.shape, b.shape) == a.shape
    return with_number(a, b.mean) if same_shape and not b.variance.any() else independent(a, b)
