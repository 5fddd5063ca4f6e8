"""The compiled kernels as functions: loaded on first use, a library for each element type, checked before it serves."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from normwise.core.activations import ACTIVATIONS, Activation
from normwise.core.responses import RESPONSES

from . import build

#: The types that kernels exist for, by the names that they have in C++.
ELEMENTS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}
RESPONSE_NUMBERS = {response.name: number for number, response in enumerate(RESPONSES.values())}
ACTIVATION_NUMBERS = {None: 0} | {name: number for number, name in enumerate(ACTIVATIONS, start=1)}

_INT, _LONG, _DOUBLE, _P = ctypes.c_int, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
_SHAPE = (_INT, _LONG, _LONG, _LONG, _INT)
_SIGNATURES = {
    "nw_version": (),
    "nw_moments": (*_SHAPE, *(_P,) * 5),
    "nw_apply": (*_SHAPE, *(_P,) * 4, _INT, _P),
    "nw_backward_reduce": (*_SHAPE, *(_P,) * 5, _INT, _P, _P),
    "nw_backward_apply": (*_SHAPE, *(_P,) * 6, _INT, _P, _P),
    "nw_respond": (*_SHAPE, _INT, *(_P,) * 5),
    "nw_respond_reduce": (*_SHAPE, _INT, *(_P,) * 6),
    "nw_respond_backward": (*_SHAPE, _INT, *(_P,) * 8),
    "nw_standardize": (*_SHAPE, _LONG, _DOUBLE, *(_P,) * 4, _INT, _P, _P, _INT, _INT, _P, _P),
    "nw_standardize_backward": (*_SHAPE, _LONG, _INT, _DOUBLE, *(_P,) * 5, _INT, _INT, *(_P,) * 5),
    "nw_remember": (_LONG, _P, _P, _INT, *(_DOUBLE,) * 3, _P, _P, _INT, _P),
    "nw_rows": (_LONG, _LONG, _INT, _INT, _DOUBLE, *(_P,) * 3, _INT, _P, _P),
    "nw_rows_backward": (_LONG, _LONG, _INT, _INT, *(_P,) * 3, _INT, *(_P,) * 4),
    "nw_columns": (_LONG, _LONG, _LONG, _INT, _INT, _DOUBLE, *(_P,) * 3, _INT, _P, _P),
    "nw_columns_backward": (_LONG, _LONG, _LONG, _INT, _INT, *(_P,) * 3, _INT, *(_P,) * 4),
}

_log = logging.getLogger("normwise")

# After a fork the OpenMP pool of the parent is gone but not forgotten: a child that asked for threads would hang.
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_in_child)


def threads() -> int:
    """The threads that a kernel may use: torch's own setting, and one in a forked process."""
    return 1 if _forked else torch.get_num_threads()


def pointer(t: Tensor | None) -> int | None:
    """The address of the data, or a null pointer."""
    return None if t is None else t.data_ptr()


def activation_number(activation: Activation | None) -> int:
    """The activation as the kernels know it."""
    return ACTIVATION_NUMBERS[None if activation is None else activation.name]


def function(kernel: str, dtype: torch.dtype) -> Callable[..., int]:
    """One kernel for one element type; what it answers but 0 means `out_of_memory`."""
    functions, reason = kernels(dtype)
    if reason is not None:
        raise RuntimeError(f"The backend 'cpu' is not available: {reason}")
    return functions[kernel]


def call(kernel: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Run one kernel for one element type."""
    if function(kernel, dtype)(*arguments):
        raise out_of_memory(kernel)


def out_of_memory(kernel: str) -> MemoryError:
    """What a kernel means that answers anything but 0."""
    return MemoryError(f"{kernel}: not enough memory for its tables.")


@cache
def kernels(dtype: torch.dtype) -> tuple[dict[str, Any], str | None]:
    """The kernels for an element type by name, or none and the reason. The first call compiles them."""
    element = ELEMENTS[dtype]
    found: dict[str, Any] = {}

    def bind_and_check(library: ctypes.CDLL) -> None:
        found.update(_bound(library, element))
        _check(found, dtype)

    try:
        build.load(element, bind_and_check)
    except build.BuildError as reason:
        # Once for each type, since the answer is kept: slower without a word would be a riddle.
        _log.warning("The CPU kernels for %s are not available (%s); plain PyTorch serves.", element, reason)
        return {}, str(reason)
    return found, None


def _bound(library: ctypes.CDLL, element: str) -> dict[str, Any]:
    """The library's functions with their signatures; OSError where one is missing."""
    found = {}
    for name, signature in _SIGNATURES.items():
        function = getattr(library, f"{name}_{element}", None)
        if function is None:
            raise OSError(f"the library has no function {name}_{element}")
        function.argtypes, function.restype = signature, _INT
        found[name] = function
    return found


def _check(functions: dict[str, Any], dtype: torch.dtype) -> None:
    """Let the kernels compute a few numbers that are known; ArithmeticError for wrong results."""
    x = torch.arange(2 * 3 * 37, device="cpu").remainder(17).to(dtype).view(2, 3, 37)
    exact = x.double()
    found = torch.empty(2, 2, 3, dtype=torch.float64, device="cpu")
    failed = functions["nw_moments"](0, 2, 3, 37, 1, x.data_ptr(), None, *map(pointer, found), None)
    expected = torch.stack([exact.mean(2), exact.var(2, correction=0)])
    if failed or not torch.allclose(found, expected, rtol=1e-5):
        raise ArithmeticError(f"the self-test failed for {dtype}")
