"""The plan of a training: its settings, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..layers import make_norm
from ..nets.style import REDUCTION
from .features import LEAST_SIDE, Features
from .losses import STYLE_LOSSES
from .style_file import ANY, KINDS, MANY, ONE

#: From maps at a quarter of the resolution (relu3_1) a decoder is trained in minutes, from an eighth in days.
ENCODER_LAYER = "relu3_1"
#: The random seed of a crop combines the training's seed and the step in 64 bits.
MOST_SEEDS = 2**32


@dataclass(frozen=True)
class Plan:
    """All settings of a training, except the feature network.

    ``size`` is the side of the crops, ``style_size`` the longer side of the style pictures, whose strokes keep their
    size in pixels.
    """

    kind: str
    photos: tuple[Path, ...]
    styles: tuple[Path, ...]
    names: tuple[str, ...]
    norm: str
    width: int
    blocks: int
    size: int
    style_size: int
    steps: int
    batch_size: int
    content_weight: float
    style_weight: float
    smoothness: float
    loss: str
    learning_rate: float
    seed: int

    def net(self, features: Features) -> dict[str, Any]:
        """The arguments for `build`."""
        if self.kind != ANY:
            styles = len(self.styles) if self.kind == MANY else None
            return {"norm": self.norm, "width": self.width, "blocks": self.blocks, "styles": styles}
        trunk = features.trunk
        layers = dict(trunk.named_children()) if trunk is not None else {}
        if ENCODER_LAYER not in layers:
            raise InputError(
                f"--any needs VGG's encoder up to {ENCODER_LAYER}, and the features are {features.description}; name a "
                "VGG with --features."
            )
        counts = [sum(name.startswith(f"conv{block}_") for name in layers) for block in range(1, 6)]
        first: Any = layers["conv1_1"]
        convolutions = [count for count in counts if count]
        return {"layer": ENCODER_LAYER, "convolutions": convolutions, "width": first.out_channels}

    def record(self, features: Features) -> dict[str, Any]:
        """The record of the training in the style file."""
        kept = (
            "size",
            "style_size",
            "steps",
            "batch_size",
            "content_weight",
            "style_weight",
            "smoothness",
            "loss",
            "seed",
        )
        return {name: getattr(self, name) for name in kept} | {"features": features.description}

    def settings(self) -> dict[str, Any]:
        """The settings in plain types, for a file."""
        return {
            name: [str(each) for each in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def check_plan(plan: Plan) -> None:
    """Raise InputError for invalid numbers and names."""
    for name, least in (("width", 1), ("blocks", 0), ("steps", 1), ("batch_size", 1)):
        _check(name, getattr(plan, name), getattr(plan, name) >= least, f"a whole number of at least {least}")
    least = 2 * LEAST_SIDE
    whole = plan.size >= least and plan.size % REDUCTION == 0
    _check("size", plan.size, whole, f"a multiple of {REDUCTION} of at least {least}")
    _check("style_size", plan.style_size, plan.style_size >= least, f"a whole number of at least {least}")
    for name in ("content_weight", "style_weight", "smoothness"):
        value = getattr(plan, name)
        _check(name, value, 0 <= value < float("inf"), "a number of at least 0")
    _check("learning_rate", plan.learning_rate, 0 < plan.learning_rate < float("inf"), "a positive number")
    _check("style_loss", plan.loss, plan.loss in STYLE_LOSSES, " or ".join(STYLE_LOSSES))
    _check("kind", plan.kind, plan.kind in KINDS, " or ".join(KINDS))
    _check("seed", plan.seed, 0 <= plan.seed < MOST_SEEDS, f"a whole number from 0 to {MOST_SEEDS - 1}")
    if plan.kind == ONE and len(plan.styles) != 1:
        raise InputError(f"A net of one style takes one style picture, received {len(plan.styles)}.")
    try:
        make_norm(plan.norm, 4 * plan.width)
    except (ValueError, TypeError) as error:
        raise InputError(f"--norm: {error}") from error


def _check(name: str, value: Any, holds: bool, form: str) -> None:
    if not holds:
        raise InputError(f"--{name.replace('_', '-')} {value}: write {form}.")


def names_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """The styles' names: those of their files, which must differ."""
    names = tuple(path.stem for path in paths)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"Two styles are named {twice!r}, by the names of their files; rename one.")
    return names
