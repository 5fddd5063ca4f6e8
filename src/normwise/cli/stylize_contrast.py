"""`normwise stylize contrast`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .stopping import exit_code, terminable
from .stylize import FeaturesFrom

EPILOG = """Examples:

\b
  normwise stylize contrast photo.jpg --photos photos/ --style wave.jpg
  normwise stylize contrast photo.jpg --photos photos/ --style wave.jpg --norms instance,group,batch --seeds 5

The distance of a contrast: how far the painting of the photograph at this contrast is from that at full contrast, where
1 is how far paintings of other photographs are. Nets that are finished in FOLDER are not trained again.
"""

Photo = Annotated[Path, typer.Argument(metavar="PHOTO", help="What is painted.", show_default=False)]
Photos = Annotated[list[Path], typer.Option("--photos", metavar="PATH", help="What is trained on; several times.")]
Style = Annotated[Path, typer.Option(metavar="FILE", help="The style's picture.")]
Norms = Annotated[str, typer.Option(metavar="NAMES", help="Normalizers, separated by commas.")]
BatchSizes = Annotated[str, typer.Option(metavar="NUMBERS", help="Batch sizes, separated by commas.")]
Seeds = Annotated[int, typer.Option(metavar="N", help="Nets of each normalizer and batch size.")]
Steps = Annotated[int, typer.Option(metavar="N", help="Of each training.")]
Size = Annotated[int, typer.Option(metavar="N", help="Pixels of a crop's side.")]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="For nets, rows and picture.")]


def stylize_contrast(
    photo: Photo,
    photos: Photos,
    style: Style,
    norms: Norms = "instance,batch",
    batch_sizes: BatchSizes = "1,4,16",
    seeds: Seeds = 2,
    steps: Steps = 200,
    size: Size = 64,
    features: FeaturesFrom = None,
    out: Out = Path("results/contrast"),
) -> None:
    """Does a painting depend on the photograph's contrast? With InstanceNorm no, with BatchNorm yes."""
    try:
        sizes = [int(each) for each in batch_sizes.split(",")]
    except ValueError as error:
        raise InputError(f"--batch-sizes {batch_sizes}: write whole numbers separated by commas.") from error
    from ..comparison.terminal import make_console
    from ..style.console import Ticker, warnings_said
    from ..style.contrast import ROWS, SHEET, contrast, table
    from ..style.entry import chosen_features
    from ..style.photographs import listed

    listed([photo, style], "pictures")
    listed(photos, "photographs")
    console = make_console()
    with warnings_said(console):
        known = chosen_features(features)
    try:
        with terminable(), Ticker(console) as ticker:
            rows = contrast(
                photo,
                photos,
                style,
                out,
                features=known,
                norms=norms.split(","),
                batch_sizes=sizes,
                seeds=seeds,
                steps=steps,
                size=size,
                on_net=lambda name: partial(ticker, name),
            )
    except KeyboardInterrupt as stop:
        console.print("Stopped; the same command goes on.")
        raise typer.Exit(exit_code(stop)) from stop
    console.print("\n".join(table(rows)), soft_wrap=True)
    console.print(f"Rows: {out / ROWS}\nPicture: {out / SHEET}", soft_wrap=True)
