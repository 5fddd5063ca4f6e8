"""The report of a comparison that is still running."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..comparison import Event, RunFinished
from ..comparison.storage import read_sweep
from .results import REPORT, command_of

#: Seconds after which a browser loads the page again, and the least seconds between two writes.
REFRESH, LEAST = 20, 10.0
#: Writing takes at most this share of the time.
SHARE = 0.05


class Watching:
    """Passes events on to a listener, and writes the report of the runs in `out` whenever one has finished."""

    def __init__(self, listener: Callable[[Event], None], out: Path) -> None:
        self.listener, self.out = listener, out
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        self.listener(event)
        if isinstance(event, RunFinished) and time.monotonic() >= self._next:
            begin = time.monotonic()
            with suppress(OSError):  # a page that cannot be written now is no reason to end the sweep
                self._write()
            end = time.monotonic()
            self._next = end + max(LEAST, (end - begin) / SHARE)

    def _write(self) -> None:
        from ..comparison.report.page import write_report

        rows, about = read_sweep(self.out)
        write_report(self.out / REPORT, rows, about, command_of(about["settings"], self.out), REFRESH)
