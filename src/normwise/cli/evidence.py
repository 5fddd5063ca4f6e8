"""`normwise evidence`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .stopping import exit_code, terminable

EPILOG = """Examples:

\b
  normwise evidence                 the claims and their verdicts
  normwise evidence E17 --quick     one of them, at the reduced size
  normwise evidence --all --quick --jobs 2
"""

Number = Annotated[str | None, typer.Argument(metavar="[E...]", help="Which experiment to run, such as E17.")]
All = Annotated[bool, typer.Option("--all", help="Run every experiment.")]
Quick = Annotated[bool, typer.Option("--quick", help="At the reduced size, with fewer seeds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Claims and verdicts as JSON on stdout.")]
Jobs = Annotated[int, typer.Option(metavar="N", help="Number of processes that do runs at the same time.")]
Out = Annotated[
    Path, typer.Option(metavar="FOLDER", help="For rows and pictures; finished runs in it are not repeated.")
]


def evidence(
    number: Number = None,
    every: All = False,
    quick: Quick = False,
    as_json: AsJson = False,
    jobs: Jobs = 1,
    out: Out = Path("results/evidence"),
) -> None:
    """Test the claims of articles on normalizers: run an experiment, or list the claims with their verdicts.

    Each experiment has a rule for its verdict that was fixed before it ran. Ctrl-C and SIGTERM stop; the same command
    does the rest.
    """
    from ..comparison.terminal import make_console
    from ..evidence.catalogue import EXPERIMENTS, find_experiment
    from ..evidence.reading import judged, read_committed
    from ..evidence.showing import Progress, lines_of, write_pictures

    if number is not None and every:
        raise InputError(f"{number} and --all both say what to run; write one of them.")
    asked = None if number is None else find_experiment(number)
    if number is not None and asked is None:
        raise InputError(f"There is no experiment {number!r}; the experiments are {', '.join(EXPERIMENTS)}.")
    chosen = [asked] if asked is not None else list(EXPERIMENTS.values())
    console = make_console(stderr=as_json)
    if number is None and not every:
        verdicts = {experiment.number: read_committed(experiment) for experiment in chosen}
    else:
        from ..evidence.running import run_experiment

        verdicts = {}
        try:
            with terminable():
                for experiment in chosen:
                    progress = Progress(console, experiment)
                    rows = run_experiment(experiment, out, quick=quick, jobs=jobs, on_event=progress)
                    verdicts[experiment.number] = judged(experiment, rows)
                    write_pictures(experiment, rows, out, quick, console)
        except KeyboardInterrupt as stop:
            console.print("Stopped; the same command does the rest.")
            raise typer.Exit(exit_code(stop)) from stop
    if as_json:
        typer.echo(json.dumps([_plain(EXPERIMENTS[name], verdict) for name, verdict in verdicts.items()], indent=2))
        return
    console.print()
    for name, verdict in verdicts.items():
        for line in lines_of(EXPERIMENTS[name], verdict):
            console.print(line, soft_wrap=not os.isatty(1))


def _plain(experiment: object, verdict: object) -> dict[str, Any]:
    fields = ("number", "claim", "claim_ja", "said_in", "protocol", "rule")
    return {name: getattr(experiment, name) for name in fields} | {
        "outcome": getattr(verdict, "outcome", None),
        "sentence": getattr(verdict, "sentence", None),
    }
