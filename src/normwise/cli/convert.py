"""`normwise convert`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from ..comparison import InputError
from ..comparison.terminal import make_console
from ..signal.inputs import default_input, gaussian
from ..surgery import fold, unsync
from ..surgery.report import Table, as_text
from .checkpoints import READABLE, check_out, load_weights, save
from .files import check_file
from .model_names import model_builder

EPILOG = """Examples:

\b
  normwise convert torchvision:resnet18 weights.pth --fold --out folded.pt2
  normwise convert timm:resnet50 weights.safetensors --fold --out folded.pt
  normwise convert code:net --unsync --out plain.pt

MODEL is as for `normwise trace`: resnet50, timm:NAME, torchvision:NAME, or package.module:function, which is called
without arguments. CHECKPOINT is its state_dict, .pt, .pth or .safetensors.

What is written is the state_dict of the new model; as .pt2 it is the exported program, which runs without the model's
code. The folded state fits the model after `normwise.fold`.
"""
SAMPLES = 2

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)]
Checkpoint = Annotated[Path | None, typer.Argument(metavar="CHECKPOINT", help="Its weights.", show_default=False)]
Fold = Annotated[bool, typer.Option("--fold", help="Write BatchNorm and its like into the layers around them.")]
Unsync = Annotated[bool, typer.Option("--unsync", help="SyncBatchNorm back to BatchNorm1d, 2d or 3d.")]
Input = Annotated[
    str | None, typer.Option(metavar="SHAPE", help="Of the example, such as 2x3x224x224; by default what fits.")
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="Where the result goes: .pt, .pth, .safetensors or .pt2.")]


def convert(
    model: Model,
    checkpoint: Checkpoint = None,
    fold: Fold = False,
    unsync: Unsync = False,
    input: Input = None,
    out: Out = Path("converted.pt"),
) -> None:
    """Change a trained model and write the result, once the change has been shown to be right."""
    chosen = [name for name, wanted in (("fold", fold), ("unsync", unsync)) if wanted]
    if len(chosen) != 1:
        raise InputError("Say which conversion, one of: --fold, --unsync.")
    check_out(out)
    check_file(out)
    net = _model(model, checkpoint)
    example = _example(net, input)
    converted, report = _in_words(lambda: CONVERSIONS[chosen[0]](net, example))
    console = make_console()
    typer.echo(report)
    _in_words(lambda: save(converted, example, out))
    console.print(f"Written: {out}", soft_wrap=True)


def _model(name: str, checkpoint: Path | None) -> nn.Module:
    if Path(name).suffix in READABLE:
        raise InputError(
            f"{name} holds weights and no model; write the model's name in front of it, as in torchvision:resnet18 "
            f"{name}."
        )
    sys.path.insert(0, os.getcwd())  # where package.module:function is looked up
    net = model_builder(name)()
    if checkpoint is not None:
        load_weights(net, checkpoint)
    return net.eval()


def _example(net: nn.Module, shape: str | None) -> Any:
    generator = torch.Generator().manual_seed(0)
    if shape is None:
        try:
            return default_input(net, generator)[0][:SAMPLES]
        except ValueError as error:
            raise InputError(f"Nothing says what {type(net).__name__} takes; write --input 2x3x224x224.") from error
    sizes = shape.lower().replace("×", "x").split("x")
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise InputError(f"--input {shape}: write the sizes of a batch, such as 2x3x224x224.")
    return gaussian(net, tuple(map(int, sizes)), generator)


def _in_words(work: Callable[[], Any]) -> Any:
    """What a tool says about a model that it cannot convert is for the user, too."""
    try:
        return work()
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def _fold(net: nn.Module, example: Any) -> tuple[nn.Module, str]:
    result = fold(net, example, inplace=True)
    return result.model, str(result)


def _unsync(net: nn.Module, example: Any) -> tuple[nn.Module, str]:
    before = {name: type(module).__name__ for name, module in net.named_modules()}
    plain = unsync(net, example)
    rows = [
        {"name": name or "the model", "was": before[name], "is": type(module).__name__}
        for name, module in plain.named_modules()
        if before.get(name, type(module).__name__) != type(module).__name__
    ]
    if not rows:
        raise InputError(f"{type(net).__name__} has no SyncBatchNorm; there is nothing to convert.")
    columns = {"name": "layer", "was": "was", "is": "is"}
    return plain, as_text(Table(f"unsync: {len(rows)} layers", columns, rows), 80)


CONVERSIONS = {"fold": _fold, "unsync": _unsync}
