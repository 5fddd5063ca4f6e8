"""`normwise compare`."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ..comparison import InputError, summarize, to_csv
from ..comparison import compare as run_comparison
from ..comparison.normalizer_free import NORMALIZER_FREE
from ..comparison.report.words import partial
from ..comparison.storage import RESULTS
from ..comparison.terminal import Progress, make_console, show_result
from ..layers.registry import map_normalizers
from . import INTERRUPTED
from .files import STDOUT, check_file

REPORT = "report.html"
NAMES = textwrap.fill(", ".join([*map_normalizers(), NORMALIZER_FREE]), 76, break_on_hyphens=False)
EPILOG = f"""Examples:

\b
  normwise compare
  normwise compare --data photos/ --model torchvision:resnet18 --image-size 64
  normwise compare --norms batch,group:8 --batch-sizes 4,32 --seeds 5
  normwise compare --model my_code:make_model --data my_code:make_data
  normwise compare --json - | jq '.[].test_accuracy'

MODEL is resnet8, resnet20 and so on, timm:NAME, torchvision:NAME or package.module:function, which may take norm,
in_channels and classes. DATA is digits, a folder with one directory of images per class, an .npz file, or
package.module:function, which returns a training and a test data set.

NAMES are separated by commas; group:8 is GroupNorm with 8 groups; nf is the normalizer-free counterpart of
resnet8, resnet20 and so on (it is left out with any other MODEL):

\b
{NAMES}
"""


def _text(value: Any) -> Any:
    """A list as the command line has it: "2,8,64"; everything else as it is."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


DEFAULT = {name: _text(of.default) for name, of in inspect.signature(run_comparison).parameters.items()}

Model = Annotated[str, typer.Option(metavar="MODEL", help="What to train; see below.")]
Data = Annotated[str, typer.Option(metavar="DATA", help="What to train it on; see below.")]
Norms = Annotated[str, typer.Option(metavar="NAMES", help="Normalizers to compare; see below.")]
BatchSizes = Annotated[str, typer.Option(metavar="NUMBERS", help="Batch sizes to train with, separated by commas.")]
Seeds = Annotated[int, typer.Option(metavar="N", help="Runs of each normalizer at each batch size.")]
Epochs = Annotated[int, typer.Option(metavar="N", help="Passes over the training split in each run.")]
LearningRate = Annotated[float, typer.Option(metavar="X", help="Peak at batch size 32 and above; less below.")]
WeightDecay = Annotated[float, typer.Option(metavar="X", help="On weights, not on biases or normalizers.")]
ImageSize = Annotated[int, typer.Option(metavar="N", help="Pixels per side for the images of a folder.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu or cuda; by default a GPU if there is one.")]
Out = Annotated[
    Path, typer.Option(metavar="FOLDER", help="For results and report; finished runs in it are not repeated.")
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also all rows as a JSON list; - is stdout.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also one line per run as CSV.")]


def compare(
    model: Model = DEFAULT["model"],
    data: Data = DEFAULT["data"],
    norms: Norms = DEFAULT["norms"],
    batch_sizes: BatchSizes = DEFAULT["batch_sizes"],
    seeds: Seeds = DEFAULT["seeds"],
    epochs: Epochs = DEFAULT["epochs"],
    learning_rate: LearningRate = DEFAULT["learning_rate"],
    weight_decay: WeightDecay = DEFAULT["weight_decay"],
    image_size: ImageSize = DEFAULT["image_size"],
    device: Device = None,
    out: Out = Path("results/compare"),
    json_file: Json = None,
    csv_file: Csv = None,
) -> None:
    """Train one model with each normalizer at each batch size, and say which one to use.

    For one seed every normalizer gets the same initial weights and order of the data, and the same learning rate
    and number of epochs; nf is a network with weights of its own. Ctrl-C stops with a report of the finished runs;
    the same command does the rest.
    """
    _check_files(json_file, csv_file)
    sys.path.insert(0, os.getcwd())  # where package.module:function is looked up
    progress = Progress(make_console(stderr=json_file == STDOUT))
    stopped = False
    try:
        with progress:
            run_comparison(
                model,
                data,
                norms=norms.split(","),
                batch_sizes=_integers("--batch-sizes", batch_sizes),
                seeds=seeds,
                epochs=epochs,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                image_size=image_size,
                device=device,
                out=out,
                on_event=progress,
            )
    except KeyboardInterrupt:
        stopped = True
    _finish(progress, out, json_file, csv_file)
    if stopped:
        raise typer.Exit(INTERRUPTED)


def _finish(progress: Progress, out: Path, json_file: Path | None, csv_file: Path | None) -> None:
    """Write the report and the other files, and show the result."""
    rows = progress.rows
    if not rows:
        progress.console.print("No run was finished, so there is nothing to report.")
        return
    from ..comparison.report.page import write_report

    write_report(out / REPORT, rows, progress.about, _command(progress.about["settings"], out))
    files = [("Report", out / REPORT), ("Rows", out / RESULTS)]
    if csv_file:
        csv_file.write_text(to_csv(rows), encoding="utf-8")
        files.append(("CSV", csv_file))
    if json_file and json_file != STDOUT:
        json_file.write_text(json.dumps(rows), encoding="utf-8")
        files.append(("JSON", json_file))
    show_result(progress.console, summarize(rows), files, partial(rows, progress.about))
    if json_file == STDOUT:
        typer.echo(json.dumps(rows))


def _check_files(*files: Path | None) -> None:
    """Raise before hours of training what would be in the way of their result."""
    if find_spec("plotly") is None:
        raise ModuleNotFoundError("the report needs plotly", name="plotly")
    for file in files:
        check_file(file)


def _integers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: write integers separated by commas, such as 2,8,64.") from error


def _command(settings: dict[str, Any], out: Path) -> str:
    """The command line that repeats a sweep whatever the defaults have become."""
    names = ("model", "data", "norms", "batch_sizes", "epochs", "learning_rate", "weight_decay", "image_size", "device")
    values = {name: _text(settings[name]) for name in names} | {"seeds": len(settings["seeds"]), "out": out}
    options = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return shlex.join(["normwise", "compare", *options])
