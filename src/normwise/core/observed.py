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

    Values are then symbols, batches of a `torch.vmap`, or constants of a graph that runs later.
    """
    return (
        torch.compiler.is_compiling()
        or is_traced()
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or operators_are_observed()
    )


def operators_are_observed() -> bool:
    """Whether a dispatch mode of torch sees each operator: `make_fx`, `FakeTensorMode`, a counter of operations.

    Selective checkpointing does not count: it only saves what operators return, and kernels can run.
    """
    if torch._C._len_torch_dispatch_stack() == 0:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return not all(isinstance(mode, _SELECTIVE) for mode in _get_current_dispatch_mode_stack())


def is_mapped() -> bool:
    """Whether `torch.vmap` runs this for many inputs at once, so that no value can be read."""
    return _runs_inside("Vmap")


def is_functionalized() -> bool:
    """Whether `torch.func.functionalize` runs this, which does not accept an autograd function in Python."""
    return _runs_inside("Functionalize")


def _runs_inside(transform: str) -> bool:
    if torch.compiler.is_dynamo_compiling():
        return False  # the graph has plain operations in any case, and the compiler cannot look at the stack
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    if functorch.peek_interpreter_stack() is None:
        return False
    return any(
        level.key() == getattr(functorch.TransformType, transform) for level in functorch.get_interpreter_stack()
    )


def is_recorded() -> bool:
    """Whether a graph is being made to run later: by `torch.export`, `torch.jit.trace` or `make_fx`."""
    if torch.compiler.is_compiling():
        return is_exporting()
    return is_traced() or operators_are_observed()


def is_traced() -> bool:
    """Whether `torch.jit.trace` makes a graph, for itself or for the older ONNX exporter."""
    return torch._C._is_tracing()  # pyright: ignore[reportAttributeAccessIssue]


def is_fake(t: object) -> bool:
    """Whether a tensor is one of `FakeTensorMode`, a shape without values, even after the mode has ended."""
    return hasattr(t, "fake_mode")


def has_values(t: Tensor) -> bool:
    """Whether the values of a tensor can be read now, without waiting for a device."""
    return t.device.type == "cpu" and not is_observed() and not is_fake(t)
