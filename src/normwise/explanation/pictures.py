"""The effect of a layer on two pictures: before and after, contrast, histograms, and the difference of the two."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..layers.registry import parse_norm
from ..style.pictures import Picture, as_image, read_picture, resized
from .in_double import in_double
from .samples import conditions, row_of

LONGEST, BINS = 180, 32
#: Makes a second picture from the first, as through a dirty window, with less contrast and a warm cast.
FADED, CAST = 0.35, (0.5, 0.42, 0.34)
PLACES = ("first ", "second")
CHANNELS = 3


class Effect(NamedTuple):
    """Two pictures ``[2, 3, H, W]`` before and after; ``same`` says that the second was made from the first.

    ``contrasts`` are the standard deviations of each before and after. ``apart`` is the distance of the two
    before and after: the root mean square of their difference in units of their contrast.
    """

    before: Tensor
    after: Tensor
    same: bool
    contrasts: tuple[tuple[float, float], tuple[float, float]]
    apart: tuple[float, float]

    def lines(self) -> list[str]:
        """The effect in words, for a terminal."""
        second = "the same, faded" if self.same else "the second"
        (a, b), (c, d) = self.contrasts
        return [
            f"contrast of the first picture {a:.2f} -> {c:.2f}, of {second} {b:.2f} -> {d:.2f}",
            f"difference of the two, in units of their contrast {self.apart[0]:.2f} -> {self.apart[1]:.2f}",
            *(f"before, {name}  {bars(one, self.before)}" for name, one in zip(PLACES, self.before, strict=True)),
            *(f"after,  {name}  {bars(one, self.after)}" for name, one in zip(PLACES, self.after, strict=True)),
        ]


def load_pictures(paths: list[Path]) -> tuple[Tensor, bool]:
    """Two pictures ``[2, 3, H, W]`` in [0, 1]; of one, or of scikit-learn's if none, the second is a faded copy."""
    if len(paths) > 2:
        raise InputError(f"{len(paths)} pictures were given; explain shows a batch of two.")
    first = read_picture(paths[0], LONGEST).pixels if paths else _sample()
    if len(paths) < 2:
        cast = torch.tensor(CAST).view(3, 1, 1)
        return torch.stack([first, FADED * (first - first.mean()) + cast]), True
    second = read_picture(paths[1], LONGEST).pixels
    height, width = first.shape[1:]
    return torch.stack([first, resized(second.unsqueeze(0), (height, width))[0]]), False


def _sample() -> Tensor:
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1).float() / 255
    height, width = pixels.shape[1:]
    return resized(pixels.unsqueeze(0), (round(LONGEST * height / width), LONGEST))[0]


def effect_on(name: str, pictures: Tensor, same: bool) -> Effect:
    """The effect of a fresh layer of a row on a batch of both in training; groups that do not divide 3 become 1."""
    row, number = parse_norm(name)
    if number is not None and row.name != "ghost" and CHANNELS % number:
        number = 1
    return through(row.make(CHANNELS, 2, number), pictures, same)


def through(layer: nn.Module, pictures: Tensor, same: bool) -> Effect:
    """The effect of a layer of three channels on two pictures."""
    row = row_of(layer)
    rows = row is not None and not row.of_maps
    x = pictures.double()
    x = x.movedim(1, -1) if rows else x
    with in_double(layer, 0.0, x.device) as renew, torch.no_grad():
        renew(1.0)
        by_style = row is not None and row.condition == "style"
        beside = (x.flip(0),) if by_style else conditions(layer, tuple(x.shape), x.device)  # each in the other's style
        y = layer(x, *beside)
    y = y[0] if isinstance(y, tuple) else y
    y = y.movedim(-1, 1) if rows else y
    contrasts = tuple(tuple(float(one.std(correction=0)) for one in pair) for pair in (pictures, y))
    return Effect(pictures, y.float(), same, contrasts, (_apart(pictures), _apart(y)))  # type: ignore[arg-type]


def _apart(pair: Tensor) -> float:
    contrast = pair.std(correction=0, dim=(1, 2, 3)).square().mean().sqrt()
    return float((pair[0] - pair[1]).square().mean().sqrt() / contrast.clamp_min(1e-12))


def shown(values: Tensor) -> Tensor:
    """Values of any range mapped to [0, 1], by one scale for both pictures, so that contrasts can be compared."""
    return (0.5 + (values - values.mean()) / (5 * values.std(correction=0)).clamp_min(1e-12)).clamp(0, 1)


def data_uri(pixels: Tensor) -> str:
    """A picture ``[3, H, W]`` in [0, 1] as a data URI for a page."""
    file = io.BytesIO()
    as_image(Picture(pixels)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def axis_of(pair: Tensor) -> tuple[float, float]:
    """The ends of the axis of both histograms of a pair: five standard deviations."""
    flat = pair.flatten().double()
    middle, half = float(flat.mean()), 2.5 * max(float(flat.std(correction=0)), 1e-12)
    return middle - half, middle + half


def histogram(values: Tensor, pair: Tensor) -> list[float]:
    """The bins of a histogram over the axis of a pair, as shares of the highest of the `BINS` bins.

    >>> pair = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> sum(histogram(pair[0], pair))
    2.0
    """
    counts = torch.histc(values.flatten().double(), BINS, *axis_of(pair))
    return (counts / counts.max().clamp_min(1)).tolist()


def bars(values: Tensor, pair: Tensor) -> str:
    """A histogram as a line of text, with the ends of its axis."""
    low, high = axis_of(pair)
    line = "".join(" ▁▂▃▄▅▆▇█"[round(8 * share)] for share in histogram(values, pair))
    return f"{low:6.2f} {line} {high:.2f}"
