"""Which kernels serve a tensor.

A backend is one module with the same few functions: `unavailable`, `serves`, and the kernels `moments`,
`apply`, `backward_reduce`, `backward_apply`; `reference.py` is their specification. To add one: write the
module and name it in `_BACKENDS`. What else it has (`protocols.py`: `Fused`, `Rows`, `BoundRows`, `Squashing`,
`Responses`, `Formulas`, `Remembering`) is used where it is there, see `offering`; for one without `Responses`, as the
Triton kernels, the reference serves the layers that are not affine in ``x`` (EvoNorm, FilterResponseNorm with its
threshold).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor

from . import cpu, reference, triton_kernels
from .background import is_anything_compiling as is_anything_compiling
from .cpu_library import ELEMENTS, kernels, threads
from .protocols import Backend as Backend
from .protocols import BoundRows as BoundRows
from .protocols import DenseRows as DenseRows
from .protocols import Formulas as Formulas
from .protocols import Fused as Fused
from .protocols import Gradients as Gradients
from .protocols import Known as Known
from .protocols import ModulatedRows as ModulatedRows
from .protocols import Remembering as Remembering
from .protocols import Responses as Responses
from .protocols import Rows as Rows
from .protocols import RowsOfSums as RowsOfSums
from .protocols import RowTables as RowTables
from .protocols import Squashing as Squashing
from .protocols import Standardization as Standardization
from .tunings import Tuning, stored

_BACKENDS: dict[str, Backend] = {
    cpu.name: cpu,
    triton_kernels.name: triton_kernels,
    reference.name: reference,
}
_forced: ContextVar[Backend | None] = ContextVar("normwise_backend", default=None)


def available_backends() -> dict[str, str | None]:
    """Every backend by name, with the reason why it is not available or None.

    Asking compiles the C++ kernels, once on a machine.

    >>> available_backends()["reference"] is None
    True
    """
    return {name: backend.unavailable() for name, backend in _BACKENDS.items()}


def build_kernels(*dtypes: torch.dtype) -> dict[torch.dtype, str | None]:
    """Have the CPU kernels for these element types, by default all four: compile what is not there, and wait for it.

    Without this call the first normalization of a type on a machine begins to compile in the background, and plain
    PyTorch serves until that is done, half a minute later: the values of the same run before and after it differ by
    rounding. Call it where a run must give the same bits each time, and while an image for deployment is made.
    It also waits until it is measured, once for each number of threads, where kernels are the faster way (`normwise
    tune`), unless NORMWISE_TUNING=0.

    Returns for each type None, or the reason why there are no kernels; plain PyTorch serves it then.

    Raises ValueError for a type that no kernels exist for.

    >>> import torch
    >>> list(build_kernels(torch.float32))
    [torch.float32]
    """
    for dtype in dtypes:
        if dtype not in ELEMENTS:
            names = ", ".join(map(str, ELEMENTS))
            raise ValueError(f"There are kernels for {names}; received {dtype!r}.")
    wanted = dtypes or tuple(ELEMENTS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = {dtype: reason for dtype, (_, reason) in zip(wanted, pool.map(kernels, wanted), strict=True)}
    for dtype in wanted:  # one after the other: each would disturb the others
        if found[dtype] is None:
            stored.measure_first(ELEMENTS[dtype], threads())
    return found


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every tensor inside the ``with`` block by one backend, where its kernels take the tensor.

    The automatic choice may take torch's own operator where that is the fastest; a chosen backend always
    runs its own kernels, so ``use_backend("reference")`` is also how a result is checked. A tensor that they cannot
    take (an empty one, a subclass, another device) is left to the reference. ``"cpu"`` are the kernels in C++, compiled
    with the machine's own compiler (half a minute, then cached); ``"triton"`` are the kernels for CUDA
    tensors, which Triton compiles when a new kind of call first comes. The choice holds for the current
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


#: The backend chosen by `use_backend`, if any.
chosen = _forced.get


def forced() -> Backend | None:
    """The same, also for the compiler, which sees plain operations and no choice."""
    return None if torch.compiler.is_compiling() else chosen()


def select(x: Tensor) -> Backend:
    """The backend whose kernels serve ``x``: the chosen one; else those in C++, or on a GPU that was tuned Triton's."""
    chosen = forced()
    if chosen is not None:
        # What its kernels do not take, such as an empty tensor, is left to the specification.
        return chosen if chosen.serves(x) else reference
    if cpu.serves(x):
        return cpu
    if x.is_cuda and triton_kernels.serves(x) and tuning_of(x) is not None:
        return triton_kernels
    return reference


def tuning_of(x: Tensor) -> Tuning | None:
    """What says which way is the faster one for kernels on tensors such as ``x``, in this process."""
    element = ELEMENTS.get(x.dtype)
    if element is None:
        return None
    return stored.on_gpu(x.device, element) if x.is_cuda else stored.on_cpu(element, threads())


P = TypeVar("P")
_offered: dict[tuple[str, type], bool] = {}


def offering(backend: Backend, protocol: type[P]) -> P | None:
    """The backend itself where it has the functions of one of the protocols `Fused`, `Rows`, ..., otherwise None."""
    asked = (backend.name, protocol)
    if asked not in _offered:
        _offered[asked] = isinstance(backend, protocol)
    return backend if _offered[asked] else None  # type: ignore[return-value]


def responses_of(backend: Backend) -> Responses:
    """The backend itself where it serves responses, otherwise the reference."""
    return offering(backend, Responses) or reference  # type: ignore[type-abstract]
