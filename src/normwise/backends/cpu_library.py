"""The compiled kernels as functions: loaded on first use, a library for each element type, checked before it serves."""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from normwise.core.activations import ACTIVATIONS, Activation
from normwise.core.program import OPERATIONS
from normwise.core.responses import RESPONSES

from . import background, build
from .tunings import stored

#: The dtypes that have kernels, by their names in C++.
ELEMENTS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}
#: Names that the kernels know by number. A library must have the same names in the same order, see `_check_names`.
_ACTIVATIONS = ("none", *ACTIVATIONS)
_CURVES = ("tanh", "erf")
_RESPONSES = tuple(response.name for response in RESPONSES.values())
ACTIVATION_NUMBERS = {name: number for number, name in enumerate(_ACTIVATIONS)}
CURVE_NUMBERS = {name: number for number, name in enumerate(_CURVES)}
RESPONSE_NUMBERS = {name: number for number, name in enumerate(_RESPONSES)}
OPERATION_NUMBERS = {name: number for number, name in enumerate(OPERATIONS)}

_KINDS = {"i": ctypes.c_int, "n": ctypes.c_int64, "d": ctypes.c_double, "p": ctypes.c_void_p}
_SHAPE = "i:last n:N n:C n:S i:threads"
_ROWS = "n:rows n:width i:threads i:center"
_SETS = "n:rows n:width n:per i:threads i:center d:plus"
_MAPS = "n:N n:C n:S i:threads i:center"
_SQUASH = "n:N n:C n:S i:threads i:curve d:alpha d:shift"
_BACK = "*weight *bias i:kept i:activation *table *flow *grad_x *grad_residual *grad_weight *grad_bias"
#: Each kernel's arguments, in order: a type and a name, or * and a tensor's name: its address and number of values.
_PARAMETERS = {
    "nw_version": "",
    "nw_threaded": "",
    "nw_names": "i:list p:names",
    "nw_moments": f"{_SHAPE} *x *mask *mean *var *count",
    "nw_apply": f"{_SHAPE} *x *residual *tables i:activation *y",
    "nw_backward_reduce": f"{_SHAPE} *grad_y *x *residual *tables i:activation *sum_g *sum_gx",
    "nw_backward_apply": f"{_SHAPE} *grad_y *x *residual *mask *tables i:activation *grad_x *grad_residual",
    "nw_respond": f"{_SHAPE} i:response *x *residual *tables *y",
    "nw_respond_reduce": f"{_SHAPE} i:response *grad_y *x *residual *tables *sums",
    "nw_respond_backward": f"{_SHAPE} i:response *grad_y *x *residual *mask *tables *grad_x *grad_residual",
    "nw_standardize": f"{_SHAPE} n:groups d:eps *x *residual *weight *bias i:kept *mean *var i:known i:activation *y "
    "*table",
    "nw_standardize_backward": f"{_SHAPE} n:groups i:known d:eps *grad_y *x *residual *weight *bias i:kept "
    "i:activation *table *grad_x *grad_residual *grad_weight *grad_bias",
    "nw_remember": "n:C *mean *var i:kept d:bessel d:momentum *running_mean *running_var i:running_kept *batches",
    "nw_modulated": f"{_SETS} d:eps *x *scale *shift i:kept *y *table",
    "nw_modulated_backward": f"{_SETS} *grad_y *x *scale i:kept *table *grad_x *grad_scale *grad_shift",
    "nw_rows": f"{_ROWS} d:eps *x *added *sum *residual *weight *bias i:kept i:activation *y *table",
    "nw_rows_backward": f"{_ROWS} *grad_y *x *grad_sum *residual {_BACK}",
    "nw_columns": f"{_MAPS} d:eps *x *residual *weight *bias i:kept i:activation *y *table",
    "nw_columns_backward": f"{_MAPS} *grad_y *x *residual {_BACK}",
    "nw_squash": f"{_SQUASH} *x *residual *weight *bias i:kept i:activation *y",
    "nw_squash_backward": f"{_SQUASH} *grad_y *x *residual *weight *bias i:kept i:activation *grad_x *grad_residual "
    "*grad_weight *grad_bias *scalars",
    "nw_run": "p:program *entering *leaving",
    "nw_normalize": f"{_SHAPE} p:formula i:measured *entering *leaving *x *residual *mask i:activation *y *tables",
    "nw_normalize_backward": f"{_SHAPE} p:formula i:measured *entering *leaving *grad_y *x *residual *mask "
    "i:activation *tables *grad_x *grad_residual",
}
#: Kernels that can also receive all their arguments in one array of eight bytes each.
_PACKED = (
    "nw_standardize",
    "nw_standardize_backward",
    "nw_remember",
    "nw_rows",
    "nw_rows_backward",
    "nw_modulated",
    "nw_modulated_backward",
    "nw_columns",
    "nw_columns_backward",
)
#: The return codes of a kernel.
_OUT_OF_MEMORY, NOT_FINITE = 1, 3

