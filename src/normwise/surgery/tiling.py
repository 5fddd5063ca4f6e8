"""`tiles`: evaluate a net on a large image tile by tile, without seams."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..core.arguments import check_input
from ..core.numbers import check_whole
from ..signal.inputs import device_of
from ..signal.modules import unwrapped
from .reach import overlap_for
from .segmentations import maps_fit
from .surveying import on_loan
from .tile_grid import Tile, joined, tiles_of
from .whole_image import Enough, WholeImage

CONSISTENCY = ("exact", "collect", "none")
_NAME = "tiles"


def tiles(
    model: nn.Module,
    image: Tensor,
    tile: int | Sequence[int] = 256,
    overlap: int = 32,
    consistency: str = "exact",
) -> Tensor:
    """Evaluate a net on an image tile by tile, with InstanceNorm and GroupNorm normalizing by the whole image.

    For images whose activations do not fit into memory. The model runs on each tile with ``overlap`` positions on every
    side, and the output of the tile's core is kept. Conditional and adaptive instance normalization are supported, with
    the condition that the model holds.

    Args:
        image: ``[N, C, *space]``.
        tile: the core's size, or one for each axis of space.
        overlap: the number of positions around the core; "exact" doubles it until it covers the receptive field.
        consistency: ``"exact"`` measures one normalizer after the other over the whole image, each with the known
            statistics of those before it: the output equals that for the whole image up to rounding. It takes about
            half as many passes as there are calls of normalizers. ``"collect"`` measures all of them in one pass, with
            separate statistics for each tile, and uses the pooled statistics in a second pass: nearly the same result,
            without seams. ``"none"`` normalizes each tile by its own statistics, with seams.

    The output, without a gradient, is on the model's device; the model and its modes are unchanged.

    Raises TypeError if the model is no module or the image no tensor; ValueError for a net whose output is no map of
    the image or has a size that is no whole factor of it, and with "exact" for a layer that depends on the whole image,
    which is named.

    The trap: it saves memory at the cost of more passes. LayerNorm over (C, H, W), squeeze-and-excitation and attention
    depend on the whole image, and "exact" raises an error for them.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU())
    >>> image = torch.randn(1, 1, 40, 50)
    >>> torch.allclose(tiles(net, image, tile=16, overlap=4), net(image), atol=1e-5)
    True
    """
    if consistency not in CONSISTENCY:
        raise ValueError(f"{_NAME}: consistency must be 'exact', 'collect' or 'none', received {consistency!r}.")
    check_input(image, _NAME)
    whole = unwrapped(model, _NAME)
    sizes = tuple(image.shape[2:])
    edges = tuple(tile) if isinstance(tile, Sequence) else (tile,) * len(sizes)
    if not sizes or len(edges) != len(sizes) or 0 in image.shape:
        raise ValueError(
            f"{_NAME}: the image must be [N, C, *space] with a tile size for each axis of space, received "
            f"{list(image.shape)} and tile={tile!r}."
        )
    for edge in edges:
        check_whole(_NAME, "tile", edge, 1)
    check_whole(_NAME, "overlap", overlap, 0)
    with on_loan(whole):
        if consistency == "exact":
            overlap = overlap_for(whole, image, edges, overlap)
        passes = _Passes(whole, image, tiles_of(sizes, edges, overlap))
        return {"exact": passes.exact, "collect": passes.collected, "none": passes.plain}[consistency]()


class _Passes:
    """Passes over all tiles; only inside `on_loan`."""

    def __init__(self, model: nn.Module, image: Tensor, parts: list[Tile]) -> None:
        self._model, self._image, self._parts = model, image, parts
        self._device = device_of(model)

    def _through(self, part: Tile) -> Tensor:
        with maps_fit(self._model, part):
            return self._model(part.cut(self._image).to(self._device))

    def plain(self) -> Tensor:
        return self._output(None)

    def exact(self) -> Tensor:
        statistics = WholeImage()
        with statistics.of(self._model):
            while True:
                self._measure(statistics, stop=True)
                if not statistics.pool():
                    return self._output(statistics)

    def collected(self) -> Tensor:
        statistics = WholeImage()
        with statistics.of(self._model):
            self._measure(statistics, stop=False)
            statistics.pool()
            return self._output(statistics)

    def _measure(self, statistics: WholeImage, *, stop: bool) -> None:
        for part in self._parts:
            statistics.begin(lambda x, part=part: part.core_of(x, "the input of a normalizer"), stop=stop)
            try:
                self._through(part)
            except Enough:
                pass
            else:
                if stop:
                    return  # there is no further normalizer, in any tile

    def _output(self, statistics: WholeImage | None) -> Tensor:
        outputs = []
        for part in self._parts:
            if statistics is not None:
                statistics.begin(lambda x: x, stop=False)
            y = self._through(part)
            if not isinstance(y, Tensor):
                raise ValueError(f"{_NAME}: the model's output must be a tensor, it is a {type(y).__name__}.")
            outputs.append(part.core_of(y, "the output").clone())
        return joined(outputs, self._parts)
