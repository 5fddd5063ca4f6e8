"""The precision of the small tables: the one place that knows which devices have fp64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

#: Known in advance: Apple's GPUs refuse every fp64 tensor. Answers for other devices are added.
_HAS_FP64 = {"cpu": True, "cuda": True, "meta": True, "mps": False}


def table_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a table of moments of ``x``: fp64, or fp32 on a device that has no fp64.

    >>> table_dtype(torch.zeros(2, dtype=torch.bfloat16))
    torch.float64
    """
    return torch.float64 if has_fp64(x.device.type) else torch.float32


def in_fp64(x: Tensor) -> Tensor:
    """``x`` in fp64, on its own device or, where that has no fp64, on the CPU."""
    return (x if has_fp64(x.device.type) else x.cpu()).to(torch.float64)


def has_fp64(device_type: str) -> bool:
    """Whether devices of this type compute in fp64."""
    known = _HAS_FP64.get(device_type)
    return _computes_fp64(device_type) if known is None else known


def _computes_fp64(device_type: str) -> bool:
    """Try a sum in fp64, once for each type of device: some can make fp64 tensors but not compute with them."""
    if device_type not in _HAS_FP64:
        try:
            # Without this a traced or fake tensor would be made, which works on any device.
            with _disable_current_modes():
                _HAS_FP64[device_type] = (torch.ones(1, dtype=torch.float64, device=device_type) + 1).item() == 2
        except Exception:  # each device raises its own class
            _HAS_FP64[device_type] = False
    return _HAS_FP64[device_type]


# The mark that torch.compiler.assume_constant_result sets, without importing the compiler, which takes a second.
_computes_fp64._dynamo_marked_constant = True  # type: ignore[attr-defined]
