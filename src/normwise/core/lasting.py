"""Work inside a forward pass that must not depend on the caller's modes (inference mode, autocast, FakeTensor)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

_NOTHING = nullcontext()


def lasting() -> AbstractContextManager[None]:
    """For what is made to be kept: inside, neither inference mode nor a dispatch mode holds. Compilers go on tracing.

    >>> with torch.inference_mode():
    ...     with lasting():
    ...         kept = torch.zeros(1)
    >>> kept.is_inference()
    False
    """
    return _without_modes() if _some_mode_holds() else _NOTHING


def unseen(*written: Tensor | None) -> AbstractContextManager[None]:
    """For a layer's dealings with its own state: as `lasting`, but where they are imagined or recorded they still are.

    Selective checkpointing finds what it saved by the number of an operator's call, and may not see what only the first
    of two passes does. Where a tensor that will be ``written`` was made in inference mode, that mode goes on: outside
    of it the tensor cannot change.
    """
    if not _some_mode_holds() or imagined_or_recorded():
        return _NOTHING
    made_there = torch.is_inference_mode_enabled() and any(t.is_inference() for t in written if t is not None)
    return _without_modes(inference=made_there)


def imagined_or_recorded() -> bool:
    """Whether one of torch's own modes holds, in which tensors are fake, recorded or functional."""
    return any(getattr(mode, "_mode_key", None) is not None for mode in _get_current_dispatch_mode_stack())


def _some_mode_holds() -> bool:
    if torch.compiler.is_compiling():
        return False
    return torch.is_inference_mode_enabled() or torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _without_modes(*, inference: bool = False) -> Iterator[None]:
    with torch.inference_mode(inference), _disable_current_modes():
        yield
