"""Whether somebody looks at the operations: then no decision may read a value, and no kernel may stand for them."""

from __future__ import annotations

import torch
from torch import Tensor


def is_observed() -> bool:
    """Whether a compiler, a tracer, a transform of `torch.func` or a dispatch mode sees each operator.

    Values are then symbols, many at once, or constants of a graph that others run.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()  # pyright: ignore[reportAttributeAccessIssue]
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or operators_are_observed()
    )


def operators_are_observed() -> bool:
    """Whether a dispatch mode of torch sees each operator: `make_fx`, `FakeTensorMode`, a counter of operations."""
    return torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore[reportAttributeAccessIssue]


def is_mapped() -> bool:
    """Whether `torch.vmap` runs this for many at once, whose values nobody can look at."""
    if torch._C._functorch.peek_interpreter_stack() is None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    stack = torch._C._functorch.get_interpreter_stack()  # pyright: ignore[reportAttributeAccessIssue]
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)  # pyright: ignore[reportAttributeAccessIssue]


def is_recorded() -> bool:
    """Whether a graph is made for others to run: by `torch.export`, `torch.jit.trace` or `make_fx`."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch._C._is_tracing() or operators_are_observed()  # pyright: ignore[reportAttributeAccessIssue]


def is_imagined(t: object) -> bool:
    """Whether a tensor is one of `FakeTensorMode`: a shape without values, also where the mode is over."""
    return hasattr(t, "fake_mode")


def has_values(t: Tensor) -> bool:
    """Whether a decision may look at the values of a tensor without waiting for a device."""
    return t.device.type == "cpu" and not is_observed() and not is_imagined(t)
