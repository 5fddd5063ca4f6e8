"""The commands, and the options of `normwise` itself."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from .bench import EPILOG as BENCH_EPILOG
from .bench import bench
from .compare import EPILOG, compare
from .convert import EPILOG as CONVERT_EPILOG
from .convert import convert
from .doctor import doctor
from .trace import EPILOG as TRACE_EPILOG
from .trace import trace

app = typer.Typer(
    help="Normalization for PyTorch: choose it by measurement.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=EPILOG, short_help="Find the normalizer for a model and its data.")(compare)
app.command(epilog=BENCH_EPILOG, short_help="Time every layer against torch's own.")(bench)
app.command(epilog=CONVERT_EPILOG, short_help="Fold or convert the normalizers of a trained model.")(convert)
app.command(short_help="Is everything here that makes it fast?")(doctor)
app.command(epilog=TRACE_EPILOG, short_help="Show what a network does to its signal.")(trace)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normwise {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
]


@app.callback()
def options(version: Version = False) -> None:
    """Normalization for PyTorch: choose it by measurement."""
