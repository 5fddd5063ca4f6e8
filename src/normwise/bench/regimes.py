"""The two memory regimes, the allocator's default and kept memory; each is measured in a process of its own.

`reuse_memory` cannot be undone, and memory that one regime has allocated must not serve the other.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from ..backends.allocator import reuse_memory, unavailable

AS_IT_COMES, REUSED = "as it comes", "reused"


def regimes() -> tuple[str, ...]:
    """Both regimes, or only the default one if the allocator has no such setting."""
    return (AS_IT_COMES,) if unavailable() else (AS_IT_COMES, REUSED)


def here(_memory: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Call the function in this process, whatever the regime."""
    return function(*arguments)


class Processes:
    """One process for each regime, started when it is first needed; a context manager that ends them.

    If kept memory is not among them, everything runs in the caller's own process.
    """

    def __init__(self, memories: Sequence[str]) -> None:
        self._own = REUSED not in memories
        self._started: dict[str, _Process] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started.values():
            process.end()

    def __call__(self, memory: str, function: Callable[..., Any], *arguments: object) -> Any:
        """The result of the function in the process of a regime; function, arguments and result are pickled."""
        if self._own:
            return here(memory, function, *arguments)
        if memory not in self._started:
            self._started[memory] = _Process(memory)
        return self._started[memory].call(function, *arguments)


class _Process:
    """A process that measures in one memory regime, and its pipe."""

    def __init__(self, memory: str) -> None:
        # Started anew, not forked: a fork would inherit the caller's heap and its threads' locks.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._memory = memory
        self._process = context.Process(target=_serve, args=(theirs, memory))
        # Ctrl-C reaches every process of a terminal; this one must ignore it from the start, since the caller ends it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        theirs.close()

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        self._pipe.send((function, arguments))
        try:
            result, error = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(
                f"The process that measured with memory {self._memory} ended with exit code {code}; -9 means that the "
                "system had too little memory. Repeat the same command to continue after this cell."
            ) from None
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, memory: str) -> None:
    """Answer calls until the other process closes the pipe."""
    # For systems where that setting is not inherited.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if memory == REUSED:
        reuse_memory()
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(*arguments), None))
        except Exception as error:  # it is raised again in the caller
            pipe.send((None, error))
