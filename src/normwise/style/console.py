"""The output of `normwise stylize` in a terminal."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from ..progress_bar import ProgressBar
from .optimizing import Painting
from .training import Step

SECONDS_BETWEEN_LINES = 10.0


class Ticker(ProgressBar):
    """A progress bar in a terminal; elsewhere a line every ten seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._printed = time.monotonic()

    def __call__(self, task: str, step: Step | Painting) -> None:
        """Show a step: its task, its progress, and the losses if there are any."""
        losses = [f"{name} {x:.3f}" for name, x in (("content", step.content), ("style", step.style)) if x == x]
        line = ", ".join([task, *losses])
        if self.live:
            self.show(step.done, step.total, line)
        elif time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self.say(f"[{step.done}/{step.total}] {line}")


@contextmanager
def warnings_printed(console: Console) -> Iterator[None]:
    """Inside the block warnings of the package are printed as sentences."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        console.print(str(warning.message), soft_wrap=True)
