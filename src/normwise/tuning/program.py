"""The process that measures one tuning of the CPU and writes it; `normwise.backends.tunings` starts it."""

from __future__ import annotations

import sys
from pathlib import Path

from normwise.backends.tunings.stored import write

from .measuring import measure


def main() -> None:
    """Measure and write; the arguments are an element type, a number of threads, and the file."""
    element, threads, path = sys.argv[1:]
    write(measure("cpu", element, int(threads)), Path(path))
