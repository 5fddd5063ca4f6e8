"""`normwise report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .files import STDOUT, Csv, Json, check_file

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="What `normwise compare --out` was given.")]


def report(folder: Folder, json_file: Json = None, csv_file: Csv = None) -> None:
    """Write the report of a comparison again, from the runs that are finished in its folder.

    Nothing is trained: after a kill, or beside a sweep that is still running, it shows what is there.
    """
    for file in (json_file, csv_file):
        check_file(file)
    from ..comparison.storage import read_sweep
    from ..comparison.terminal import make_console
    from .results import show_and_write

    rows, about = read_sweep(folder)
    if not rows:
        raise InputError(f"{folder}: no run of the last comparison in it is finished, so there is nothing to report.")
    show_and_write(make_console(stderr=json_file == STDOUT), rows, about, folder, json_file, csv_file)
