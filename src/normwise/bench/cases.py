"""The measurements as plain data: a site in a net, and the cases that a grid makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .regimes import AS_IT_COMES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
LAYOUTS = ("contiguous", "channels_last")
#: Layers of rows ``[*, C]``; everything else normalizes maps ``[N, C, *space]``.
ROWS = ("token-layer", "token-rms")


@dataclass(frozen=True)
class Site:
    """A place in a net: the shape of its tensor, and the layers (names of `SUBJECTS`) to be measured there.

    ``epilogues`` are pairs of an activation and whether a residual is added; ``(None, False)`` is the layer alone.
    """

    net: str
    shape: tuple[int, ...]
    layers: tuple[str, ...]
    epilogues: tuple[tuple[str | None, bool], ...] = ((None, False),)


@dataclass(frozen=True)
class Case:
    """One cell of the grid. On a GPU ``threads`` is 0, and ``memory``, a setting of the CPU's allocator, is empty."""

    layer: str
    net: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    direction: str
    threads: int
    activation: str | None = None
    residual: bool = False
    memory: str = AS_IT_COMES

    def columns(self) -> dict[str, Any]:
        """The case as a row of the CSV file."""
        shape = "x".join(map(str, self.shape))
        return asdict(self) | {"shape": shape, "activation": self.activation or "", "residual": int(self.residual)}

    @property
    def last(self) -> bool:
        return self.layout == "channels_last"


COLUMNS = tuple(Case.__dataclass_fields__)


@dataclass(frozen=True)
class Axes:
    """The other axes of a grid."""

    dtypes: tuple[str, ...] = ("fp32", "bf16")
    layouts: tuple[str, ...] = LAYOUTS
    directions: tuple[str, ...] = ("forward", "both")
    threads: tuple[int, ...] = (1,)
    memory: tuple[str, ...] = (AS_IT_COMES,)


def expand(sites: Iterable[Site], axes: Axes, layers: Sequence[str] | None = None) -> Iterator[Case]:
    """Every case of the sites along the axes, of all layers or of some; a layout that a shape lacks is skipped.

    >>> site = Site("U-Net", (2, 64, 8, 8), ("batch",), ((None, False), ("relu", True)))
    >>> [(c.layout, c.activation) for c in expand([site], Axes(("fp32",), directions=("both",)))]
    [('contiguous', None), ('contiguous', 'relu'), ('channels_last', None), ('channels_last', 'relu')]
    """
    for threads in axes.threads:
        for site in sites:
            for dtype in axes.dtypes:
                for layout in axes.layouts:
                    for layer in site.layers:
                        if (layers and layer not in layers) or not _exists(layout, layer, site.shape):
                            continue
                        for direction in axes.directions:
                            for epilogue in site.epilogues:
                                cell = (layer, site.net, site.shape, dtype, layout, direction, threads, *epilogue)
                                # One after the other, so that the machine is in the same state for both.
                                yield from (Case(*cell, memory) for memory in axes.memory)


def _exists(layout: str, layer: str, shape: tuple[int, ...]) -> bool:
    return layout == "contiguous" or (layer not in ROWS and len(shape) in (4, 5))
