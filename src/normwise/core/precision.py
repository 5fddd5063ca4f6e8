"""How precise the small tables are: the one place that knows which devices have fp64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

#: What is known without asking (Apple's GPUs refuse every fp64 tensor), and what was answered.
_HAS_FP64 = {"cpu": True, "cuda": True, "meta": True, "mps": False}


def table_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a table of moments of ``x``: fp64, or fp32 on a device that has no fp64.

    >>> table_dtype(torch.zeros(2, dtype=torch.bfloat16))
    torch.float64
    """
    return torch.float64 if has_fp64(x.device.type) else torch.float32


def in_fp64(x: Tensor) -> Tensor:
    """``x`` in fp64: where it is, or on the CPU where its device has no fp64."""
    return (x if has_fp64(x.device.type) else x.cpu()).to(torch.float64)


def has_fp64(device_type: str) -> bool:
    """Whether devices of this type compute in fp64."""
    known = _HAS_FP64.get(device_type)
    return _computes_fp64(device_type) if known is None else known


def _computes_fp64(device_type: str) -> bool:
    """Asked once for each type of device, with a sum: some make fp64 tensors and have no arithmetic for them."""
    if device_type not in _HAS_FP64:
        try:
            # A traced or fake tensor would be made on any device.
            with _disable_current_modes():
                _HAS_FP64[device_type] = (torch.ones(1, dtype=torch.float64, device=device_type) + 1).item() == 2
        except Exception:  # each device has its own
            _HAS_FP64[device_type] = False
    return _HAS_FP64[device_type]


# What torch.compiler.assume_constant_result does, without importing the compiler: that takes a second.
_computes_fp64._dynamo_marked_constant = True  # type: ignore[attr-defined]
