"""Hooks that exist only while a block runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Removes the hooks of these handles after the block, however it ends.

    >>> from torch import nn
    >>> layer = nn.Identity()
    >>> with hooked([layer.register_forward_hook(print)]):
    ...     len(layer._forward_hooks)
    1
    >>> len(layer._forward_hooks)
    0
    """
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
