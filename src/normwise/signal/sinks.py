"""The destinations of `watch`: a callback, a CSV file, TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .records import CSV_COLUMNS, Histogram, Trace, csv_row

Callback = Callable[[int, Trace], Any]
Target = Callback | str | PathLike[str] | Any
SCALARS = ("squared_mean", "variance", "dead_share", "gradient")


class Sink(Protocol):
    """Takes the trace of a step."""

    def write(self, step: int, trace: Trace) -> None: ...

    def close(self) -> None: ...


def sink_for(to: Target) -> Sink:
    """The sink for the argument ``to`` of `watch`. Raises TypeError for anything else."""
    if hasattr(to, "add_scalar"):
        return TensorBoard(to)
    if isinstance(to, (str, PathLike)):
        path = Path(to)
        return CsvFile(path) if path.suffix == ".csv" else TensorBoard(_writer(path), owned=True)
    if callable(to):
        return Function(to)
    raise TypeError(
        f"watch(to=...) takes a function of (step, trace), the path of a .csv file, a folder for TensorBoard or its "
        f"SummaryWriter; received {type(to).__name__}."
    )


class Function:
    def __init__(self, function: Callback) -> None:
        self._function = function

    def write(self, step: int, trace: Trace) -> None:
        self._function(step, trace)

    def close(self) -> None:
        pass


class CsvFile:
    """One line per step and tap, on disk after each step; an existing file is continued.

    Raises ValueError for a file with other columns.
    """

    def __init__(self, path: Path) -> None:
        columns = ("step", *CSV_COLUMNS)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > 0:
            with path.open(newline="", encoding="utf-8") as file:
                found = tuple(next(csv.reader(file)))
            if found != columns:
                raise ValueError(f"{path} has other columns ({', '.join(found)}); choose a new file.")
            self._file = path.open("a", newline="", encoding="utf-8")
        else:
            self._file = path.open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow(columns)

    def write(self, step: int, trace: Trace) -> None:
        csv.writer(self._file).writerows([step, *csv_row(tap)] for tap in trace.taps)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars ``blocks/variance/NAME`` and so on; histograms under ``blocks/histogram/NAME``."""

    def __init__(self, writer: Any, *, owned: bool = False) -> None:
        self._writer = writer
        self._owned = owned

    def write(self, step: int, trace: Trace) -> None:
        for tap in trace.taps:
            group = {"layer": "layers", "block": "blocks", "branch": "branches"}[tap.kind]
            for number in SCALARS:
                value = getattr(tap, number)
                if value is not None:
                    self._writer.add_scalar(f"{group}/{number}/{tap.name}", value, step)
            if tap.histogram is not None and tap.histogram.counts:
                self._write_histogram(f"{group}/histogram/{tap.name}", tap.histogram, step)

    def _write_histogram(self, tag: str, histogram: Histogram, step: int) -> None:
        counts, edges = np.array(histogram.counts), np.array(histogram.edges)
        centers = (edges[1:] + edges[:-1]) / 2
        self._writer.add_histogram_raw(
            tag,
            min=edges[0],
            max=edges[-1],
            num=int(counts.sum()),
            sum=float(counts @ centers),
            sum_squares=float(counts @ centers**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def close(self) -> None:
        if self._owned:
            self._writer.close()


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"watch(to={str(folder)!r}) writes TensorBoard files and needs the package tensorboard; install it, or "
            "pass the path of a .csv file or a function of (step, trace)."
        ) from error
    return SummaryWriter(str(folder))
