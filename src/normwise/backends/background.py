"""What takes long and is done once on a machine: by a process in the background, while plain PyTorch serves.

Kernels that are not there yet are compiled, and measured against torch's operators.
"""

from __future__ import annotations

import atexit
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence

from . import build

#: The processes by the element type that they compile the kernels for.
_compiling: dict[str, subprocess.Popen[bytes]] = {}
#: Those that measure, which nothing waits for.
_measuring: list[subprocess.Popen[bytes]] = []

_log = logging.getLogger("normwise")


def compiling(element: str, then: Callable[[], Sequence[str]]) -> bool:
    """Whether the kernels for an element type are being compiled; begins it where they must be.

    What `build` shall do ``then``, see its `_run`, is waited for as well.
    """
    process = _compiling.get(element)
    if process is None and build.must_be_compiled(element):
        process = _begin(element, *then())
        if process is not None:
            _compiling[element] = process
            _log.warning(
                "Compiling the CPU kernels for %s in the background, once on this machine: about half a minute. Until "
                "then plain PyTorch serves; normwise.build_kernels() waits for them.",
                element,
            )
    return process is not None and process.poll() is None


def wait_for(element: str) -> None:
    """Until it is done, where they are being compiled."""
    if element in _compiling:
        _compiling[element].wait()


def is_anything_compiling() -> bool:
    """Whether kernels are still to come, so that what serves now is not what will."""
    return any(process.poll() is None for process in _compiling.values())


def measure(made: Sequence[str], what: str, *, wait: bool = False) -> None:
    """Have a file made, see `build`: what processes to come go by."""
    process = _begin("", *made)
    if process is None:
        return
    if wait:
        _log.warning("Measuring for %s which way is the faster one, once on this machine: some seconds.", what)
        process.wait()
    else:
        _measuring.append(process)
        _log.warning(
            "Measuring for %s in the background which way is the faster one, once on this machine: some seconds. This "
            "process goes by the tuning that is shipped; normwise.build_kernels() would have waited.",
            what,
        )


def _begin(*arguments: str) -> subprocess.Popen[bytes] | None:
    """In a session of its own, so that neither the end of this process nor its Ctrl-C stops it half-way."""
    if not (_compiling or _measuring):
        atexit.register(_leave)
    try:
        return subprocess.Popen(  # its reason is told when `build.load` meets the same
            [sys.executable, build.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None


def _leave() -> None:
    """They go on without us: what Popen would warn of."""
    for process in (*_compiling.values(), *_measuring):
        if process.poll() is None:
            process.returncode = 0
