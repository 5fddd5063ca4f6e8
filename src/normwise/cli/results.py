"""The results of a comparison: report, files, and the summary in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from ..comparison import summarize, to_csv
from ..comparison.report.words import partial, rate_note
from ..comparison.storage import RESULTS
from ..comparison.terminal import show_result
from ..comparison.verdicts.next_step import next_step
from ..errors import InputError
from .files import STDOUT
from .repeating import command_of

REPORT = "report.html"


def show_and_write(
    console: Console,
    rows: list[dict[str, Any]],
    about: dict[str, Any],
    out: Path,
    json_file: Path | None = None,
    csv_file: Path | None = None,
) -> None:
    """Write the report and the other files, and show the result."""
    from ..comparison.report.page import write_report

    try:
        write_report(out / REPORT, rows, about, command_of(about["settings"], out))
    except OSError as error:
        raise InputError(
            f"{out / REPORT} cannot be written ({error.strerror}); make room, and write it with normwise report {out}."
        ) from error
    files = [("Report", out / REPORT)]
    if (out / RESULTS).is_file():
        files.append(("Rows", out / RESULTS))
    if csv_file:
        csv_file.write_text(to_csv(rows), encoding="utf-8")
        files.append(("CSV", csv_file))
    if json_file and json_file != STDOUT:
        json_file.write_text(json.dumps(rows), encoding="utf-8")
        files.append(("JSON", json_file))
    settings = about["settings"]
    summary = summarize(rows, settings.get("looks", 0))
    missing = partial(rows, about)
    step = next_step(bool(missing), about, summary, lambda changes: command_of(settings | changes, out))
    show_result(console, summary, files, step, missing, rate_note(about))
    if json_file == STDOUT:
        typer.echo(json.dumps(rows))
