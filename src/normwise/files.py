"""Files that a kill leaves whole and that one process writes at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` when the block ends, and is gone when it fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb+") as file:
            _to_disk(file)
        os.chmod(name, 0o644)  # temporary files are private; a report is not
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _to_disk(file: IO[str] | IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
