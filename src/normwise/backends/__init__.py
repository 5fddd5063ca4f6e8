"""Which kernels serve a tensor.

A backend is one module with the same few functions: `unavailable`, `serves`, and the kernels `moments`,
`apply`, `backward_reduce`, `backward_apply`; `reference.py` is their specification. To add one: write the
module and name it in `_BACKENDS`. One that also has `standardize` and `standardize_backward`
does plain standardization in one kernel each way; the general path is their specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from normwise.core.activations import Activation
from normwise.core.moments import Moments

from . import cpu, reference


class Backend(Protocol):
    """The kernels over the big tensor; all tables are ``[N, C]`` in the statistics' dtype, any strides."""

    @property
    def name(self) -> str: ...

    def unavailable(self) -> str | None: ...

    def serves(self, x: Tensor) -> bool: ...

    def moments(self, x: Tensor, mask: Tensor | None) -> Moments: ...

    def apply(
        self,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        activation: Activation | None,
    ) -> Tensor: ...

    def backward_reduce(
        self,
        grad_y: Tensor,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        activation: Activation | None,
    ) -> tuple[Tensor, Tensor]: ...

    def backward_apply(
        self,
        grad_y: Tensor,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        activation: Activation | None,
        slope: Tensor | None,
        offset: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]: ...


@runtime_checkable
class Fused(Backend, Protocol):
    """A backend that also standardizes over plain pools in one kernel each way: measured, pooled, applied."""

    def standardize(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
        activation: Activation | None,
        known: Moments | None,
    ) -> tuple[Tensor, Moments]: ...

    def standardize_backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
        activation: Activation | None,
        moments: Moments,
        *,
        known: bool,
        values: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]: ...


_BACKENDS: dict[str, Backend] = {cpu.name: cpu, reference.name: reference}
# What serves without being asked for. The compiled kernels join when benchmarks/cpu.py shows them ahead of torch's
# operators in every cell, and when compiling them no longer takes a user by surprise.
_AUTOMATIC: tuple[Backend, ...] = (reference,)
_forced: ContextVar[Backend | None] = ContextVar("normwise_backend", default=None)


def available_backends() -> dict[str, str | None]:
    """Every backend by name, with the reason why it is not available or None.

    Asking compiles the C++ kernels, once on a machine.

    >>> available_backends()["reference"] is None
    True
    """
    return {name: backend.unavailable() for name, backend in _BACKENDS.items()}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every tensor inside the ``with`` block by one backend, where its kernels take the tensor.

    The automatic choice may take torch's own operator where that is the fastest; a chosen backend always
    runs its own kernels, so ``use_backend("reference")`` is also how a result is checked. A tensor that they cannot
    take (an empty one, a subclass, another device) is left to the reference. ``"cpu"`` are the kernels in C++, compiled
    with the machine's own compiler on first use (10 to 60 seconds, then cached). The choice holds for the current
    thread or task. The backward of a forward pass inside the block uses the same backend.

    Raises ValueError for an unknown name and RuntimeError, with the reason, for one that is not available
    on this machine.

    >>> import torch, normwise as nw
    >>> x = torch.randn(2, 8, 4, 4)
    >>> with use_backend("reference"):
    ...     y = nw.GroupNorm(4, 8)(x)
    >>> torch.allclose(y, nw.GroupNorm(4, 8)(x), atol=1e-6)
    True
    """
    if name not in _BACKENDS:
        raise ValueError(f"Unknown backend {name!r}; the backends are: {', '.join(_BACKENDS)}.")
    reason = _BACKENDS[name].unavailable()
    if reason is not None:
        raise RuntimeError(f"The backend {name!r} is not available: {reason}")
    token = _forced.set(_BACKENDS[name])
    try:
        yield
    finally:
        _forced.reset(token)


def forced() -> Backend | None:
    """The backend chosen by `use_backend`, if any; the compiler sees plain operations and no choice."""
    return None if torch.compiler.is_compiling() else _forced.get()


def select(x: Tensor) -> Backend:
    """The backend whose kernels serve ``x``: the chosen one, or the first of the automatic choice that can."""
    chosen = forced()
    if chosen is not None:
        # What its kernels do not take, such as an empty tensor, is left to the specification.
        return chosen if chosen.serves(x) else reference
    return next(b for b in _AUTOMATIC if b.serves(x))


_fused: dict[str, bool] = {}


def fused_for(x: Tensor) -> Fused | None:
    """The backend that serves ``x``, if it standardizes in one kernel."""
    backend = select(x)
    if backend.name not in _fused:
        _fused[backend.name] = isinstance(backend, Fused)
    return backend if _fused[backend.name] and backend.serves(x) else None  # type: ignore[return-value]
