"""Work inside a forward pass that must not depend on the caller's modes (inference mode, autocast, FakeTensor)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

_NOTHING = nullcontext()


def lasting() -> AbstractContextManager[None]:
    """A context for making tensors to keep: inference mode and dispatch modes are off in it, compilers still trace.

    >>> with torch.inference_mode():
    ...     with lasting():
    ...         kept = torch.zeros(1)
    >>> kept.is_inference()
    False
    """
    return _without_modes() if _some_mode_holds() else _NOTHING


def changing_state(*written: Tensor | None) -> AbstractContextManager[None]:
    """A context for a layer's changes of its own state: as `lasting`, but fake and recording modes stay on.

    Without it selective checkpointing would see an operator in the first of its two passes only, and it matches saved
    outputs by the number of the call. If a tensor in ``written`` was made in inference mode, that mode stays on, too:
    outside of it the tensor cannot be written.
    """
    if not _some_mode_holds() or fake_or_recorded():
        return _NOTHING
    made_there = torch.is_inference_mode_enabled() and any(t.is_inference() for t in written if t is not None)
    return _without_modes(inference=made_there)


def fake_or_recorded() -> bool:
    """Whether one of torch's own modes is active in which tensors are fake, recorded or functional."""
    return any(getattr(mode, "_mode_key", None) is not None for mode in _get_current_dispatch_mode_stack())


def _some_mode_holds() -> bool:
    if torch.compiler.is_compiling():
        return False
    return torch.is_inference_mode_enabled() or torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _without_modes(*, inference: bool = False) -> Iterator[None]:
    with torch.inference_mode(inference), _disable_current_modes():
        yield
