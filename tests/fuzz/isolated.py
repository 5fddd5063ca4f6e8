"""A call in a child process: whatever it does to itself, it does not do to the search."""

from __future__ import annotations

import os
import pickle
import re
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from normwise.backends import cpu_library

from .call import Call
from .judge import Finding, judge

#: Seconds after which a call counts as one that hangs.
PATIENCE = 120.0


def judged_apart(call: Call, judge: Callable[[Call], Finding | None] = judge) -> Finding | None:
    """`judge` in a child process. A child that dies or hangs is a find."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _in_child(call, judge, writing, said.fileno())
        os.close(writing)
        answer, status = _answer(child, reading)
        if answer is not None:
            return pickle.loads(answer)
        said.seek(0)
        return _dead(status, said.read().decode(errors="replace"))


def _in_child(call: Call, judge: Callable[[Call], Finding | None], writing: int, said: int) -> None:
    """Never returns: nothing of the parent may run twice."""
    try:
        os.dup2(said, sys.stderr.fileno())
        # No pool of threads was started before the fork, so that threads can be had here.
        cpu_library._forked = False
        torch.set_num_threads(call.threads)
        os.write(writing, pickle.dumps(judge(call)))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(70)
    os._exit(0)


def _answer(child: int, reading: int) -> tuple[bytes | None, int]:
    """What the child wrote, or None and how it ended."""
    end = time.monotonic() + PATIENCE
    content = b""
    while select.select([reading], [], [], max(end - time.monotonic(), 0))[0]:
        piece = os.read(reading, 1 << 16)
        if not piece:
            break
        content += piece
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return (content, status) if content and status == 0 else (None, status)


def _dead(status: int, said: str) -> Finding:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Finding("hangs", f"no answer after {PATIENCE:.0f} s")
    report = re.search(r"ERROR: AddressSanitizer: ([\w-]+)[^\n]*(?:\n(READ|WRITE) of size \d+)?", said)
    undefined = re.search(r"runtime error: ([^\n]*)", said)
    # The first frame of the kernels; of the C library's own functions there is nothing to be said.
    frame = re.search(r"#\d+ 0x\w+ in (?:\w+ )*?(nw[\w:<>]*)", said)
    place = frame.group(1) if frame else ""
    if report:
        return Finding("crash", " ".join(filter(None, report.groups())), place)
    if undefined:
        return Finding("crash", undefined.group(1), place)
    if os.WIFSIGNALED(status):
        return Finding("crash", signal.Signals(os.WTERMSIG(status)).name, place)
    return Finding("harness", said[-2000:] or f"exit code {os.WEXITSTATUS(status)}")
