"""The devices of the kernels: CUDA, or the CPU where they are interpreted for tests."""

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
    """The reason why this backend cannot be used on this machine; None where it can."""
    if find_spec("triton") is None:
        return "Triton is not installed; install a CUDA build of torch, which brings it (Linux), or the package triton."
    if not torch.cuda.is_available() and not interpreted():
        return "torch finds no CUDA device; TRITON_INTERPRET=1 interprets the kernels on the CPU, slowly, for tests."
    return None


def serves(x: Tensor) -> bool:
    """Whether the kernels support this tensor: a plain one on a CUDA device that is not empty."""
    return (
        type(x) in PLAIN
        and (x.is_cuda or (interpreted() and x.device.type == "cpu"))
        and x.layout == torch.strided
        and x.dtype in ELEMENTS
        and x.numel() > 0
    )


@cache
def interpreted() -> bool:
    """Whether Triton interprets its kernels; Triton decides that at its import, so a later change has no effect."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def flat(x: Tensor, parameter: Tensor | None, count: int) -> Tensor | None:
    """A layer's parameter or statistic for the kernels: ``count`` contiguous values on the device of ``x``.

    Raises ValueError for another size, device or dtype, and for released memory, which a kernel would read past.
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
    """Make the device of ``x`` the current one: Triton launches on the current device and its current stream."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@cache
def code(module: str) -> Any:
    """A module of kernels. Triton is imported with the first of them."""
    return import_module(f".code.{module}", __package__)


@cache
def wide(dtype: torch.dtype) -> Any:
    """Triton's name of the dtype in which statistics of ``dtype`` are computed."""
    language = import_module("triton.language")
    return language.float64 if dtype == torch.float64 else language.float32
