"""The progress bar of the commands."""

from __future__ import annotations

from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Bar = TypeVar("Bar", bound="ProgressBar")


class ProgressBar:
    """A context manager: a bar in a terminal. Elsewhere it is not `live`, and draws nothing."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("")
        self.live = console.file.isatty() and not console.is_dumb_terminal

    def __enter__(self: Bar) -> Bar:
        if self.live:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self._bar.stop()

    def show(self, done: int, total: int, description: str) -> None:
        """Show the progress and the current task."""
        self._bar.update(self._task, completed=done, total=total, description=description)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, soft_wrap=True)
