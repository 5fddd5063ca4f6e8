"""`normwise doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..comparison import InputError
from ..comparison.terminal import make_console
from ..machine import NOTE, OK, PROBLEM
from ..machine_summary import MARKS, MachineReport, machine_report
from ..signal.diagnosis.findings import Findings
from .conversions import in_words

EPILOG = """Examples:

\b
  normwise doctor
  normwise doctor torchvision:resnet50 weights.pth --target onnx
  normwise doctor timm:resnet50 --batch-size 4 --world-size 8
  normwise doctor code:net weights.pt --data photos
  normwise doctor weights.safetensors

Without MODEL it examines the machine. MODEL and CHECKPOINT are as for `normwise convert`; MODEL may also be a
checkpoint alone, of which the numbers are examined. DATA is as there: without it the signal is that of noise.
"""

UNHEALTHY = 1
LOOKS = {OK: "green", NOTE: "dim", PROBLEM: "bold red"}

Model = Annotated[str | None, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)]
Checkpoint = Annotated[Path | None, typer.Argument(metavar="CHECKPOINT", help="Its weights.", show_default=False)]
Data = Annotated[str | None, typer.Option(metavar="DATA", help="Data for measuring the signal and the statistics.")]
BatchSize = Annotated[int | None, typer.Option(metavar="N", help="Samples in the batch of each process in training.")]
WorldSize = Annotated[int | None, typer.Option(metavar="N", help="Processes in training; by default 1.")]
Target = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where it goes: onnx, tensorrt, openvino, coreml, quantization.")
]
Json = Annotated[bool, typer.Option("--json", help="The same as JSON on stdout.")]


def doctor(
    model: Model = None,
    checkpoint: Checkpoint = None,
    data: Data = None,
    batch_size: BatchSize = None,
    world_size: WorldSize = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Find the problems of a model, and for each the call that fixes it; without MODEL, the problems of this machine.

    For the machine it compiles the C++ kernels if they are not compiled yet (10 to 60 seconds, once). The exit status
    is 1 if the machine has a problem or the model an error, and 0 otherwise.
    """
    if model is None:
        given = {"--data": data, "--batch-size": batch_size, "--world-size": world_size, "--target": target}
        about = next((name for name, value in given.items() if value is not None), None)
        if about is not None:
            raise InputError(f"{about} is about a model; write its name, as in normwise doctor torchvision:resnet18.")
        _machine(as_json)
    else:
        _model(model, checkpoint, data, batch_size, world_size, target, as_json)


def _machine(as_json: bool) -> None:
    report = machine_report()
    if as_json:
        typer.echo(report.to_json())
    else:
        _show(report)
    if not report.healthy:
        raise typer.Exit(UNHEALTHY)


def _model(
    model: str,
    checkpoint: Path | None,
    data: str | None,
    batch_size: int | None,
    world_size: int | None,
    target: str | None,
    as_json: bool,
) -> None:
    from .examining import examined  # imports nets and data, which the report on the machine does not need

    findings = in_words(lambda: examined(model, checkpoint, data, batch_size, world_size, target))
    if as_json:
        shown = [
            {"severity": f.severity, "rule": f.rule, "module": f.module, "what": f.what, "remedy": f.remedy}
            for f in findings
        ]
        found = {"model": findings.model, "findings": shown, "notes": findings.notes}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        typer.echo(str(findings))
    _exit_for(findings)


def _exit_for(findings: Findings) -> None:
    if findings.errors:
        raise typer.Exit(UNHEALTHY)


def _show(report: MachineReport) -> None:
    console = make_console()
    if console.is_terminal:
        console.print(_table(report))
        console.print(f"\n{report.summary}")
    else:
        typer.echo(str(report))


def _table(report: MachineReport) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, level, found, advice in report.checks:
        table.add_row(Text(MARKS[level], style=LOOKS[level]), name, found + (f"\n-> {advice}" if advice else ""))
    return table
