"""Memory as the allocator comes, and memory that is kept: what each is measured in, a process of its own.

`reuse_memory` cannot be undone, and what one regime has allocated must not serve the other.
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
    """Both, or where the allocator has no such setting, as it comes."""
    return (AS_IT_COMES,) if unavailable() else (AS_IT_COMES, REUSED)


def here(_memory: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Call the function in this process, whatever the regime."""
    return function(*arguments)


class Processes:
    """One process for each regime, started when it is first needed; a context manager that ends them.

    Where none of them is kept memory, everything runs in the caller's own process.
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
    def __init__(self, memory: str) -> None:
        # Started anew, not forked: a fork would inherit the caller's heap and its threads' locks.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._memory = memory
        self._process = context.Process(target=_serve, args=(theirs, memory))
        # Ctrl-C reaches every process of a terminal, and this one is the caller's to end: deaf from its first moment.
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
                "system had too little memory. The same command goes on behind it."
            ) from None
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, memory: str) -> None:
    """Answer calls until the other side is gone."""
    # Where that is not inherited.
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
        except Exception as error:  # it is the caller's
            pipe.send((None, error))
