"""Files that survive a killed process and that processes can share."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows: there a second process is not noticed
    fcntl = None


def lock(file: IO[Any]) -> bool:
    """Lock a file against all other processes until it is closed; whether that succeeded."""
    return fcntl is None or _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def share(file: IO[Any]) -> bool:
    """Share a file with other processes until it is closed; whether this process is the first."""
    if fcntl is None:
        return True
    alone = _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(file, fcntl.LOCK_SH)
    return alone


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """A block in which only one process runs at a time, in the order of their arrival."""
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(file: IO[Any], place: int) -> bool:
    """Lock one byte of a file against other processes; whether that succeeded. A process that dies loses its claims."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def give_up(file: IO[Any], place: int) -> None:
    """Release a claim."""
    if fcntl is not None:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


def _flock(file: IO[Any], how: int) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    return True


def append(file: IO[str], line: str) -> None:
    """Write a line, including its newline; it is on disk when this returns."""
    file.write(line)
    _to_disk(file)


def drop_torn_line(path: Path) -> None:
    """Remove bytes after the last newline, an unfinished row: a row and its newline are written together."""
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
    """A file to write to, which replaces ``path`` when the block ends, and is removed if the block fails."""
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


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, by a trial: permissions do not tell for every user and file system."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def make_folder(folder: Path) -> None:
    """Make a folder if there is none; raises InputError if files cannot be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); write another folder.") from error
    if not can_write(folder):
        raise InputError(f"{folder} cannot be written to; write another folder.")


def _to_disk(file: IO[str] | IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
