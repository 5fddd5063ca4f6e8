"""Whether operations are being traced, exported or transformed: then nothing may read a value or call a kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import _CachedTorchDispatchMode, _CachingTorchDispatchMode

_SELECTIVE = (_CachingTorchDispatchMode, _CachedTorchDispatchMode)


def is_exporting() -> bool:
    """Whether `torch.export` makes a graph.

    By the flag itself: in the compiler of torch 2.11 `torch.compiler.is_exporting` is true under `torch.compile`, too.
    """
    return torch.compiler._is_exporting_flag  # pyright: ignore[reportAttributeAccessIssue]


def is_observed() -> bool:
    """Whether a compiler, a tracer, a transform of `torch.func` or a dispatch mode sees each operator.

    Values are then symbols, many at once, or constants of a graph that others run.
    """
    return (
        torch.compiler.is_compiling()
        or is_traced()
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or operators_are_observed()
    )


def operators_are_observed() -> bool:
    """Whether a dispatch mode of torch sees each operator: `make_fx`, `FakeTensorMode`, a counter of operations.

    Selective checkpointing only saves what operators return: kernels stay kernels there.
    """
    if torch._C._len_torch_dispatch_stack() == 0:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return not all(isinstance(mode, _SELECTIVE) for mode in _get_current_dispatch_mode_stack())


def is_mapped() -> bool:
    """Whether `torch.vmap` runs this for many inputs at once, whose values cannot be read."""
    return _runs_inside("Vmap")


def is_functionalized() -> bool:
    """Whether `torch.func.functionalize` does, which takes no autograd function of Python."""
    return _runs_inside("Functionalize")


def _runs_inside(transform: str) -> bool:
    if torch.compiler.is_dynamo_compiling():
        return False  # the graph is of plain operations in any case, and the compiler cannot look at the stack
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    if functorch.peek_interpreter_stack() is None:
        return False
    return any(
        level.key() == getattr(functorch.TransformType, transform) for level in functorch.get_interpreter_stack()
    )


def is_recorded() -> bool:
    """Whether a graph is made for others to run: by `torch.export`, `torch.jit.trace` or `make_fx`."""
    if torch.compiler.is_compiling():
        return is_exporting()
    return is_traced() or operators_are_observed()


def is_traced() -> bool:
    """Whether `torch.jit.trace` makes a graph, by itself or for the older exporter to ONNX."""
    return torch._C._is_tracing()  # pyright: ignore[reportAttributeAccessIssue]


def is_imagined(t: object) -> bool:
    """Whether a tensor is one of `FakeTensorMode`: a shape without values, also where the mode is over."""
    return hasattr(t, "fake_mode")


def has_values(t: Tensor) -> bool:
    """Whether a decision may look at the values of a tensor without waiting for a device."""
    return t.device.type == "cpu" and not is_observed() and not is_imagined(t)
