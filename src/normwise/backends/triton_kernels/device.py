"""Where the kernels can run: on a CUDA device, or interpreted on the CPU for tests."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from normwise.core.layout import PLAIN, values_in_memory

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
        type(x) in PLAIN
        and (x.is_cuda or (interpreted() and x.device.type == "cpu"))
        and x.layout == torch.strided
        and x.dtype in ELEMENTS
        and x.numel() > 0
    )


@cache
def interpreted() -> bool:
    """Whether Triton interprets its kernels; it decides when it is imported, so a later change has no effect."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def flat(x: Tensor, parameter: Tensor | None, count: int) -> Tensor | None:
    """A layer's parameter or statistic beside ``x`` as the kernels read it: ``count`` values in a row.

    Raises ValueError for another size, device or type, and for memory that was released: a kernel would read past it.
    """
    if parameter is None:
        return None
    if (
        type(parameter) not in PLAIN
        or parameter.numel() != count
        or parameter.device != x.device
        or parameter.dtype not in ELEMENTS
        or values_in_memory(parameter) <= 0
    ):
        raise ValueError(
            f"The Triton kernels read {count} values of each parameter beside an input {list(x.shape)} on {x.device}, "
            f"received {parameter.dtype} of shape {list(parameter.shape)} on {parameter.device}. Was it replaced, "
            "resized or released, perhaps between forward and backward?"
        )
    return parameter.detach().contiguous()


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device and its current stream; make it the one that holds ``x``."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@cache
def code(module: str) -> Any:
    """A module of kernels. Triton is imported with the first one."""
    return import_module(f".code.{module}", __package__)


@cache
def wide(dtype: torch.dtype) -> Any:
    """Triton's name of the type that statistics of ``dtype`` are computed in."""
    language = import_module("triton.language")
    return language.float64 if dtype == torch.float64 else language.float32
