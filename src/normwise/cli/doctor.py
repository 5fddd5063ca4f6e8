"""`normwise doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..comparison.terminal import make_console
from ..doctor import NOTE, OK, PROBLEM, Check, examine, healthy

UNHEALTHY = 1
MARKS = {OK: "ok", NOTE: "-", PROBLEM: "!!"}
LOOKS = {OK: "green", NOTE: "dim", PROBLEM: "bold red"}

Json = Annotated[bool, typer.Option("--json", help="The same as JSON on stdout.")]


def doctor(as_json: Json = False) -> None:
    """Look at this machine and installation: is everything here that makes normwise fast?

    Compiles the C++ kernels if that has not happened here yet (10 to 60 seconds, once). The exit status is 1 where
    something is a problem, and 0 otherwise.
    """
    checks = examine()
    if as_json:
        found = {"healthy": healthy(checks), "checks": [check._asdict() for check in checks]}
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(checks)
    if not healthy(checks):
        raise typer.Exit(UNHEALTHY)


def _show(checks: list[Check]) -> None:
    console = make_console()
    if console.is_terminal:
        console.print(_table(checks))
    else:
        for name, level, found, advice in checks:
            typer.echo(f"{MARKS[level]:2}  {name:17}  {found}" + (f" -> {advice}" if advice else ""))
    problems = sum(check.level == PROBLEM for check in checks)
    said = f"{problems} problem{'' if problems == 1 else 's'}, marked {MARKS[PROBLEM]}." if problems else "No problem."
    console.print(f"\n{said}")


def _table(checks: list[Check]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, level, found, advice in checks:
        table.add_row(Text(MARKS[level], style=LOOKS[level]), name, found + (f"\n-> {advice}" if advice else ""))
    return table
