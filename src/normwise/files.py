"""Files that a kill leaves whole and that one process writes at a time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: a second process is not noticed there
    fcntl = None


def lock(file: IO[str]) -> bool:
    """Keep every other process out until the file is closed; whether that succeeded."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def append(file: IO[str], line: str) -> None:
    """Write a line, its newline included; it is on disk when this returns."""
    file.write(line)
    _to_disk(file)


def drop_torn_line(path: Path) -> None:
    """A row and its newline are written together: bytes after the last newline are an unfinished write."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("rb+") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())


def replace(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            _to_disk(file)
        os.chmod(temporary, 0o644)  # temporary files are private; a report is not
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _to_disk(file: IO[str]) -> None:
    file.flush()
    os.fsync(file.fileno())
