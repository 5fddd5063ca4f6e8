"""What `normwise stylize` shows in a terminal."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .optimizing import Painting
from .training import Step

SECONDS_BETWEEN_LINES = 10.0


class Ticker:
    """A progress bar in a terminal; elsewhere a line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("")
        self._live = console.file.isatty() and not console.is_dumb_terminal
        self._said = time.monotonic()

    def __enter__(self) -> Ticker:
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._bar.stop()

    def __call__(self, what: str, step: Step | Painting) -> None:
        """Take in a step: of what, how far, and the losses of its picture where there are some."""
        done, total = step.done, step.total
        losses = [f"{name} {x:.3f}" for name, x in (("content", step.content), ("style", step.style)) if x == x]
        said = ", ".join([what, *losses])
        if self._live:
            self._bar.update(self._task, completed=done, total=total, description=said)
        elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self.say(f"[{done}/{total}] {said}")

    def say(self, line: str) -> None:
        """A line of its own."""
        self.console.print(line, soft_wrap=True)


@contextmanager
def warnings_said(console: Console) -> Iterator[None]:
    """What the package warns of in the block is printed as a sentence."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        console.print(str(warning.message), soft_wrap=True)
