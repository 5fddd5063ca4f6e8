"""The commands, and the options of `normwise` itself.

Only the module of the given command is imported, so help and usage errors do not need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

#: The line of each command in `normwise --help`; the module of the same name has its function and `EPILOG`.
COMMANDS = {
    "compare": "Find the normalizer for a model and its data.",
    "report": "Write the report of a comparison again.",
    "evidence": "Test the claims of articles on normalizers.",
    "convert": "Fold, swap, recalibrate or remove the normalizers of a model.",
    "bench": "Time every layer against torch's own.",
    "doctor": "Find the problems of a model, or of this machine.",
    "tune": "Measure which implementation is faster on this machine.",
    "explain": "Show what a normalizer does, and which one to use.",
    "trace": "Show what a network does to its signal.",
    "stylize": "Paint a photograph in the style of a painting.",
}
#: Commands of a command: the second word. Each is in a module `COMMAND_WORD`.
SUBCOMMANDS = {"stylize": ("train", "contrast")}


def make_app(arguments: list[str]) -> typer.Typer:
    """The application: the command in `arguments` with all its options, the other commands by name only."""
    app = typer.Typer(
        help="Normalization for PyTorch: choose it by measurement.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    asked_for, then = ([argument for argument in arguments if not argument.startswith("-")] + ["", ""])[:2]
    for name, short_help in COMMANDS.items():
        if name == asked_for and then in SUBCOMMANDS.get(name, ()):
            within = typer.Typer(rich_markup_mode=None)
            within.callback()(_not_asked_for)
            _add(within, then, f"{name}_{then}")
            app.add_typer(within, name=name)
        elif name == asked_for:
            _add(app, name, name, short_help)
        else:
            app.command(name, short_help=short_help)(_not_asked_for)
    return app


def _add(app: typer.Typer, name: str, file: str, short_help: str | None = None) -> None:
    """Add the command of a module; its function has the name of the module."""
    module = import_module(f".{file}", __package__)
    app.command(name, epilog=getattr(module, "EPILOG", None), short_help=short_help)(getattr(module, file))


def _not_asked_for() -> None:
    """A placeholder for a command that was not given."""


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
