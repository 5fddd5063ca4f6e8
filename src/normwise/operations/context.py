"""The context of a call: transform, compiler, exporter, dispatch mode, autocast, chosen backend."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from normwise.backends import Backend, forced
from normwise.core.observed import is_fake, is_observed
from normwise.core.transforms import under_function_transform

from .request import Request, plain_pool

_NOTHING = nullcontext()
# Looked up once: the modules are large, and every call needs them.
_is_compiling = torch.compiler.is_compiling
_interpreter = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]
_function_modes = torch._C._len_torch_function_stack  # pyright: ignore[reportAttributeAccessIssue]
_dispatch_modes = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportAttributeAccessIssue]
_is_tracing = torch._C._is_tracing  # pyright: ignore[reportAttributeAccessIssue]


class Context(NamedTuple):
    """Everything that the choice of a way depends on, besides the request itself."""

    plain: bool  # operations are traced, exported or transformed, or there are no values
    transformed: bool  # `torch.func` transforms them
    watched: bool  # a torch function mode looks for additions
    forced: Backend | None
    graph: bool  # a backward pass may follow
    pool: int | None  # the groups of a plain standardization, see `plain_pool`


def context_of(request: Request) -> Context:
    """The context of a request."""
    return Context(
        plain_operations_wanted() or is_fake(request.x),
        under_function_transform(),
        additions_are_watched(),
        forced(),
        needs_graph(request.x, request.residual, *request.parameters),
        plain_pool(request) if request.view.over == "planes" else None,
    )


def is_ordinary() -> bool:
    """Whether none of these is active, so that the kind of call alone determines its way."""
    return not (
        _is_compiling()
        or _interpreter() is not None
        or _function_modes()
        or _is_tracing()
        or _dispatch_modes()
        or forward_ad._current_level >= 0
    )


def is_backward_plain() -> bool:
    """Whether a backward pass needs plain operations: for second derivatives, transforms or dispatch modes."""
    return torch.is_grad_enabled() or _dispatch_modes() > 0 or _interpreter() is not None


def plain_operations_wanted() -> bool:
    """True under `torch.compile`, `torch.export`, tracing, ONNX export, `torch.func`, dispatch and forward modes.

    There the kernels behind an autograd function would be opaque, wrong, or silently constant, so the same
    public call is made of plain PyTorch operations.
    """
    # The ONNX exporters compile or trace, so they need no check of their own.
    return is_observed() or forward_ad._current_level >= 0


def additions_are_watched() -> bool:
    """Whether a torch function mode, such as that of `trace`, looks for additions: then no kernel may fuse one."""
    if torch._C._len_torch_function_stack() == 0:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


def needs_graph(*tensors: Tensor | None) -> bool:
    """Whether autograd will need a backward pass of an operation on these tensors."""
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off: our dtype policy is the same on every device; CUDA's autocast widens only some norms."""
    if not torch._C._is_any_autocast_enabled():  # pyright: ignore[reportAttributeAccessIssue]
        return _NOTHING
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return _NOTHING
