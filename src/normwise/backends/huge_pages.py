"""Large outputs on huge pages.

The C library maps a large allocation afresh, and the kernel then clears and maps it page by page of 4 KB while
the output is written: that takes longer than the normalization itself. With ``madvise(MADV_HUGEPAGE)`` before the
first touch it happens in steps of 2 MB. Linux distributions leave transparent huge pages to those who ask
(``/sys/kernel/mm/transparent_hugepage/enabled`` says ``madvise``). Switched off by ``huge_pages(False)`` or by
NORMWISE_HUGE_PAGES=0 in the environment; the cost of leaving it on is at most 2 MB more memory per large tensor.
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
#: Smaller outputs come from memory that the process holds already, and contain no whole huge page to speak of.
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
    """Switch huge pages for large outputs on or off for the process, or only ask; returns what holds now."""
    global _enabled
    if enabled is not None:
        check_flag("huge_pages", "enabled", enabled)
        _enabled = enabled
    return _enabled


def system_huge_pages() -> str | None:
    """What the system does about transparent huge pages: "always", "madvise" or "never"; None where it does not say."""
    try:
        text = SYSTEM_FILE.read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


def empty_like(x: Tensor) -> Tensor:
    """`torch.empty_like` for what a kernel writes, on huge pages where it is large and not on a device."""
    # A function mode, such as that of `trace`, would take what is allocated here for a constant: a kernel fills it.
    if _function_modes():
        with torch._C.DisableTorchFunction():
            y = _empty_like(x)
    else:
        y = _empty_like(x)
    size = y.nbytes
    if size >= THRESHOLD and _enabled and _madvise is not None and y.is_cpu:
        start = y.data_ptr()
        first = -(-start // PAGE) * PAGE
        # A refusal (no such kernel option) leaves small pages: slower, not wrong.
        _madvise(first, (start + size) // PAGE * PAGE - first, _MADV_HUGEPAGE)
    return y
