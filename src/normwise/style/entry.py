"""`stylize` and `train`, for the command line and Python."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .feature_sources import WARNING, find_features
from .features import LEAST_SIDE, Features, check_style
from .losses import STYLE_LOSSES
from .optimizing import Painting, Weights, check_memory_for, optimize
from .painting import net_for, paint
from .photographs import listed
from .pictures import fitted, read_picture, resized
from .plan import Plan, check_plan, names_of
from .style_file import ANY, MANY, ONE, Style, load_style
from .training import Listener, run_training

Pixels = str | Path | Tensor
#: A function from a picture to its intermediate paintings: one for a net, many for optimization.
Painter = Callable[[Tensor], Iterator[Painting]]
#: The default longer side of an optimized picture, which takes minutes on two cores.
SIZE = 512


def stylize(
    content: Pixels,
    style: Pixels | Mapping[str, float] | None = None,
    *,
    net: str | Path | Style | None = None,
    size: int | None = None,
    steps: int = 150,
    content_weight: float = 1.0,
    style_weight: float = 10.0,
    smoothness: float = 0.1,
    style_loss: str = "gram",
    strength: float = 1.0,
    features: str | Path | Features | None = None,
    on_step: Callable[[Painting], None] | None = None,
) -> Tensor:
    """Paint a picture in the style of another, by optimization or in one pass by a trained net.

    Without ``net`` the pixels are optimized until their maps in a feature network match those of the content and the
    Gram matrices of the maps match those of the style: this works for any pair of pictures and takes minutes. With the
    file of a net from `train` a picture of any size takes seconds; above 1.5 million pixels it is painted in tiles.

    Args:
        content: a file, or RGB in [0, 1] ``[3, H, W]``.
        style: a picture, for optimization and nets of any style; the name of a style, or names and their weights
            ``{"wave": 0.7, "village": 0.3}``, for nets of many styles.
        net: a style file, or the result of `load_style`.
        size: the longer side in pixels; larger pictures are reduced to it. By default 512 for optimization, and the
            picture's own size for a net.
        steps, content_weight, style_weight, smoothness, style_loss: for optimization. The parts of the loss are
            relative to their targets, so weights have no unit. ``style_loss`` is "gram" or "moments" (means and
            standard deviations).
        strength: for nets of any style, 0 to 1.
        features: the feature network for optimization, as in `find_features`.
        on_step: called with the best picture so far after each step.

    Returns ``[3, H, W]`` in [0, 1].

    Raises `normwise.errors.InputError` (a ValueError) for files that cannot be found or read, and for arguments that do
    not fit each other.

    Sources: Gatys, Ecker and Bethge 2016 (CVPR); Johnson et al. 2016, arXiv:1603.08155; Ulyanov et al. 2016,
    arXiv:1607.08022; Dumoulin et al. 2016, arXiv:1610.07629; Huang and Belongie 2017, arXiv:1703.06868.

    The trap: strokes have the same size in pixels as in the style picture, so in a large photograph they look small;
    ``size`` changes that.

    >>> photo, painting = torch.rand(3, 40, 48), torch.rand(3, 32, 32)
    >>> stylize(photo, painting, steps=1, features=find_features("random")).shape
    torch.Size([3, 40, 48])
    """
    weights = Weights(content_weight, style_weight, smoothness)
    paint_it = painter(style, net, steps, weights, style_loss, strength, features)
    painting = None
    for painting in paint_it(pixels_of(content, size if size is not None or net is not None else SIZE)):
        if on_step is not None:
            on_step(painting)
    assert painting is not None
    return painting.pixels


def painter(
    style: Pixels | Mapping[str, float] | None,
    net: str | Path | Style | None,
    steps: int,
    weights: Weights,
    loss: str,
    strength: float,
    features: str | Path | Features | None,
) -> Painter:
    """A function that paints pictures, with everything that they share checked and read once; see `stylize`."""
    if net is not None:
        found = net if isinstance(net, Style) else load_style(net)
        if found.kind == ANY:
            if isinstance(style, Mapping):
                raise InputError("A net of any style takes a picture as style, not names.")
            picture = None if style is None else pixels_of(style, found.trained["style_size"])
            return partial(_at_once, net_for(found, picture=picture, strength=strength))
        if isinstance(style, Tensor):
            raise InputError("This net takes no picture as style; only one that was trained for any style does.")
        wanted = {str(style): 1.0} if isinstance(style, (str, Path)) else style
        return partial(_at_once, net_for(found, wanted=wanted, strength=strength))
    if style is None or isinstance(style, Mapping):
        raise InputError("Write --style and a picture to paint like, or --net and a style file.")
    if strength != 1.0:
        raise InputError(
            "The strength works with a net of any style only; for optimization write --content-weight and "
            "--style-weight."
        )
    _check_numbers(steps, weights, loss)
    pixels = pixels_of(style, None)
    check_style(pixels, "The style")
    known = chosen_features(features)
    return partial(_by_optimization, style=pixels, features=known, steps=steps, weights=weights, loss=loss)


def train(
    photos: str | Path | Sequence[str | Path],
    styles: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    any_style: bool = False,
    norm: str = "instance",
    width: int = 32,
    blocks: int = 5,
    size: int = 192,
    style_size: int | None = None,
    steps: int = 2000,
    batch_size: int = 4,
    content_weight: float | None = None,
    style_weight: float = 10.0,
    smoothness: float = 0.1,
    style_loss: str | None = None,
    learning_rate: float | None = None,
    features: str | Path | Features | None = None,
    seed: int = 0,
    on_step: Listener = lambda _: None,
) -> Style:
    """Train a net that paints in one pass, on your own photographs and style pictures, and write its style file.

    One style picture gives a net of one style, several give a net of many (conditional instance normalization); with
    ``any_style`` they are examples for a net of any style (AdaIN). The state is saved every minute: after an
    interruption, a call with the same arguments continues from there.

    Args:
        photos, styles: files, folders, or lists of them.
        out: the style file.
        norm: for a net of one style: any name of `make_norm`.
        width, blocks: channels of the first layer, residual blocks.
        size: the side of the training crops.
        style_size: the longer side to which style pictures are reduced, which determines the size of the strokes in
            pixels; by default twice that of the crops.
        content_weight: by default 4 against a ``style_weight`` of 10, and 1 for any style.
        style_loss: "gram" or "moments"; by default "gram", and "moments" for any style.
        learning_rate: of Adam; by default 1e-3, and 1e-4 for any style, whose decoder starts from fitted weights. The
            tables of many styles have ten times that rate.
        on_step: called after each step with a `Step`.

    The other arguments are those of `stylize`. Returns the same as `load_style` for the file.

    Raises InputError for files that cannot be read, arguments that do not fit, and a training that diverges.
    """
    sources, pictures = (
        listed([each] if isinstance(each, (str, Path)) else each, role)
        for each, role in ((photos, "photographs"), (styles, "style pictures"))
    )
    kind = ANY if any_style else ONE if len(pictures) == 1 else MANY
    loss = style_loss or ("moments" if any_style else "gram")
    plan = Plan(
        kind=kind,
        photos=tuple(sources),
        styles=tuple(pictures),
        names=names_of(pictures),
        norm=norm,
        width=width,
        blocks=blocks,
        size=size,
        style_size=style_size if style_size is not None else 2 * size,
        steps=steps,
        batch_size=batch_size,
        content_weight=content_weight if content_weight is not None else 1.0 if any_style else 4.0,
        style_weight=style_weight,
        smoothness=smoothness,
        loss=loss,
        learning_rate=learning_rate if learning_rate is not None else 1e-4 if any_style else 1e-3,
        seed=seed,
    )
    check_plan(plan)
    return run_training(plan, chosen_features(features), Path(out), on_step)


def pixels_of(picture: Pixels, size: int | None) -> Tensor:
    """``[3, H, W]`` of a file or a tensor, with a longer side of at most ``size``."""
    if size is not None and size < 1:
        raise InputError(f"--size {size}: write a whole number of at least 1.")
    if isinstance(picture, (str, Path)):
        return read_picture(picture, size).pixels
    if not (isinstance(picture, Tensor) and picture.dim() == 3 and picture.shape[0] == 3 and picture.numel()):
        received = list(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
        raise InputError(f"A picture must be a file or a tensor [3, H, W] of RGB in [0, 1], received {received}.")
    if not picture.is_floating_point():
        raise InputError(f"A picture must be floating, RGB in [0, 1], received {picture.dtype}; divide by 255.")
    pixels = picture.detach().float().cpu()
    height, width = pixels.shape[1:]
    if size is None or max(height, width) <= size:
        return pixels
    return resized(pixels.unsqueeze(0), fitted((height, width), size))[0]


def chosen_features(features: str | Path | Features | None) -> Features:
    """The features of `find_features`, with a warning if the weights are random although they were not chosen."""
    found = features if isinstance(features, Features) else find_features(features)
    if not found.trained and features is None:
        warnings.warn(WARNING, UserWarning, stacklevel=4)
    return found


def _at_once(net: torch.nn.Module, pixels: Tensor) -> Iterator[Painting]:
    yield Painting(1, 1, math.nan, math.nan, paint(net, pixels))


def _by_optimization(
    pixels: Tensor, *, style: Tensor, features: Features, steps: int, weights: Weights, loss: str
) -> Iterator[Painting]:
    height, width = pixels.shape[1:]
    if min(height, width) < LEAST_SIDE:
        raise InputError(
            f"The picture is {width}x{height} pixels; optimization needs at least {LEAST_SIDE} on each side. Write a "
            "larger picture, or use a net of `normwise stylize train`, which takes any size."
        )
    check_memory_for((width, height))
    return optimize(pixels, style, features, steps, weights, loss)


def _check_numbers(steps: int, weights: Weights, loss: str) -> None:
    if steps < 1:
        raise InputError(f"--steps {steps}: write a whole number of at least 1.")
    for name, value in weights._asdict().items():
        if not 0 <= value < math.inf:
            option = name if name == "smoothness" else f"{name}-weight"
            raise InputError(f"--{option} {value}: write a number of at least 0.")
    if loss not in STYLE_LOSSES:
        raise InputError(f"--style-loss {loss}: write {' or '.join(STYLE_LOSSES)}.")
