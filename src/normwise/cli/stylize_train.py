"""`normwise stylize train`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .files import check_file
from .stopping import exit_code, terminable
from .stylize import FeaturesFrom, Force, Smoothness, StyleWeight

EPILOG = """Examples:

\b
  normwise stylize train photos/ --style wave.jpg --out wave.pt
  normwise stylize train photos/ --style wave.jpg --norm batch --out batch.pt
  normwise stylize train photos/ --style wave.jpg --style village.jpg --out two.pt
  normwise stylize train photos/ --style paintings/ --any --out any.pt

One style picture makes a net of one style, several a net of many: conditional instance normalization. With --any they
are examples, and the net paints in the style of any picture: adaptive instance normalization.

Every minute the style file is written, with a preview beside it (wave.preview.png). After Ctrl-C or a kill the same
command goes on. 600 steps of one photograph at 128 pixels took 105 seconds of a core; the time grows with the steps,
the batch size, and the square of the size.
"""

Photos = Annotated[
    list[Path], typer.Argument(metavar="PHOTOS", help="Photographs, or folders of them.", show_default=False)
]
Styles = Annotated[list[Path], typer.Option("--style", metavar="PATH", help="A picture or a folder; several times.")]
Out = Annotated[Path, typer.Option(metavar="FILE", help="The style file.")]
Any = Annotated[bool, typer.Option("--any", help="A net of any style.")]
Norm = Annotated[str, typer.Option(metavar="NAME", help="Of a net of one style: instance, batch, group, ...")]
Width = Annotated[int, typer.Option(metavar="N", help="Channels of the first layer.")]
Blocks = Annotated[int, typer.Option(metavar="N", help="Residual blocks.")]
Size = Annotated[int, typer.Option(metavar="N", help="Pixels of a crop's side.")]
StyleSize = Annotated[
    int | None,
    typer.Option(metavar="N", help="Longer side of the styles, which sizes strokes; by default twice the crop."),
]
Steps = Annotated[int, typer.Option(metavar="N", help="Batches to train on.")]
BatchSize = Annotated[int, typer.Option(metavar="N", help="Crops in a batch.")]
ContentWeight = Annotated[
    float | None, typer.Option(metavar="X", help="How much of the photograph stays; by default 4, with --any 1.")
]
LearningRate = Annotated[
    float | None, typer.Option(metavar="X", help="Of Adam, at the start; by default 1e-3, with --any 1e-4.")
]
StyleLoss = Annotated[str | None, typer.Option(metavar="NAME", help="gram or moments (the default of --any).")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the weights and the crops.")]


def stylize_train(
    photos: Photos,
    style: Styles,
    out: Out,
    any_style: Any = False,
    norm: Norm = "instance",
    width: Width = 32,
    blocks: Blocks = 5,
    size: Size = 192,
    style_size: StyleSize = None,
    steps: Steps = 2000,
    batch_size: BatchSize = 4,
    content_weight: ContentWeight = None,
    style_weight: StyleWeight = 10.0,
    smoothness: Smoothness = 0.1,
    style_loss: StyleLoss = None,
    learning_rate: LearningRate = None,
    features: FeaturesFrom = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Train a net that paints at once, on your photographs and your style pictures."""
    check_file(out)
    from ..comparison.terminal import make_console
    from ..style.console import Ticker, warnings_said
    from ..style.entry import chosen_features, train
    from ..style.photographs import listed
    from ..style.progress import preview_file, resume_file

    for path in (out, preview_file(out)):
        if path.exists() and not resume_file(out).exists() and not force:
            raise InputError(f"{path} exists; write --force to write over it, or another --out.")
    listed(photos, "photographs")
    listed(style, "style pictures")
    console = make_console()
    with warnings_said(console):
        known = chosen_features(features)
    console.print(f"Features: {known.description}", soft_wrap=True)
    try:
        with terminable(), Ticker(console) as ticker:
            train(
                photos,
                style,
                out,
                any_style=any_style,
                norm=norm,
                width=width,
                blocks=blocks,
                size=size,
                style_size=style_size,
                steps=steps,
                batch_size=batch_size,
                content_weight=content_weight,
                style_weight=style_weight,
                smoothness=smoothness,
                style_loss=style_loss,
                learning_rate=learning_rate,
                features=known,
                seed=seed,
                on_step=partial(ticker, out.name),
            )
    except KeyboardInterrupt as stop:
        there = f" {out} holds the style so far; the same command goes on." if out.exists() else ""
        console.print(f"Stopped.{there}", soft_wrap=True)
        raise typer.Exit(exit_code(stop)) from stop
    console.print(f"Written: {out}\nNext: normwise stylize PHOTO --net {out}", soft_wrap=True)
