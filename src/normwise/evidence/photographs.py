"""scikit-learn's two photographs for experiments: a temple and a flower, in pieces, in several kinds of weather."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from .classifying import Task

#: Functions of pixels in [0, 1] that show a piece by day, in haze, at night and in glare.
WEATHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "day": lambda x: x,
    "haze": lambda x: 0.3 * x + 0.55,
    "night": lambda x: 0.25 * x,
    "glare": lambda x: (1.8 * x + 0.1).clamp(max=1.0),
}
SIDE, PIECE, STEP = 240, 16, 8
HELD_OUT = 1 / 3


@lru_cache(maxsize=1)
def photographs() -> Tensor:
    """``[2, 3, 240, 360]``, RGB in [0, 1]."""
    from sklearn.datasets import load_sample_images

    pictures = [torch.from_numpy(image.copy()).permute(2, 0, 1) / 255 for image in load_sample_images().images]
    sizes = (SIDE, SIDE * 3 // 2)
    return torch.cat(
        [torch.nn.functional.interpolate(picture[None], sizes, mode="bilinear", antialias=True) for picture in pictures]
    )


def weather(by_weather: bool) -> Task:
    """Pieces to train on and their labels, the weather or the photograph, and held-out ones from the right third."""
    pictures = photographs()
    cut = round(pictures.shape[-1] * (1 - HELD_OUT)) // PIECE * PIECE
    random = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for part in (pictures[..., :cut], pictures[..., cut:]):
        pieces = part.unfold(2, PIECE, STEP).unfold(3, PIECE, STEP).permute(0, 2, 3, 1, 4, 5)
        scene = torch.arange(len(pieces)).repeat_interleave(pieces.shape[1] * pieces.shape[2])
        x = pieces.reshape(-1, 3, PIECE, PIECE)
        kind = torch.randint(len(WEATHERS), (len(x),), generator=random)
        changes = list(WEATHERS.values())
        x = torch.stack([changes[k](piece) for k, piece in zip(kind.tolist(), x, strict=True)])
        found += [(x - 0.5) / 0.25, kind if by_weather else scene]
    return Task(*found)


def scene_and_weather() -> Task:
    """The same pieces with a class for each photograph in each weather."""
    scenes, weathers = weather(by_weather=False), weather(by_weather=True)
    kinds = len(WEATHERS)
    return scenes._replace(y=kinds * scenes.y + weathers.y, y_test=kinds * scenes.y_test + weathers.y_test)
