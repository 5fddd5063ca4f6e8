"""Rows on disk: a CSV file to which one process at a time appends whole rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .. import files
from ..comparison.settings import InputError

Row = dict[str, str]


class Rows:
    """An open CSV file with these columns; a context manager that keeps every other process from writing to it.

    A last row that was cut off by a kill is dropped when the file is opened; all whole rows stay.

    Raises `InputError` for a file that cannot be written, that another process is writing to, or with other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        self._file: IO[str] | None = None

    def __enter__(self) -> Rows:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror}); choose another folder.") from error
        if not files.lock(self._file):
            self._file.close()
            raise InputError(f"Another process writes to {self.path}; wait for it, or choose another folder.")
        files.drop_torn_line(self.path)
        if self.path.stat().st_size == 0:
            self._write(self.columns)
        found = _header(self.path)
        if found != self.columns:
            self._file.close()
            raise InputError(f"{self.path} has other columns than this version writes; choose another folder.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def read(self) -> list[Row]:
        """All rows, oldest first."""
        return read_rows(self.path)

    def append(self, row: Mapping[str, Any]) -> Row:
        """Add a row, which is on disk when this returns; returns it as it will be read again."""
        text = {name: shown(row.get(name)) for name in self.columns}
        self._write(text.values())
        return text

    def _write(self, values: Any) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(values)
        assert self._file is not None
        files.append(self._file, line.getvalue())


def shown(value: Any) -> str:
    """A value in the form of the file: numbers with four digits, line ends as blanks (a row is one line).

    >>> shown(0.000123456), shown(None), shown(3)
    ('0.0001235', '', '3')
    """
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).splitlines())


def read_rows(path: Path) -> list[Row]:
    """All rows of a file; an empty list if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _header(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(next(csv.reader(file), ()))
