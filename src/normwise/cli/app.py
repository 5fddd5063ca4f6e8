"""The commands, and the options of `normwise` itself.

Only the module of the command that was typed is imported: help and usage errors do without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

#: What `normwise --help` says of each command; the module of the same name has its function and `EPILOG`.
COMMANDS = {
    "compare": "Find the normalizer for a model and its data.",
    "report": "Write the report of a comparison again.",
    "evidence": "What articles claim of normalizers, tried, with verdicts.",
    "convert": "Fold, swap or recalibrate the normalizers of a trained model.",
    "bench": "Time every layer against torch's own.",
    "doctor": "Is everything here that makes it fast?",
    "trace": "Show what a network does to its signal.",
}


def make_app(arguments: list[str]) -> typer.Typer:
    """The application with the one command that `arguments` name in full, and the others by name."""
    app = typer.Typer(
        help="Normalization for PyTorch: choose it by measurement.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    asked_for = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, short_help in COMMANDS.items():
        if name == asked_for:
            module = import_module(f".{name}", __package__)
            app.command(name, epilog=getattr(module, "EPILOG", None), short_help=short_help)(getattr(module, name))
        else:
            app.command(name, short_help=short_help)(_not_asked_for)
    return app


def _not_asked_for() -> None:
    """In the place of a command that was not typed."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"normwise {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
]


def options(version: Version = False) -> None:
    """Normalization for PyTorch: choose it by measurement."""
