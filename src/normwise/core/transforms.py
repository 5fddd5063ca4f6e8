"""Transforms of `torch.func` and forward-mode AD: whether one is active, and a layer's state inside one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad


def under_function_transform() -> bool:
    """True under `torch.func` and forward-mode AD, for which some of torch's own operators lack rules."""
    inside = torch._C._functorch.peek_interpreter_stack()  # pyright: ignore[reportAttributeAccessIssue]
    return inside is not None or forward_ad._current_level >= 0


def value_outside(t: Tensor) -> Tensor | None:
    """The plain tensor inside the wrappers of `torch.func.grad`, ``vjp`` and ``jvp``; None inside a `torch.vmap`.

    It is a constant, to be used under `outside`.
    """
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_gradtrackingtensor(t):
        t = functorch.get_unwrapped(t)
    return None if functorch.maybe_get_level(t) != -1 else t


@contextmanager
def outside() -> Iterator[None]:
    """A block whose operations belong to no transform and to no derivative."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with temporarily_clear_interpreter_stack(), torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        yield
