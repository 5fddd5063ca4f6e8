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
    "convert": "Fold, swap, recalibrate or take out the normalizers of a model.",
    "bench": "Time every layer against torch's own.",
    "doctor": "What is wrong with a model, or with this machine?",
    "tune": "Measure which way is faster on this machine.",
    "explain": "Show what a normalizer does, and which one to use.",
    "trace": "Show what a network does to its signal.",
    "stylize": "Paint a photograph in the style of a painting.",
}
#: Commands of a command: the second word. Each is in a module `COMMAND_WORD`.
SUBCOMMANDS = {"stylize": ("train", "contrast")}


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


def _add(app: typer.Typer, name: str, room: str, short_help: str | None = None) -> None:
    """The command of a module, whose function is named as the module is."""
    module = import_module(f".{room}", __package__)
    app.command(name, epilog=getattr(module, "EPILOG", None), short_help=short_help)(getattr(module, room))


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
