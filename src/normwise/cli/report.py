"""`normwise report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .files import STDOUT, Csv, Json, check_file

Folders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER...", help="What `normwise compare --out` was given; parts of one sweep.")
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="For the report; by default the first folder.")]


def report(folder: Folders, out: Out = None, json_file: Json = None, csv_file: Csv = None) -> None:
    """Write the report of a comparison again, from the runs that are finished in its folder.

    Nothing is trained: after a kill, or beside a sweep that is still running, it shows what is there. Several folders
    are the parts of one sweep that --shard made.
    """
    for file in (json_file, csv_file):
        check_file(file)
    from ..comparison.storage import read_sweeps
    from ..comparison.terminal import make_console
    from .results import show_and_write

    rows, about = read_sweeps(folder)
    if not rows:
        raise InputError(
            f"{folder[0]}: no run of the last comparison in it is finished, so there is nothing to report."
        )
    out = out or folder[0]
    out.mkdir(parents=True, exist_ok=True)
    show_and_write(make_console(stderr=json_file == STDOUT), rows, about, out, json_file, csv_file)
