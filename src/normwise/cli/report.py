"""`normwise report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .files import STDOUT, Csv, Json, check_file

Folders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER...", help="Folders of `normwise compare --out`; parts of one sweep.")
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="For the report; by default the first folder.")]


def report(folder: Folders, out: Out = None, json_file: Json = None, csv_file: Csv = None) -> None:
    """Write the report of a comparison again, from the finished runs in its folder.

    Nothing is trained. It also works after an interruption and while the sweep is still running. Several folders are
    the parts of one sweep with --shard.
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
