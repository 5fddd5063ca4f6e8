"""Where the kernels can run: on a CUDA device, or interpreted on the CPU for tests."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

ELEMENTS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@cache
def unavailable() -> str | None:
    """Why this backend cannot be used on this machine; None where it can."""
    if find_spec("triton") is None:
        return "Triton is not installed; install a CUDA build of torch, which brings it (Linux), or the package triton."
    if not torch.cuda.is_available() and not interpreted():
        return "torch finds no CUDA device; TRITON_INTERPRET=1 interprets the kernels on the CPU, slowly, for tests."
    return None


def serves(x: Tensor) -> bool:
    """Whether the kernels take this tensor: a plain one on a CUDA device with something in it."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and (x.is_cuda or (interpreted() and x.device.type == "cpu"))
        and x.layout == torch.strided
        and x.dtype in ELEMENTS
        and x.numel() > 0
    )


@cache
def interpreted() -> bool:
    """Whether Triton interprets its kernels; it decides when it is imported, so a later change has no effect."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device and its current stream; make it the one that holds ``x``."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def wide(dtype: torch.dtype) -> Any:
    """Triton's name of the type that statistics of ``dtype`` are computed in."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32
