"""The C library's memory behind torch's tensors on the CPU, and how to make it keep freed memory.

glibc maps a block above 32 MB (at first also smaller ones) anew at every allocation and returns it to the system when
it is freed, so that the system clears and maps each of its pages again while the next tensor is written. That takes
several times as long as the write itself. It concerns every large tensor of the process, a convolution's as much as a
normalizer's. Huge pages (`huge_pages`) reduce the number of steps for outputs of this package's kernels. Kept memory
needs no such steps after its first use, for which huge pages still help.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable

import torch

#: The same settings as environment variables, for a program that cannot be changed.
VARIABLES = "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1 MALLOC_ARENA_MAX=1"
#: jemalloc, too, returns memory to the system by default.
JEMALLOC = "LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=dirty_decay_ms:-1"
#: Parameters of mallopt(3) by name: (number, value). Older glibc refuses an M_MMAP_THRESHOLD above 32 MB. Without
#: M_ARENA_MAX, threads other than the first have heaps of 64 MB, and blocks that do not fit are mapped all the same.
SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_ARENA_MAX": (-8, 1)}
_PREFIXES = ("GLIBC_TUNABLES", "MALLOC_", "MIMALLOC_", "TCMALLOC_", "THP_MEM_ALLOC_ENABLE")
# Small enough to come from the heap: freeing a mapped block would raise glibc's own threshold. Three sizes, since
# another thread may free the same amount in between.
_PROBES = (64 << 10, 80 << 10, 96 << 10)


def reuse_memory() -> dict[str, int]:
    """Make this process keep the memory of freed tensors for the next ones.

    Sets by glibc's ``mallopt`` ``M_MMAP_MAX = 0`` (no block is mapped separately), ``M_TRIM_THRESHOLD =
    -1`` (the heap never shrinks) and ``M_ARENA_MAX = 1`` (threads without a heap use the first one, since
    a heap of their own holds no block above 64 MB), and returns them by name. It applies to all allocations of the
    process: torch's own operators gain as much as this package's, or more.

    Call it once, before the first large tensor and before other threads start: a thread that has a heap keeps it, and
    blocks that are already allocated go back to the system when they are freed. The cost: memory stays with the process
    until it ends, and a mixture of sizes leaves gaps. `docs/performance.md` has measurements, and ``normwise doctor``
    measures your machine.
    Huge pages are used as before.

    It cannot be undone: only a new process has the old behaviour. Forked processes inherit it; others must call it
    themselves. ``malloc_trim(0)`` of the C library returns memory that is free at that moment.

    Raises RuntimeError where torch's memory does not come from glibc (macOS, Windows, musl, or a replacement such
    as jemalloc); the message says what to do there.

    >>> reuse_memory()  # doctest: +SKIP
    {'M_MMAP_MAX': 0, 'M_TRIM_THRESHOLD': -1, 'M_ARENA_MAX': 1}
    """
    reason = unavailable()
    if reason is not None:
        raise RuntimeError(f"reuse_memory() {reason}")
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    for name, (number, value) in SETTINGS.items():
        if mallopt(number, value) != 1:
            raise RuntimeError(
                f"reuse_memory() needs a C library that takes mallopt({name}, {value}), received a refusal from "
                f"{allocator()}; leave the call out, or start Python with {JEMALLOC}."
            )
    return {name: value for name, (_, value) in SETTINGS.items()}


def unavailable() -> str | None:
    """The reason why `reuse_memory` cannot work here, and what to do instead; None where it can."""
    if _serves_torch():
        return None
    advice = "leave the call out"
    if os.environ.get("LD_PRELOAD"):
        advice += "; tcmalloc keeps freed memory by itself, jemalloc with MALLOC_CONF=dirty_decay_ms:-1"
    elif sys.platform.startswith("linux") and _glibc_version() is None:
        advice += f", or start Python with {JEMALLOC}"
    return f"needs glibc's malloc behind torch, received memory from {allocator()}; {advice}."


def allocator() -> str:
    """The allocator of torch's CPU tensors and its settings in the environment, such as "glibc 2.36"."""
    if _serves_torch():
        name = f"glibc {_glibc_version()}"
    elif sys.platform.startswith("linux"):
        libraries = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
        name = " ".join(map(os.path.basename, libraries)) or "another allocator"
    else:
        name = f"{platform.system()}'s allocator"
    return ", ".join([name, *(f"{key}={os.environ[key]}" for key in sorted(os.environ) if key.startswith(_PREFIXES))])


def _glibc_version() -> str | None:
    try:
        version = ctypes.CDLL("libc.so.6").gnu_get_libc_version
    except (OSError, AttributeError):
        return None
    version.restype = ctypes.c_char_p
    return version().decode()


def _serves_torch() -> bool:
    """Whether glibc counts torch's allocations: another allocator may be preloaded, or linked into torch."""
    in_use = _bytes_in_use()
    if in_use is None:
        return False
    for size in _PROBES:
        before = in_use()
        block = torch.empty(size, dtype=torch.uint8, device="cpu")
        if in_use() - before >= block.nbytes:
            return True
    return False


def _bytes_in_use() -> Callable[[], int] | None:
    """A function for glibc's count of bytes in use, in heaps and mapped; None without glibc."""
    if _glibc_version() is None:
        return None
    libc = ctypes.CDLL("libc.so.6")
    # Before 2.33 glibc has only the function that counts in 32 bits.
    wide = hasattr(libc, "mallinfo2")
    kind = ctypes.c_size_t if wide else ctypes.c_int
    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    record = type("mallinfo", (ctypes.Structure,), {"_fields_": [(name, kind) for name in names]})
    function = libc.mallinfo2 if wide else libc.mallinfo
    function.restype = record

    def in_use() -> int:
        found = function()
        return found.uordblks + found.hblkhd

    return in_use
