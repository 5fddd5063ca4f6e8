"""`normwise compare`."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .files import STDOUT, Csv, Json, check_file
from .help_of_compare import EPILOG as EPILOG
from .stopping import exit_code, terminable

Model = Annotated[
    str | None, typer.Option(metavar="MODEL", help="The model, see below; by default a small net for the task.")
]
Data = Annotated[str | None, typer.Option(metavar="DATA", help="The data, see below; by default digits.")]
TaskName = Annotated[str | None, typer.Option("--task", metavar="TASK", help="The task; see below.")]
Weights = Annotated[
    str | None, typer.Option(metavar="FILE", help="Begin with trained weights: a file, or pretrained; see below.")
]
Train = Annotated[str | None, typer.Option(metavar="TRAIN", help="Your own training function; see below.")]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The metric: rmse, mae or r2; dice or iou; f1 or accuracy. With --train NAME:max or NAME:min, where NAME "
        "is a key of the returned dict.",
    ),
]
Target = Annotated[str | None, typer.Option(metavar="NAME", help="The column of a table to predict.")]
Standardize = Annotated[bool, typer.Option("--standardize", help="Scale each feature or channel of the data.")]
BatchesBy = Annotated[
    str | None, typer.Option(metavar="KEY", help="Make each mini-batch of one group of samples; see below.")
]
Norms = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="The normalizers, see below; by default those that suit the task."),
]
BatchSizes = Annotated[str, typer.Option(metavar="NUMBERS", help="Batch sizes to train with, separated by commas.")]
Seeds = Annotated[int, typer.Option(metavar="N", help="Runs of each normalizer at each batch size.")]
Epochs = Annotated[
    int | None,
    typer.Option(metavar="N", help="Passes over the training split in each run; the default depends on the task."),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Peak at batch size 32 and above, less below; by default 0.6 of SGD and 0.003 of AdamW, a twelfth of that "
        "with --weights. With --train as given.",
    ),
]
Rates = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="Rates to choose from for each normalizer, on a validation part.")
]
WeightDecay = Annotated[float, typer.Option(metavar="X", help="On weights, not on biases or normalizers.")]
OptimizerName = Annotated[
    str | None,
    typer.Option("--optimizer", metavar="NAME", help="sgd (classification), adamw, or package.module:function."),
]
Schedule = Annotated[str | None, typer.Option(metavar="NAME", help="cosine, constant, or package.module:function.")]
Augmentation = Annotated[
    str | None, typer.Option("--augment", metavar="NAME", help="package.module:function that changes a training batch.")
]
Precision = Annotated[str, typer.Option(metavar="NAME", help="fp32, bf16, or on CUDA fp16: autocast.")]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", help="Read data sets again in each epoch, with N processes; else held in memory."),
]
TokenizerName = Annotated[
    str | None, typer.Option("--tokenizer", metavar="NAME", help="package.module:object for text; else characters.")
]
ImageSize = Annotated[
    int | None, typer.Option(metavar="N", help="Pixels per side for images; by default chosen from model and files.")
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu or cuda; by default a GPU if there is one.")]
UntilClear = Annotated[
    bool, typer.Option("--until-clear", help="Stop contestants that are clearly behind; --seeds is then the maximum.")
]
Budget = Annotated[str | None, typer.Option(metavar="TIME", help="Start no run that would end later, such as 30m.")]
Jobs = Annotated[int, typer.Option(metavar="N", help="Number of processes that do runs at the same time.")]
Shard = Annotated[
    str | None, typer.Option(metavar="K/N", help="Do the K-th of N parts; `normwise report FOLDERS` joins them.")
]
Ray = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster that does the runs: auto, local, ...")]
Watch = Annotated[bool, typer.Option("--watch", help="Also write the report while the sweep runs.")]
Out = Annotated[
    Path, typer.Option(metavar="FOLDER", help="For results and report; finished runs in it are not repeated.")
]


def compare(
    model: Model = None,
    data: Data = None,
    task: TaskName = None,
    weights: Weights = None,
    train: Train = None,
    metric: Metric = None,
    target: Target = None,
    standardize: Standardize = False,
    batches_by: BatchesBy = None,
    norms: Norms = None,
    batch_sizes: BatchSizes = "2,8,64",
    seeds: Seeds = 3,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    lrs: Rates = None,
    weight_decay: WeightDecay = 5e-4,
    optimizer: OptimizerName = None,
    schedule: Schedule = None,
    augment: Augmentation = None,
    precision: Precision = "fp32",
    workers: Workers = None,
    tokenizer: TokenizerName = None,
    image_size: ImageSize = None,
    device: Device = None,
    until_clear: UntilClear = False,
    budget: Budget = None,
    jobs: Jobs = 1,
    shard: Shard = None,
    ray: Ray = None,
    watch: Watch = False,
    out: Out = Path("results/compare"),
    json_file: Json = None,
    csv_file: Csv = None,
) -> None:
    """Train one model with each normalizer at each batch size, and recommend one.

    For one seed every normalizer gets the same initial weights and order of the data, and the same learning rate
    (except with --lrs) and number of epochs; nf is a separate network with its own weights. Ctrl-C and SIGTERM stop
    with a report of the finished runs; the same command does the rest.
    """
    sizes = _numbers("--batch-sizes", batch_sizes, int, "integers separated by commas, such as 2,8,64")
    rates = None if lrs is None else _numbers("--lrs", lrs, float, "numbers separated by commas, such as 0.1,0.3,0.6")
    name, direction = _metric(metric, bool(train))
    _check_files(json_file, csv_file)
    from ..comparison import compare as run_comparison
    from ..comparison.terminal import Progress, make_console
    from .results import show_and_write
    from .watching import Watching

    sys.path.insert(0, os.getcwd())  # where package.module:function is looked up
    progress = Progress(make_console(stderr=json_file == STDOUT))
    stopped = None
    try:
        with terminable(), progress:
            progress.rows = run_comparison(  # in the order of the plan, also where several processes did them
                model,
                data,
                task=task,
                weights=weights,
                train=train,
                metric=name,
                direction=direction,
                target=target,
                standardize=standardize,
                batches_by=batches_by,
                norms=None if norms is None else norms.split(","),
                batch_sizes=sizes,
                seeds=seeds,
                epochs=epochs,
                learning_rate=learning_rate,
                lrs=rates,
                weight_decay=weight_decay,
                optimizer=optimizer,
                schedule=schedule,
                augment=augment,
                precision=precision,
                workers=workers,
                tokenizer=tokenizer,
                image_size=image_size,
                device=device,
                until_clear=until_clear,
                budget=budget,
                jobs=jobs,
                shard=shard,
                ray=ray,
                out=out,
                on_event=Watching(progress, out) if watch else progress,
            )
    except KeyboardInterrupt as stop:
        stopped = stop
    if progress.rows:
        show_and_write(progress.console, progress.rows, progress.about, out, json_file, csv_file)
    else:
        progress.console.print("No run was finished, so there is nothing to report.")
    if stopped:
        raise typer.Exit(exit_code(stopped))


def _check_files(*files: Path | None) -> None:
    """Raise errors about the result files now, not after hours of training."""
    if find_spec("plotly") is None:
        raise ModuleNotFoundError("the report needs plotly", name="plotly")
    for file in files:
        check_file(file)


def _metric(text: str | None, own: bool) -> tuple[str | None, str | None]:
    """Name and direction of "rmse:min"; without a training function of the user the direction may be missing."""
    if text is None or (not own and ":" not in text):
        return text, None
    name, _, direction = text.rpartition(":")
    if not name or direction not in ("max", "min"):
        raise InputError(
            f"--metric {text}: write the name and whether more or less of it is better, as in accuracy:max or rmse:min."
        )
    return name, direction


def _numbers(option: str, text: str, kind: Any, form: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: write {form}.") from error
