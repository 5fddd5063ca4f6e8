"""Options of a prediction, the same as those of a measurement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """``skip_gain`` replaces every SkipInit gain (None: their own values); with ``batch_statistics`` BatchNorm uses
    batch statistics, as in training."""

    skip_gain: float | None = None
    batch_statistics: bool = True
