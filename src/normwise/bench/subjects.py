"""The layers to measure: ours, torch's, and the paper's equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .. import layers
from ..core.activations import activation_named
from ..layers.normalizers import default_groups
from . import papers
from .cases import ROWS, Case

R_MAX, D_MAX = 3.0, 5.0
#: From channels (the last dimension, for rows), the number of spatial dimensions and options to a layer.
Make = Callable[..., nn.Module]


class Subject(NamedTuple):
    """One layer. ``native`` is torch's, ``paper`` the transcription; one of them is the baseline and the oracle."""

    title: str
    ours: Make
    native: Make | None = None
    paper: Make | None = None
    training: bool = True


class PixelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps, as nets write it with torch's operator: permute, normalize, permute."""

    def forward(self, input: Tensor) -> Tensor:
        rows = F.layer_norm(input.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return rows.movedim(-1, 1)


class PixelRMSNorm(nn.RMSNorm):
    """`PixelLayerNorm` with RMSNorm."""

    def forward(self, x: Tensor) -> Tensor:
        rows = F.rms_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.eps)
        return rows.movedim(-1, 1)


class Composed(nn.Module):
    """A layer, then the residual, then the activation; in place where torchvision's nets do so."""

    inner: nn.Module

    def __init__(self, layer: nn.Module, activation: str | None) -> None:
        super().__init__()
        self.inner, self.activation = layer, activation_named(activation)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self._before_activation(x, residual)
        if self.activation is None:
            return y
        return F.relu_(y) if self.activation.name == "relu" else self.activation.function(y)

    def _before_activation(self, x: Tensor, residual: Tensor | None) -> Tensor:
        y = self.inner(x)
        if residual is not None:
            y += residual
        return y

    def distance_to_kink(self, x: Tensor, residual: Tensor | None) -> Tensor | None:
        """The distance of each value from a jump of the derivative; None if there is no jump."""
        if self.activation is not None and self.activation.name in ("relu", "leaky_relu"):
            return self._before_activation(x, residual)
        own = getattr(self.inner, "distance_to_kink", None)
        return None if own is None else own(x)


def _of_rank(family: str, package: Any = layers, **fixed: Any) -> Make:
    return lambda channels, rank, **options: getattr(package, f"{family}{rank}d")(channels, **fixed, **options)


def _paper(layer_class: Callable[..., nn.Module]) -> Make:
    return lambda channels, _rank: layer_class(channels)


SUBJECTS = {
    "batch": Subject("BatchNorm", _of_rank("BatchNorm"), _of_rank("BatchNorm", nn)),
    "batch-eval": Subject("BatchNorm, eval", _of_rank("BatchNorm"), _of_rank("BatchNorm", nn), training=False),
    "group": Subject(
        "GroupNorm",
        lambda channels, _rank, **options: layers.GroupNorm(default_groups(channels), channels, **options),
        lambda channels, _rank: nn.GroupNorm(default_groups(channels), channels),
    ),
    "instance": Subject(
        "InstanceNorm", _of_rank("InstanceNorm", affine=True), _of_rank("InstanceNorm", nn, affine=True)
    ),
    "layer": Subject(
        "LayerNorm (C, space)",
        lambda channels, _rank, **options: layers.GroupNorm(1, channels, **options),
        lambda channels, _rank: nn.GroupNorm(1, channels),
    ),
    "token-layer": Subject(
        "LayerNorm, rows",
        lambda channels, _rank, **options: layers.LayerNorm(channels, **options),
        lambda channels, _rank: nn.LayerNorm(channels),
    ),
    "token-rms": Subject(
        "RMSNorm, rows",
        lambda channels, _rank, **options: layers.RMSNorm(channels, eps=1e-6, **options),
        lambda channels, _rank: nn.RMSNorm(channels, eps=1e-6),
    ),
    "pixel-layer": Subject(
        "LayerNorm2d",
        lambda channels, _rank, **options: layers.LayerNorm2d(channels, **options),
        lambda channels, _rank: PixelLayerNorm(channels, eps=1e-6),
    ),
    "pixel-rms": Subject(
        "RMSNorm2d",
        lambda channels, _rank, **options: layers.RMSNorm2d(channels, **options),
        lambda channels, _rank: PixelRMSNorm(channels, eps=1e-6),
    ),
    "switchable": Subject("SwitchableNorm", _of_rank("SwitchableNorm"), paper=_paper(papers.SwitchableNorm)),
    "batch-instance": Subject(
        "BatchInstanceNorm", _of_rank("BatchInstanceNorm"), paper=_paper(papers.BatchInstanceNorm)
    ),
    "renorm": Subject(
        "BatchRenorm",
        _of_rank("BatchRenorm", momentum=papers.MOMENTUM, r_max=R_MAX, d_max=D_MAX),
        paper=lambda channels, _rank: papers.BatchRenorm(channels, R_MAX, D_MAX),
    ),
    "filter-response": Subject(
        "FilterResponseNorm", _of_rank("FilterResponseNorm"), paper=_paper(papers.FilterResponseNorm)
    ),
    "evo-b0": Subject(
        "EvoNorm-B0",
        lambda channels, _rank: layers.EvoNormB0(channels),
        paper=_paper(papers.EvoNormB0),
    ),
    "evo-s0": Subject(
        "EvoNorm-S0",
        lambda channels, _rank: layers.EvoNormS0(channels, default_groups(channels)),
        paper=lambda channels, _rank: papers.EvoNormS0(channels, default_groups(channels)),
    ),
    "global-response": Subject(
        "GlobalResponseNorm",
        lambda channels, _rank: layers.GlobalResponseNorm(channels),
        paper=_paper(papers.GlobalResponseNorm),
    ),
}


def ours(case: Case) -> nn.Module:
    """The layer of this package, with residual and activation fused."""
    options = {} if case.activation is None else {"activation": case.activation}
    return SUBJECTS[case.layer].ours(*_size(case), **options)


def baselines(case: Case) -> dict[str, Composed]:
    """torch's layer and the paper's equation, if they exist, by column; the first one is the oracle."""
    subject = SUBJECTS[case.layer]
    makes = {"native": subject.native, "paper": subject.paper}
    return {name: Composed(make(*_size(case)), case.activation) for name, make in makes.items() if make is not None}


def _size(case: Case) -> tuple[int, int]:
    if case.layer in ROWS:
        return case.shape[-1], 0
    return case.shape[1], len(case.shape) - 2
