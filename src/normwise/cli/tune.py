"""`normwise tune`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from ..backends.tunings import Tuning, stored
from ..backends.tunings.record import DIRECTIONS, to_data
from ..comparison.terminal import make_console
from ..tuning.command import tune as measured
from ..tuning.command import wanted
from .numbers import integers, words
from .stopping import INTERRUPTED

EPILOG = """Examples:

\b
  normwise tune
  normwise tune --threads 1,4,8 --dtypes fp32
  normwise tune --device cuda

The numbers are the time of torch's operator divided by that of a kernel, by the
number of values; torch's operator is chosen if the ratio is below 0.95. There
is no number where the difference is unclear, and the next size decides. The
result applies to processes that start afterwards with the same number of
threads. Without this command, the first process measures for later ones. With
NORMWISE_TUNING=0 in the environment all use the tunings of the package, and on
a GPU torch's operators.
"""

Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or cuda:1.")]
Threads = Annotated[str, typer.Option(metavar="NUMBERS", help="By default one, and all.")]
Dtypes = Annotated[str, typer.Option(metavar="NAMES", help="By default fp32, fp64; on a GPU fp32, bf16, fp16.")]
Json = Annotated[bool, typer.Option("--json", help="The same as JSON on stdout.")]


def tune(device: Device = "cpu", threads: Threads = "", dtypes: Dtypes = "", as_json: Json = False) -> None:
    """Measure on this machine whether kernels or torch's operators are faster.

    It measures each operation, layout, size and pass; this takes some seconds for each number of threads and dtype. On
    a GPU Triton compiles its kernels first, which takes minutes. The result is stored next to the compiled kernels.
    """
    used = stored.switched_on()
    what = wanted(device, words(dtypes), integers("--threads", threads, "1,2") if threads else ())
    try:
        found = []
        for tuning in measured(what):
            found.append(tuning)
            if not as_json:
                _show(tuning)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps([to_data(tuning) for tuning in found], indent=1))
        return
    for one in what:
        typer.echo(f"Stored: {one.path}")
    if used:
        typer.echo("They apply to processes that start from now on.")
    else:
        typer.echo(f"{stored.SWITCH}=0 is set: processes use the tunings of the package until it is unset.")


def _show(tuning: Tuning) -> None:
    console = make_console()
    threads = f", threads: {tuning.threads}" if tuning.threads else ""
    typer.echo(f"{tuning.machine}, {tuning.instructions}, {tuning.element}{threads}, torch {tuning.torch}")
    sizes = sorted({size for ratios in tuning.ratios.values() for size in ratios})
    rows = [("operation", "pass", *(f"2^{size}" for size in sizes), "choice")]
    for cell, ratios in tuning.ratios.items():
        operation, layout, graph = cell
        name = operation if layout == "contiguous" else f"{operation}, {layout}"
        numbers = (f"{ratios[size]:.2f}" if size in ratios else "" for size in sizes)
        rows.append((name, DIRECTIONS[graph], *numbers, tuning.choice(cell)))
    if console.is_terminal:
        console.print(_table(rows))
    else:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    typer.echo()


def _table(rows: list[tuple[str, ...]]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for name in rows[0]:
        table.add_column(justify="right" if name.startswith("2^") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
