"""Results on disk: one JSON line per finished run."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .. import files
from .settings import InputError

RESULTS = "results.jsonl"
TRIES = "learning_rates.jsonl"
SETTINGS = "settings.json"
LOCK = ".lock"


class Store:
    """The output folder of a sweep; a context manager that keeps every other process out of it.

    A line cut off by a kill is dropped when the folder is opened; all complete lines stay, whatever their settings.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[str] | None = None

    def __enter__(self) -> Store:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / LOCK).open("w")
        except OSError as error:
            raise InputError(
                f"out={str(self.folder)!r} cannot be written ({error.strerror}); choose another folder."
            ) from error
        if not files.lock(self._lock):
            self._lock.close()
            raise InputError(
                f"Another process is writing to {self.folder}; wait for it, or choose another output folder."
            )
        for name in (RESULTS, TRIES):
            files.drop_torn_line(self.folder / name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows by key."""
        return {row["key"]: row for row in read_rows(self.folder)}

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on disk when this returns."""
        self._append(RESULTS, row)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            files.append(file, json.dumps(row, allow_nan=False) + "\n")

    def tries(self) -> dict[str, dict[str, Any]]:
        """The learning rates tried so far, by key."""
        tries = {row["key"]: row for row in read_rows(self.folder, TRIES)}
        return {key: {name: value for name, value in row.items() if name != "key"} for key, row in tries.items()}

    def append_try(self, row: dict[str, Any]) -> None:
        """Add a learning rate that was tried; it is on disk when this returns."""
        self._append(TRIES, row)

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Replace the settings file as a whole."""
        files.replace(self.folder / SETTINGS, json.dumps(settings, indent=2))


def read_sweep(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The finished rows of the sweep that was last started in a folder, and what its `settings.json` holds.

    Raises InputError where the folder holds no sweep.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise InputError(
            f"{folder} holds no comparison: there is no {SETTINGS} in it. Name the folder that was given to "
            "`normwise compare --out`."
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        keys = dict.fromkeys(about["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not what this version of normwise writes; run the same `normwise compare` again, which repeats "
            "no finished run."
        ) from error
    rows = {row["key"]: row for row in read_rows(folder)}
    return [rows[key] for key in keys if key in rows], about


def read_rows(folder: Path, name: str = RESULTS) -> list[dict[str, Any]]:
    """The rows in an output folder, oldest first; a last line that was cut off is left out."""
    path = folder / name
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        row["key"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: line {number} is not a result of a run; remove the line or choose another output folder."
        ) from error
    return row
