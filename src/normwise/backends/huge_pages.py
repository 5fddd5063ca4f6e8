"""Large outputs on huge pages.

The C library maps a large allocation anew, and the kernel then clears and maps it page by page of 4 KB while
the output is written: that takes longer than the normalization itself. With ``madvise(MADV_HUGEPAGE)`` before the
first write it happens in steps of 2 MB. Linux distributions give transparent huge pages only to programs that request
them (``/sys/kernel/mm/transparent_hugepage/enabled`` says ``madvise``). ``huge_pages(False)``, or NORMWISE_HUGE_PAGES=0
in the environment, switches them off; leaving them on costs at most 2 MB more memory per large tensor.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from normwise.core.numbers import check_flag

PAGE = 2 << 20
#: Smaller outputs come from memory that the process already holds, and contain hardly a whole huge page.
THRESHOLD = 2 * PAGE
SYSTEM_FILE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MADV_HUGEPAGE = 14

_enabled = os.environ.get("NORMWISE_HUGE_PAGES", "1") != "0"


def _bind():
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_madvise = _bind()
# Of torch's large modules, whose dictionaries a net's other work drives out of the caches: looked up once.
_function_modes = torch._C._len_torch_function_stack  # pyright: ignore[reportAttributeAccessIssue]
_empty_like = torch.empty_like


def huge_pages(enabled: bool | None = None) -> bool:
    """Switch huge pages for large outputs on or off for the process; returns whether they are on.

    None, the default, changes nothing.

    Raises TypeError for anything but True, False and None.

    >>> before = huge_pages()
    >>> huge_pages(False), huge_pages(before) == before
    (False, True)
    """
    global _enabled
    if enabled is not None:
        check_flag("huge_pages", "enabled", enabled)
        _enabled = enabled
    return _enabled


def system_huge_pages() -> str | None:
    """The system's setting for transparent huge pages: "always", "madvise" or "never"; None if it does not say."""
    try:
        text = SYSTEM_FILE.read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


def empty_like(x: Tensor) -> Tensor:
    """`torch.empty_like` for a kernel's output, on huge pages where it is large and on the CPU."""
    # A function mode, such as that of `trace`, would take this allocation for a constant, though a kernel fills it.
    if _function_modes():
        with torch._C.DisableTorchFunction():
            y = _empty_like(x)
    else:
        y = _empty_like(x)
    size = y.nbytes
    if size >= THRESHOLD and _enabled and _madvise is not None and y.is_cpu:
        start = y.data_ptr()
        first = -(-start // PAGE) * PAGE
        # If the system refuses (no such kernel option), small pages are used: slower, not wrong.
        _madvise(first, (start + size) // PAGE * PAGE - first, _MADV_HUGEPAGE)
    return y
