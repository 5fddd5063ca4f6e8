"""When running statistics are updated: one small object that every layer with a memory owns."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .moments import Moments
from .numbers import check_flag, check_whole
from .observed import is_fake, is_observed
from .recomputing import graphs_may_ask, recomputing, recomputing_in_graph

_RULES = {"nonfinite": ("skip", "propagate"), "single_value": ("error", "running")}


@dataclass
class StatisticsPolicy:
    """Rules and state of one layer's running statistics.

    nonfinite: how a batch with an inf or NaN statistic is treated. ``"skip"`` leaves the memory as it is, counts the
        batch in `skipped` and warns once; ``"propagate"`` is torch.nn's behaviour, where a single such batch makes
        ``running_var`` NaN for good.
    single_value: how a training batch with one value per channel is treated. ``"error"`` raises; ``"running"``
        normalizes it by the running statistics and does not update them.
    frozen: use the running statistics in training, too, and never update them.
    paused: how many `no_update` blocks are open.
    pending: the statistics of the micro-batches of an open `pool_updates` block, or None outside of one.

    Raises ValueError for an unknown rule, TypeError where ``frozen`` or ``paused`` is of the wrong type.

    >>> StatisticsPolicy(nonfinite="ignore")
    Traceback (most recent call last):
    ...
    ValueError: nonfinite must be 'skip' or 'propagate', received 'ignore'.
    """

    nonfinite: str = "skip"
    single_value: str = "error"
    frozen: bool = False
    paused: int = 0
    pending: list[Moments] | None = field(default=None, repr=False)
    _skipped: int | Tensor = field(default=0, repr=False)
    _warned: bool = field(default=False, repr=False)

    def __setattr__(self, name: str, value: Any) -> None:
        known = _RULES.get(name, ())
        if known and value not in known:
            raise ValueError(f"{name} must be {known[0]!r} or {known[1]!r}, received {value!r}.")
        if name == "frozen":
            check_flag(self, name, value)
        if name == "paused":
            check_whole(self, name, value, 0)
        super().__setattr__(name, value)

    @property
    def skipped(self) -> int:
        """The number of batches that were not remembered because their statistics were not finite."""
        return int(self._skipped)

    def is_open(self) -> bool:
        """Whether the memory may change at all."""
        return not (self.frozen or self.paused)

    def admits_updates(self) -> bool:
        """Whether this forward pass may be remembered; a recomputed one was remembered in its first run."""
        return self.is_open() and not recomputing()

    def admits(self, moved: tuple[Tensor, Tensor], kept: tuple[torch.dtype, torch.dtype], layer: str) -> Tensor | bool:
        """Whether buffers of the dtypes ``kept`` may take mean and variance; refused batches are counted here.

        A compiled graph finds out at each run whether it is a recomputation; `admits_updates` cannot know that when the
        graph is made.

        On the CPU the answer is a bool. Elsewhere, and where operations are traced, it is a tensor, so that
        nothing waits for the device or reads a value; the warning then comes with `warn_if_skipped`.
        """
        if graphs_may_ask():
            first = recomputing_in_graph(moved[0]).logical_not()
            return first if self.nonfinite == "propagate" else first & _hold(kept, moved)
        if self.nonfinite == "propagate":
            return True
        mean, var = moved
        if is_observed() or is_fake(mean):
            return _hold(kept, moved)
        if mean.device.type != "cpu":
            finite = _hold(kept, moved)
            self._skipped = self._skipped + (~finite).long()
            return finite
        # A sum below the limit is quicker than isfinite; only where it is not, each value is checked.
        limit = min(torch.finfo(dtype).max for dtype in kept)
        if (mean.abs() + var).sum().item() < limit or bool(_hold(kept, moved)):
            return True
        self._skipped = self._skipped + 1
        self.warn_if_skipped(layer)
        return False

    def warn_if_skipped(self, layer: str) -> None:
        """Warn once if batches were skipped."""
        if self._warned or (isinstance(self._skipped, int) and self._skipped == 0) or self.skipped == 0:
            return
        self._warned = True
        warnings.warn(
            f"{layer}: a batch with non-finite statistics was not taken into the running statistics "
            f"({self.skipped} so far, counted in layer.policy.skipped); nonfinite='propagate' would take it in.",
            RuntimeWarning,
            stacklevel=2,
        )


def _hold(kept: tuple[torch.dtype, torch.dtype], moved: tuple[Tensor, Tensor]) -> Tensor:
    """Whether all values are finite in the dtypes in which they are kept."""
    mean, var = (torch.isfinite(t.to(dtype)).all() for t, dtype in zip(moved, kept, strict=True))
    return mean & var
