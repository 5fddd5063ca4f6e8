"""Work of many seconds, done once on a machine by a background process while plain PyTorch serves.

The process compiles missing kernels and measures them against torch's operators.
"""

from __future__ import annotations

import atexit
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence

from . import build

#: The compiling processes, by the element type of their kernels.
_compiling: dict[str, subprocess.Popen[bytes]] = {}
#: The measuring processes, which nothing waits for.
_measuring: list[subprocess.Popen[bytes]] = []

_log = logging.getLogger("normwise")


def compiling(element: str, then: Callable[[], Sequence[str]]) -> bool:
    """Start compiling the kernels for an element type if they are missing; whether they are being compiled now.

    ``then`` gives a further job for the same process, see `build._run`, which is also waited for.
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
    """Wait until the kernels for an element type are compiled, if that has been started."""
    if element in _compiling:
        _compiling[element].wait()


def is_anything_compiling() -> bool:
    """Whether kernels are being compiled, so that the way of a call can still change."""
    return any(process.poll() is None for process in _compiling.values())


def measure(made: Sequence[str], what: str, *, wait: bool = False) -> None:
    """Have `build` make a file of measurements, which later processes use."""
    process = _begin("", *made)
    if process is None:
        return
    if wait:
        _log.warning("Measuring for %s which way is faster, once on this machine: some seconds.", what)
        process.wait()
    else:
        _measuring.append(process)
        _log.warning(
            "Measuring for %s in the background which way is faster, once on this machine: some seconds. This "
            "process uses the shipped tuning; normwise.build_kernels() would have waited for the measured one.",
            what,
        )


def _begin(*arguments: str) -> subprocess.Popen[bytes] | None:
    """Start a process in a session of its own, so that neither the end of this process nor its Ctrl-C stops it."""
    if not (_compiling or _measuring):
        atexit.register(_leave)
    try:
        return subprocess.Popen(  # without its messages: `build.load` reports the same reason
            [sys.executable, build.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None


def _leave() -> None:
    """Let the processes go on at exit without the warnings of Popen."""
    for process in (*_compiling.values(), *_measuring):
        if process.poll() is None:
            process.returncode = 0
