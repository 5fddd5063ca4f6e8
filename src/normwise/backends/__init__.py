"""The choice of the kernels that serve a tensor.

A backend is one module with the same few functions: `unavailable`, `serves`, and the kernels `moments`,
`apply`, `backward_reduce`, `backward_apply`; `reference.py` is their specification. To add one: write the
module and name it in `_BACKENDS`. Further functions (`protocols.py`: `Fused`, `Rows`, `BoundRows`, `Squashing`,
`Responses`, `Formulas`, `Remembering`) are used where a backend has them, see `offering`. The Triton kernels have no
`Responses`: for them the reference serves layers that are not affine in ``x`` (EvoNorm, FilterResponseNorm with its
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
    """Every backend by name, with None if it is available, otherwise the reason why it is not.

    The first call on a machine compiles the C++ kernels.

    >>> available_backends()["reference"] is None
    True
    """
    return {name: backend.unavailable() for name, backend in _BACKENDS.items()}


def build_kernels(*dtypes: torch.dtype) -> dict[torch.dtype, str | None]:
    """Compile the CPU kernels for these element types (by default all four) where they are missing, and wait for them.

    Without this call the first normalization of a dtype on a machine starts the compilation in the background. Plain
    PyTorch serves until the kernels are ready, half a minute later, and results before and after differ by rounding.
    Call it where a run must give the same bits each time, and when an image for deployment is built.
    It also waits until it has been measured, once for each number of threads, where kernels are faster than torch's
    operators (`normwise tune`), unless NORMWISE_TUNING=0.

    Returns for each dtype None, or the reason why there are no kernels for it; plain PyTorch then serves it.

    Raises ValueError for a dtype that has no kernels.

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
    for dtype in wanted:  # one after the other: measurements at the same time would disturb each other
        if found[dtype] is None:
            stored.measure_first(ELEMENTS[dtype], threads())
    return found


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every tensor inside the ``with`` block by one backend, if its kernels support the tensor.

    The automatic choice may use torch's own operator where that is the fastest; a chosen backend always
    runs its own kernels, so ``use_backend("reference")`` is also the way to check a result. A tensor that its kernels
    do not support (an empty one, a subclass, another device) is served by the reference. ``"cpu"`` names the kernels in
    C++, compiled with the machine's own compiler (half a minute, then cached); ``"triton"`` names the kernels for CUDA
    tensors, which Triton compiles at the first call of each kind. The choice holds for the current
    thread or task. The backward pass of a forward pass inside the block uses the same backend.

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
    """The chosen backend, in a form for the compiler, which sees plain operations and no choice."""
    return None if torch.compiler.is_compiling() else chosen()


def select(x: Tensor) -> Backend:
    """The backend that serves ``x``: the chosen one; otherwise the C++ kernels, or Triton's on a GPU that was tuned."""
    chosen = forced()
    if chosen is not None:
        # Tensors that its kernels do not support, such as empty ones, are served by the specification.
        return chosen if chosen.serves(x) else reference
    if cpu.serves(x):
        return cpu
    if x.is_cuda and triton_kernels.serves(x) and tuning_of(x) is not None:
        return triton_kernels
    return reference


def tuning_of(x: Tensor) -> Tuning | None:
    """The tuning in this process for tensors such as ``x``: whether kernels or torch's operators are faster."""
    element = ELEMENTS.get(x.dtype)
    if element is None:
        return None
    return stored.on_gpu(x.device, element) if x.is_cuda else stored.on_cpu(element, threads())


P = TypeVar("P")
_offered: dict[tuple[str, type], bool] = {}


def offering(backend: Backend, protocol: type[P]) -> P | None:
    """The backend itself if it has the functions of a protocol such as `Fused` or `Rows`, otherwise None."""
    key = (backend.name, protocol)
    if key not in _offered:
        _offered[key] = isinstance(backend, protocol)
    return backend if _offered[key] else None  # type: ignore[return-value]


def responses_of(backend: Backend) -> Responses:
    """The backend itself if it serves responses, otherwise the reference."""
    return offering(backend, Responses) or reference  # type: ignore[type-abstract]
