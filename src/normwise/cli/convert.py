"""`normwise convert`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..comparison import InputError
from ..comparison.terminal import make_console
from .checkpoints import check_out, save
from .conversions import folded, freed, in_words, recalibrated, swapped, unsynced
from .files import check_file
from .given_model import given_model
from .samples import DataOptions, check_options, example_for, training_samples

EPILOG = """Examples:

\b
  normwise convert torchvision:resnet18 weights.pth --fold --out folded.pt2
  normwise convert timm:resnet50 weights.safetensors --fold --out folded.pt
  normwise convert torchvision:resnet18 weights.pth --swap group --out new.pt
  normwise convert code:net weights.pt --recalibrate photos --out new.pt
  normwise convert code:net --unsync --out plain.pt
  normwise convert timm:resnet18 --normalizer-free --out free.pt
  normwise convert whole.pt --fold --out folded.pt2

MODEL is as for `normwise trace`: resnet50, timm:NAME, torchvision:NAME, or package.module:function, which is called
without arguments. CHECKPOINT is its state_dict, .pt, .pth or .safetensors. MODEL may also be a .pt or .pth file that
holds a whole model, of classes of torch.nn, torchvision, timm and normwise alone; no other code is run from a file.

NORM is a name such as group, group:8, layer or instance. Its γ and β are computed from the running statistics. For a
deep net the new function differs much from the old one: fine-tune the result; the measured drift is printed.

DATA is as for `normwise compare`: a folder with one directory per class, an .npz, .npy or .csv file, digits, or
package.module:function. The training split is used. Image folders, .npz files and digits are scaled to mean 0 and
variance 1 by channel; for a net that was trained on other values write a function.

The output file holds the state_dict of the new model; as .pt2 it holds the exported program, which runs without the
model's code, for other batch and image sizes if its graph allows. The state of --fold fits the model after
`normwise.fold`, that of --swap NORM the model after `normwise.swap(model, NORM, start="data-free")`,
that of --normalizer-free the model after `normwise.normalizer_free(model, example)`.
"""

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)]
Checkpoint = Annotated[Path | None, typer.Argument(metavar="CHECKPOINT", help="Its weights.", show_default=False)]
Fold = Annotated[bool, typer.Option("--fold", help="Fold BatchNorm and similar layers into their neighbours.")]
Swap = Annotated[str | None, typer.Option("--swap", metavar="NORM", help="Replace each normalizer by another one.")]
Recalibrate = Annotated[
    str | None, typer.Option("--recalibrate", metavar="DATA", help="Compute the running statistics from data.")
]
Unsync = Annotated[bool, typer.Option("--unsync", help="Convert SyncBatchNorm back to BatchNorm1d, 2d or 3d.")]
NormalizerFree = Annotated[bool, typer.Option("--normalizer-free", help="Remove the normalizers of a residual net.")]
Input = Annotated[
    str | None, typer.Option(metavar="SHAPE", help="Shape of the example, such as 2x3x224x224; the default fits.")
]
BatchSize = Annotated[int | None, typer.Option(metavar="N", help="With --recalibrate; by default 64.")]
ImageSize = Annotated[
    int | None,
    typer.Option(metavar="N", help="With --recalibrate: pixels per side; by default from model and files."),
]
Target = Annotated[
    str | None, typer.Option(metavar="NAME", help="With --recalibrate: the column of a table that holds the classes.")
]
Standardize = Annotated[
    bool, typer.Option("--standardize", help="With --recalibrate: scale each feature or channel of the data.")
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="Where the result goes: .pt, .pth, .safetensors or .pt2.")]


def convert(
    model: Model,
    checkpoint: Checkpoint = None,
    fold: Fold = False,
    swap: Swap = None,
    recalibrate: Recalibrate = None,
    unsync: Unsync = False,
    normalizer_free: NormalizerFree = False,
    input: Input = None,
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    target: Target = None,
    standardize: Standardize = False,
    out: Out = Path("converted.pt"),
) -> None:
    """Change a trained model and write the result, with a report of the measured errors."""
    asked = {"--fold": fold, "--swap NORM": swap is not None, "--recalibrate DATA": recalibrate is not None}
    asked |= {"--unsync": unsync, "--normalizer-free": normalizer_free}
    if sum(asked.values()) != 1:
        raise InputError(f"Say which conversion, one of: {', '.join(asked)}.")
    options = DataOptions(batch_size, image_size, target, standardize)
    _check_belonging(recalibrate is not None, input, options)
    check_options(options)
    check_out(out)
    check_file(out)
    net = given_model(model, checkpoint)
    if recalibrate is not None:
        samples = training_samples(net, recalibrate, options)
        example, work = samples.example, partial(recalibrated, net, samples)
    else:
        example = example_for(net, input)
        plain = folded if fold else unsynced if unsync else freed
        change = partial(swapped, norm=swap) if swap is not None else plain
        work = partial(change, net, example)
    converted = in_words(work)
    typer.echo(converted.report)
    in_words(lambda: save(converted.model, example, out))
    make_console().print(f"Written: {out}", soft_wrap=True)


def _check_belonging(recalibrates: bool, input: str | None, options: DataOptions) -> None:
    """Raise InputError for an option that the conversion does not use."""
    if recalibrates and input is not None:
        raise InputError("--input goes with every conversion but --recalibrate, where the data are the input.")
    if not recalibrates and options != DataOptions():
        given = next(name for name, value in options._asdict().items() if value != DataOptions._field_defaults[name])
        raise InputError(f"--{given.replace('_', '-')} goes with --recalibrate DATA.")
