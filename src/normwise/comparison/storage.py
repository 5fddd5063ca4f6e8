"""Results on disk: one JSON line per finished run, a file for each process that writes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .. import files
from .settings import InputError

RESULTS = "results.jsonl"
TRIES = "learning_rates.jsonl"
SETTINGS = "settings.json"
STEP_TIMES = "step_times.jsonl"
# Lock files: which processes are active, which may begin, which runs are being done.
PRESENT, BEGINNING, CLAIMS = ".present", ".beginning", ".claims"


class Store:
    """The output folder of a sweep; a context manager.

    Processes with the same sweep share a folder: each writes its own files, and claims a run before it starts the run.
    A line that is incomplete because its process was killed is removed before the next one is written; all complete
    lines stay, whatever their settings.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = ExitStack()
        self._number = 0
        self.alone = True

    def __enter__(self) -> Store:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claims = self._opened(CLAIMS)
            with files.in_turn(self.folder / BEGINNING):
                self.alone = files.share(self._opened(PRESENT))
                self._number = self._own_number()
        except OSError as error:
            self._open.close()
            raise InputError(
                f"out={str(self.folder)!r} cannot be written ({error.strerror}); choose another folder."
            ) from error
        for name in (RESULTS, TRIES, STEP_TIMES):
            files.drop_torn_line(self.folder / self._own(name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def begin(self, about: dict[str, Any], keys: Sequence[str]) -> frozenset[str]:
        """Write the settings of the sweep, or join the sweep of other processes; returns the stamps of ignored rows.

        The ignored rows are the failed runs of earlier calls, which are done again.

        Raises InputError if other processes are doing another sweep in this folder.
        """
        with files.in_turn(self.folder / BEGINNING):
            if not self.alone and (self.folder / SETTINGS).is_file():
                there = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
                if there.get("keys") != list(keys):
                    raise InputError(
                        f"Another process is doing another comparison in {self.folder}; wait for it, or choose another "
                        "output folder."
                    )
                return frozenset(there["retried"])
            retried = sorted(stamp(row) for row in self.rows().values() if row.get("status") == "failed")
            settings = about | {"keys": list(keys), "retried": retried}
            with self._in_words():
                files.replace(self.folder / SETTINGS, json.dumps(settings, indent=2))
            return frozenset(retried)

    @contextmanager
    def claim(self, place: int) -> Iterator[bool]:
        """Try to reserve the run at this place of the plan until the block ends; False if another process has it."""
        mine = files.claim(self._claims, place)
        try:
            yield mine
        finally:
            if mine:
                files.give_up(self._claims, place)

    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows by key."""
        return rows_by_key(read_rows(self.folder))

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on disk when this returns."""
        self._append(RESULTS, row)

    def tries(self) -> dict[str, dict[str, Any]]:
        """The learning rates tried so far, by key."""
        return self._by_key(TRIES)

    def append_try(self, row: dict[str, Any]) -> None:
        """Add a learning rate that was tried; it is on disk when this returns."""
        self._append(TRIES, row)

    def step_times(self) -> dict[str, float | None]:
        """Step times that were measured before the runs, by key."""
        return {key: row["step_ms"] for key, row in self._by_key(STEP_TIMES).items()}

    def append_step_time(self, key: str, step_ms: float | None) -> None:
        """Add a step time; it is on disk when this returns."""
        self._append(STEP_TIMES, {"key": key, "step_ms": step_ms})

    def _by_key(self, name: str) -> dict[str, dict[str, Any]]:
        rows = {row["key"]: row for row in read_rows(self.folder, name)}
        return {key: {name: value for name, value in row.items() if name != "key"} for key, row in rows.items()}

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with self._in_words(), (self.folder / self._own(name)).open("a", encoding="utf-8") as file:
            files.append(file, json.dumps(row, allow_nan=False) + "\n")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn the errors of a full or missing disk into an InputError."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"out={str(self.folder)!r}: nothing more can be written there ({error.strerror}); the runs that it "
                "holds are kept. Make room, and start the same comparison again."
            ) from error

    def _own(self, name: str) -> str:
        return _numbered(name, self._number)

    def _own_number(self) -> int:
        """The number in the names of this process's files; no other process has the same."""
        for number in itertools.count():
            file = (self.folder / _numbered(".lock", number)).open("a")
            if files.lock(file):
                self._open.enter_context(file)
                return number
            file.close()
        raise AssertionError

    def _opened(self, name: str) -> IO[Any]:
        return self._open.enter_context((self.folder / name).open("a"))


def rows_by_key(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One row for each run: of several attempts the newest, and a failed one only if there is no other."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = found.get(row["key"])
        if known is None or _rank(row) >= _rank(known):
            found[row["key"]] = row
    return found


def _rank(row: Mapping[str, Any]) -> tuple[bool, str]:
    return row.get("status") != "failed", row.get("started") or ""


def stamp(row: Mapping[str, Any]) -> str:
    """Identifies one of several attempts at a run."""
    return f"{row['key']} {row.get('started')}"


def _numbered(name: str, number: int) -> str:
    """The first process's file has the plain name.

    >>> _numbered("results.jsonl", 0), _numbered("results.jsonl", 2)
    ('results.jsonl', 'results-2.jsonl')
    """
    stem, dot, ending = name.rpartition(".")
    if not number:
        return name
    return f"{stem}-{number}{dot}{ending}" if stem else f"{name}-{number}"


def read_sweep(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The finished rows of the sweep that was last started in a folder, and the content of its `settings.json`.

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
            f"{path} was not written by this version of normwise; run the same `normwise compare` again, which does "
            "not repeat finished runs."
        ) from error
    rows = rows_by_key(read_rows(folder))
    return [rows[key] for key in keys if key in rows], about


def read_sweeps(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The finished rows of one sweep in several folders, and the content of the first `settings.json`.

    Raises InputError where a folder holds no sweep, or another one.
    """
    found = [read_sweep(folder) for folder in folders]
    about = found[0][1]
    for folder, (_, other) in zip(folders, found, strict=True):
        if other["keys"] != about["keys"]:
            raise InputError(f"{folder} holds another comparison than {folders[0]}; name folders of one sweep.")
    rows = rows_by_key(row for part, _ in found for row in part)
    return [rows[key] for key in about["keys"] if key in rows], about


def read_rows(folder: Path, name: str = RESULTS) -> list[dict[str, Any]]:
    """The rows in an output folder, file by file, oldest first; a last line that was cut off is left out."""
    stem, _, ending = name.rpartition(".")
    others = [path for path in folder.glob(f"{stem}-*.{ending}") if path.stem[len(stem) + 1 :].isdigit()]
    rows = []
    for path in (folder / name, *sorted(others, key=lambda path: int(path.stem[len(stem) + 1 :]))):
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        rows += [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    return rows


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        row["key"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: line {number} is not a result of a run; remove the line or choose another output folder."
        ) from error
    return row
