"""Is somebody looking at the operations themselves: a transform, a compiler, an exporter?"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

_NOTHING = nullcontext()


def plain_operations_wanted() -> bool:
    """True under `torch.compile`, `torch.export`, tracing, ONNX export, `torch.func` and forward-mode AD.

    There the kernels behind an autograd function would be opaque, wrong, or silently constant, so the same
    public call is expressed in plain PyTorch operations.
    """
    # The exporter to ONNX compiles or traces.
    return torch.compiler.is_compiling() or torch._C._is_tracing() or under_function_transform()  # pyright: ignore[reportAttributeAccessIssue]


def under_function_transform() -> bool:
    """True under `torch.func` and forward-mode AD, for which some of torch's own operators lack rules."""
    inside = torch._C._functorch.peek_interpreter_stack()  # pyright: ignore[reportAttributeAccessIssue]
    return inside is not None or forward_ad._current_level >= 0


def needs_graph(*tensors: Tensor | None) -> bool:
    """Whether autograd will want a backward of an operation on these."""
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """The dtype policy is ours on every device; CUDA's autocast would widen some norms and not others."""
    if not torch._C._is_any_autocast_enabled():  # pyright: ignore[reportAttributeAccessIssue]
        return _NOTHING
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return _NOTHING
