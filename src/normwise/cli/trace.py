"""`normwise trace`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from ..comparison import InputError
from ..comparison.contestants.models import first_line
from ..comparison.terminal import make_console
from ..signal import Trace, plot, predict
from ..signal import trace as measure
from ..signal.paper import paper_networks
from .files import STDOUT, check_file, made_folder
from .model_names import in_words, model_builder
from .numbers import shape_of
from .trace_tables import show

PAPER_INPUT = "8x3x128x128"
EPILOG = """Examples:

\b
  normwise trace --model nf_resnet50
  normwise trace --paper
  normwise trace --model old=code:old --model new=code:new --input 16x3x64x64
  normwise trace --model timm:resnet50 --model torchvision:vgg16_bn

MODEL is resnet50 or another depth, resnet50v2 (pre-activation), nf_resnet50, nf_regnet_b1, nfnet_f0 and so on,
timm:NAME, torchvision:NAME, or package.module:function, which is called without arguments. LABEL=MODEL names the line
in the pictures.

For each residual block: average channel squared mean, average channel variance, and the variance at the end of the
residual branch, as in Brock, De and Smith 2021, arXiv:2101.08692. BatchNorm measures its batch, SkipInit's gains are 1.
"""

Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="[LABEL=]MODEL", help="May be given several times.")
]
Paper = Annotated[
    bool, typer.Option("--paper", help="The paper's networks: BatchNorm before and after ReLU, none, NF.")
]
Depth = Annotated[int, typer.Option(metavar="N", help="Of the paper's networks.")]
Input = Annotated[
    str | None, typer.Option(metavar="SHAPE", help="Of Gaussian noise, such as 8x3x224x224; by default what fits.")
]
Gain = Annotated[float, typer.Option(metavar="X", help="Of SkipInit; at its initial 0 branches contribute nothing.")]
Prediction = Annotated[bool, typer.Option("--predict/--no-predict", help="Also show the prediction in the pictures.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the weights and the noise.")]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="For trace.html, trace.svg and trace.png.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also all numbers as JSON; - is stdout.")]


def trace(
    model: Models = None,
    paper: Paper = False,
    depth: Depth = 50,
    input: Input = None,
    skip_gain: Gain = 1.0,
    prediction: Prediction = True,
    seed: Seed = 0,
    out: Out = Path("results/trace"),
    json_file: Json = None,
) -> None:
    """Show what a network does to the mean and the variance of its signal, block by block."""
    sys.path.insert(0, os.getcwd())  # where package.module:function is looked up
    builders = _builders(model or [], paper, depth)
    shape = shape_of(input or (PAPER_INPUT if paper and not model else None))
    out = made_folder(out)
    check_file(json_file)
    console = make_console(stderr=json_file == STDOUT)
    traces: dict[str, Trace] = {}
    predicted: dict[str, Trace] = {}
    for label, make in builders.items():
        torch.manual_seed(seed)
        net = make()
        console.print(f"Measuring {label}", style="dim")
        traces[label] = _measured(label, net, shape, skip_gain, seed)
        if prediction:
            try:
                predicted[label] = predict(net, shape, skip_gain=skip_gain)
            except ValueError as error:
                console.print(f"No prediction for {label}: {error}", style="dim")
    show(console, traces, predicted)
    for name, path in _write(out, traces, predicted, _command(model or [], paper, depth, input, skip_gain, seed)):
        console.print(f"{name}: {path}", soft_wrap=True)
    if json_file is not None:
        _write_json(json_file, traces)


def _builders(models: list[str], paper: bool, depth: int) -> dict[str, Callable[[], nn.Module]]:
    builders: dict[str, Callable[[], nn.Module]] = {}
    if paper:
        builders |= {name: in_words(make) for name, make in paper_networks(depth).items()}
    for entry in models:
        label, equals, name = entry.partition("=")
        label, name = (label, name) if equals else (entry, entry)
        if label in builders:
            raise InputError(f"--model {entry}: {label!r} is given twice; write LABEL=MODEL with another label.")
        builders[label] = model_builder(name)
    if not builders:
        raise InputError("Say which network: --model nf_resnet50, for example, or --paper.")
    return builders


def _measured(label: str, net: nn.Module, shape: tuple[int, ...] | None, skip_gain: float, seed: int) -> Trace:
    try:
        measured = measure(net, shape, skip_gain=skip_gain, seed=seed)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        given = "the input chosen for it" if shape is None else f"input {'x'.join(map(str, shape))}"
        raise InputError(
            f"{label} does not take {given}: {first_line(error)} Give --input, the sizes of a batch that it takes."
        ) from error
    # The default gain applies to all models, so a note that a model has none is left out.
    return replace(measured, notes=tuple(note for note in measured.notes if not note.startswith("skip_gain")))


def _write(
    out: Path, traces: Mapping[str, Trace], predicted: Mapping[str, Trace], command: str
) -> list[tuple[str, Path]]:
    figure = plot(traces, predicted)
    page = out / "trace.html"
    page.write_text(figure.html(command), encoding="utf-8")
    files = [("Page", page), ("Picture", figure.save(out / "trace.svg"))]
    if find_spec("PIL") is not None:
        files.append(("Picture", figure.save(out / "trace.png")))
    return files


def _write_json(path: Path, traces: Mapping[str, Trace]) -> None:
    text = json.dumps({label: json.loads(trace.to_json()) for label, trace in traces.items()})
    if path == STDOUT:
        typer.echo(text)
    else:
        path.write_text(text, encoding="utf-8")


def _command(models: list[str], paper: bool, depth: int, input: str | None, skip_gain: float, seed: int) -> str:
    """The command line that repeats the pictures."""
    words = ["normwise", "trace", *(["--paper", "--depth", str(depth)] if paper else [])]
    for entry in models:
        words += ["--model", entry]
    words += ["--input", input] if input else []
    return shlex.join([*words, "--skip-gain", f"{skip_gain:g}", "--seed", str(seed)])
