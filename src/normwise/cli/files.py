"""Files that the command line writes, and the options for the rows of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..files import can_write

STDOUT = Path("-")

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also all rows as a JSON list; - is stdout.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also one line per run as CSV.")]


def check_file(file: Path | None) -> None:
    """Raise InputError, before the work, for a file that cannot be written."""
    if file is None or file == STDOUT:
        return
    if file.is_dir() or not file.parent.is_dir() or not can_write(file.parent):
        raise InputError(f"{file} cannot be written: it must be a file in a folder that exists and can be written.")


def made_folder(out: Path) -> Path:
    """Create the folder ``--out`` if needed; `InputError` if that is impossible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}).") from error
    return out