_log = logging.getLogger("normwise")

# After a fork the OpenMP pool's threads are gone, but OpenMP still counts on them: a child using threads would hang.
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_in_child)


def threads() -> int:
    """The threads that a kernel may use: torch's own setting, and one in a forked process."""
    return 1 if _forked else torch.get_num_threads()


def activation_number(activation: Activation | None) -> int:
    """The activation's number in the kernels."""
    if activation is None:
        return 0
    number = ACTIVATION_NUMBERS.get(activation.name)
    if number is None:
        raise ValueError(f"The CPU kernels do not know the activation {activation.name!r}; apply it to the result.")
    return number


def function(kernel: str, dtype: torch.dtype) -> Callable[..., int]:
    """One kernel for one element type; for any return code but 0 see `failure`."""
    functions, reason = kernels(dtype)
    if reason is not None:
        raise RuntimeError(f"The backend 'cpu' is not available: {reason}")
    return functions[kernel]


def call(kernel: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Run one kernel for one element type."""
    answer = function(kernel, dtype)(*arguments)
    if answer:
        raise failure(kernel, answer, arguments)


@cache
def packed(kernel: str, dtype: torch.dtype) -> tuple[Callable[..., int], Callable[..., bytes], int]:
    """A kernel that takes its arguments in one array, the function that packs them, and their number.

    Packed, since ctypes needs five microseconds to convert two dozen arguments.
    """
    codes = _codes(_PARAMETERS[kernel])
    return function(f"{kernel}_packed", dtype), struct.Struct(f"={codes}").pack, len(codes)


def call_packed(kernel: str, dtype: torch.dtype, *arguments: float) -> None:
    """`call` by `packed`: all arguments are numbers, 0 for a null pointer."""
    answer = answer_packed(kernel, dtype, *arguments)
    if answer:
        raise failure(kernel, answer, arguments)


def answer_packed(kernel: str, dtype: torch.dtype, *arguments: float) -> int:
    """The kernel's return code; for any but 0 see `failure`."""
    run, pack, count = packed(kernel, dtype)
    return run(pack(*arguments), count)


def failure(kernel: str, answer: int, arguments: Sequence[Any]) -> Exception:
    """The exception for a kernel's return code other than 0."""
    if answer == _OUT_OF_MEMORY:
        return MemoryError(f"{kernel}: not enough memory for its tables.")
    given, received = iter(arguments), []
    for parameter in _PARAMETERS[kernel].split():
        value = next(given)
        if parameter.startswith("*"):
            received.append(f"{parameter[1:]} {next(given)}")
        elif parameter.startswith("n:"):
            received.append(f"{parameter[2:]}={value}")
    return ValueError(
        f"{kernel} needs tensors whose numbers of values agree: a parameter has one value for each "
        f"channel (or position of a row). Received {', '.join(received)}. Was a parameter, a buffer or the input "
        "replaced or resized, perhaps between forward and backward?"
    )


#: The kernels for an element type by name, or the reason why there are none.
Kernels = tuple[dict[str, Any], str | None]
_kernels: dict[torch.dtype, Kernels] = {}


def ready(dtype: torch.dtype) -> bool:
    """Whether the kernels for an element type can serve now; missing ones are compiled in the background."""
    if dtype not in _kernels:
        element = ELEMENTS[dtype]
        if background.compiling(element, lambda: stored.to_measure(element, threads())):
            return False
    return kernels(dtype)[1] is None


def kernels(dtype: torch.dtype) -> Kernels:
    """The kernels for an element type. The first call waits for a running compilation, or compiles them."""
    found = _kernels.get(dtype)
    if found is None:
        found = _kernels[dtype] = _load(dtype)
    return found


def _load(dtype: torch.dtype) -> Kernels:
    """Load and check the kernels of an element type; without them the result holds the reason."""
    element = ELEMENTS[dtype]
    found: dict[str, Any] = {}

    def bind_and_check(library: ctypes.CDLL) -> None:
        found.update(_bound(library, element))
        _check_names(found)
        _check(found, dtype)

    background.wait_for(element)
    try:
        build.load(element, bind_and_check)
    except build.BuildError as reason:
        # A warning, once for each dtype since the result is kept: without it, slow runs would be hard to explain.
        _log.warning("The CPU kernels for %s are not available (%s); plain PyTorch serves.", element, reason)
        return {}, str(reason)
    return found, None


def _bound(library: ctypes.CDLL, element: str) -> dict[str, Any]:
    """The library's functions with their signatures; OSError where one is missing."""
    found = {}
    packed = {f"{name}_packed": "p:arguments n:count" for name in _PACKED}
    for name, parameters in (_PARAMETERS | packed).items():
        function = getattr(library, f"{name}_{element}", None)
        if function is None:
            raise OSError(f"the library has no function {name}_{element}")
        function.argtypes, function.restype = _types(parameters), ctypes.c_int
        found[name] = function
    return found


def _codes(parameters: str) -> str:
    """The format of `struct` that packs them, eight bytes each."""
    return "".join("qq" if p.startswith("*") else "d" if p.startswith("d:") else "q" for p in parameters.split())


def _types(parameters: str) -> list[Any]:
    found = []
    for parameter in parameters.split():
        found += [ctypes.c_void_p, ctypes.c_int64] if parameter.startswith("*") else [_KINDS[parameter[0]]]
    return found


def _check_names(functions: dict[str, Any]) -> None:
    """ArithmeticError where a number means something else to the library, which would compute another function."""
    for number, ours in enumerate((_ACTIVATIONS, _RESPONSES, OPERATIONS, _CURVES)):
        names = ctypes.c_char_p()
        functions["nw_names"](number, ctypes.byref(names))
        theirs = (names.value or b"").decode()
        if theirs != "".join(f"{name} " for name in ours):
            raise ArithmeticError(f"they know {theirs.strip()!r} where the package has {' '.join(ours)!r}")


def _check(functions: dict[str, Any], dtype: torch.dtype) -> None:
    """Compute a few known numbers with the kernels; ArithmeticError for wrong results."""
    x = torch.arange(2 * 3 * 37, device="cpu").remainder(17).to(dtype).view(2, 3, 37)
    exact = x.double()
    found = torch.empty(2, 2, 3, dtype=torch.float64, device="cpu")
    mean, var = ((t.data_ptr(), t.numel()) for t in found)
    failed = functions["nw_moments"](0, 2, 3, 37, 1, x.data_ptr(), x.numel(), None, 0, *mean, *var, None, 0)
    expected = torch.stack([exact.mean(2), exact.var(2, correction=0)])
    if failed or not torch.allclose(found, expected, rtol=1e-5):
        raise ArithmeticError(f"the self-test failed for {dtype}")
