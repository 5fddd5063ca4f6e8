"""Kernels that are not there yet are compiled by a process in the background, while plain PyTorch serves."""

from __future__ import annotations

import atexit
import logging
import subprocess
import sys

from . import build

#: The processes by the element type that they compile the kernels for.
_compiling: dict[str, subprocess.Popen[bytes]] = {}

_log = logging.getLogger("normwise")


def compiling(element: str) -> bool:
    """Whether the kernels for an element type are being compiled; begins it where they must be."""
    process = _compiling.get(element)
    if process is None:
        process = _begin(element) if build.must_be_compiled(element) else None
    return process is not None and process.poll() is None


def wait_for(element: str) -> None:
    """Until it is done, where they are being compiled."""
    if element in _compiling:
        _compiling[element].wait()


def is_anything_compiling() -> bool:
    """Whether kernels are still to come, so that what serves now is not what will."""
    return any(process.poll() is None for process in _compiling.values())


def _begin(element: str) -> subprocess.Popen[bytes] | None:
    """In a session of its own, so that neither the end of this process nor its Ctrl-C stops it half-way."""
    command = [sys.executable, build.__file__, element]
    try:
        process = subprocess.Popen(  # its reason is told when `build.load` meets the same
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    if not _compiling:
        atexit.register(_leave)
    _compiling[element] = process
    _log.warning(
        "Compiling the CPU kernels for %s in the background, once on this machine: about half a minute. Until then "
        "plain PyTorch serves; normwise.build_kernels() waits for them.",
        element,
    )
    return process


def _leave() -> None:
    """They go on without us: what Popen would warn of."""
    for process in _compiling.values():
        if process.poll() is None:
            process.returncode = 0
