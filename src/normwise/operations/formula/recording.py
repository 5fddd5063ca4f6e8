"""The operations of a computation on small tensors, one by one, reduced to a few simple ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class OperatorCall(NamedTuple):
    """A call of one of torch's operators, below autograd."""

    operation: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    result: Any


class Recording(TorchDispatchMode):
    """A mode that appends every operation in its ``with`` block, also of a backward pass, to `calls`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[OperatorCall] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func in _IN_SIMPLE_ONES:
            with self:
                return _IN_SIMPLE_ONES[func](*args, **options)
        result = func(*args, **options)
        self.calls.append(OperatorCall(func, args, options, result))
        return result


def _mean(x: Tensor, dims: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    total = x.sum(dims, keepdim, dtype=dtype)
    return total * (total.numel() / max(x.numel(), 1))


def _softmax(x: Tensor, dim: int, _half_to_float: bool) -> Tensor:
    powers = (x - x.amax(dim, keepdim=True)).exp()
    return powers / powers.sum(dim, keepdim=True)


def _softmax_backward(grad: Tensor, y: Tensor, dim: int, _dtype: torch.dtype) -> Tensor:
    return y * (grad - (grad * y).sum(dim, keepdim=True))


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape.insert(dim % (len(shape) + 1), len(tensors))
    result = tensors[0].new_empty(shape)
    for part, t in zip(result.unbind(dim), tensors, strict=True):
        part.copy_(t)
    return result


def _concatenate(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    sizes = [t.shape[dim] for t in tensors]
    shape[dim] = sum(sizes)
    result = tensors[0].new_empty(shape)
    for part, t in zip(result.split(sizes, dim), tensors, strict=True):
        part.copy_(t)
    return result


def _slice_backward(grad: Tensor, shape: Sequence[int], dim: int, start: int, end: int, step: int) -> Tensor:
    result = grad.new_zeros(shape)
    aten.slice(result, dim, start, end, step).copy_(grad)
    return result


def _clamp(x: Tensor, least: Tensor | float | None = None, most: Tensor | float | None = None) -> Tensor:
    # A comparison with NaN is false, and NaN stays.
    if least is not None:
        x = torch.where(x < least, _like(x, least), x)
    return x if most is None else torch.where(x > most, _like(x, most), x)


def _power(x: Tensor, exponent: float) -> Tensor:
    if exponent == 2:
        return x * x
    return x * x * x if exponent == 3 else x ** _like(x, exponent)


def _like(x: Tensor, bound: Tensor | float) -> Tensor:
    return bound.to(x.dtype) if isinstance(bound, Tensor) else x.new_full((), bound)


#: Operations that are replaced by several simple ones.
_IN_SIMPLE_ONES: dict[Any, Callable[..., Tensor]] = {
    aten.mean.dim: _mean,
    aten._softmax.default: _softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten.stack.default: _stack,
    aten.cat.default: _concatenate,
    aten.slice_backward.default: _slice_backward,
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: _clamp,
    aten.rsub.Scalar: lambda x, other: -x + other,
    aten.pow.Tensor_Scalar: _power,
    aten.masked_fill.Scalar: lambda x, mask, value: torch.where(mask, _like(x, value), x),
}
