"""Calls in a child process: whatever they do to it, they do not do to the search."""

from __future__ import annotations

import faulthandler
import os
import pickle
import re
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import torch

from normwise.backends import cpu_library

from .call import Call
from .judge import Finding, judge

#: Seconds after which a child counts as one that hangs.
PATIENCE = 120.0
_BEGUN, _END = b".", b"\n"


def judged_apart(
    history: Sequence[Call], judge: Callable[[Call], Finding | None] = judge
) -> tuple[int, Finding] | None:
    """`judge` each of the calls in one child process, until there is a find: which call it is of.

    What a call leaves behind in the process meets the next one. A child that dies or hangs is a find.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _in_child(history, judge, writing, said.fileno())
        os.close(writing)
        begun, answer, status = _answer(child, reading)
        if answer is not None:
            finding = pickle.loads(answer)
        else:
            said.seek(0)
            finding = _dead(status, said.read().decode(errors="replace"))
    return None if finding is None else (max(begun - 1, 0), finding)


def _in_child(history: Sequence[Call], judge: Callable[[Call], Finding | None], writing: int, said: int) -> None:
    """Never returns: nothing of the parent may run twice. A byte says that a call begins."""
    try:
        os.dup2(said, 2)
        faulthandler.disable()  # which would speak elsewhere, and for long
        # No pool of threads was started before the fork, so that threads can be had here.
        cpu_library._forked = False
        finding = None
        for call in history:
            os.write(writing, _BEGUN)
            torch.set_num_threads(call.threads)
            finding = judge(call)
            if finding is not None:
                break
        os.write(writing, _END + pickle.dumps(finding))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(70)
    os._exit(0)


def _answer(child: int, reading: int) -> tuple[int, bytes | None, int]:
    """How many calls began, what the child wrote at its end or None, and how it ended."""
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
    begun, found, answer = content.partition(_END)
    return len(begun), answer if found and status == 0 else None, status


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
