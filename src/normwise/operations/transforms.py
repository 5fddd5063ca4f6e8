"""Is somebody looking at the operations themselves: a transform, a compiler, an exporter?"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad


def plain_operations_wanted() -> bool:
    """True under `torch.compile`, `torch.export`, tracing, ONNX export, `torch.func` and forward-mode AD.

    There the kernels behind an autograd function would be opaque, wrong, or silently constant, so the same
    public call is expressed in plain PyTorch operations.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or torch.onnx.is_in_onnx_export()
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or forward_ad._current_level >= 0
    )


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """The dtype policy is ours on every device; CUDA's autocast would widen some norms and not others."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
