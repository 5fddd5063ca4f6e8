"""The kind of a tensor: its class, dtype, device, shape and strides; everything but its values and its address."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Kinds:
    """The kinds of some tensors, compared one by one; for a torch without `TensorGuards`."""

    def __init__(self, *tensors: Tensor, **_options: None) -> None:
        self.seen = [_kind(t) for t in tensors]

    def check(self, *tensors: Tensor) -> bool:
        """Whether these tensors are of the same kinds, and no two are one object."""
        return len({id(t) for t in tensors}) == len(tensors) and self.seen == [_kind(t) for t in tensors]


def _kind(t: Tensor) -> tuple[Any, ...]:
    keys = torch._C._dispatch_keys(t).raw_repr()  # pyright: ignore[reportAttributeAccessIssue]
    return type(t), t.dtype, t.device, t.shape, t.stride(), t.requires_grad, keys


# The guards of torch's compiler: they compare everything in one call of half a microsecond.
_Guards: Any = getattr(getattr(torch._C._dynamo, "guards", None), "TensorGuards", _Kinds)  # pyright: ignore[reportAttributeAccessIssue]


def kinds_of(*tensors: Tensor) -> Any:
    """An object whose ``check(*others)`` is true for tensors of the same kinds.

    Compared are class, dtype, device, sizes, strides, ``requires_grad`` and dispatch keys. ``check`` is false where one
    tensor is passed twice.

    >>> seen = kinds_of(torch.zeros(2, 3))
    >>> seen.check(torch.ones(2, 3)), seen.check(torch.ones(3, 2))
    (True, False)
    """
    return _Guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
