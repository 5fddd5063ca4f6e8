"""The base of layers that mix several normalizers by learned weights."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.formulas import Formula
from normwise.core.moments import Moments
from normwise.core.processes import ProcessGroup
from normwise.core.running import RunningStatistics

from .batch_layer import BatchLayer


class MixtureLayer(BatchLayer):
    """A batch layer with learned mixing weights: the parameters named in ``mixing``, which all start at 1.

    Only the batch's branch has running statistics; the others are measured in evaluation, too.
    """

    mixing: tuple[str, ...] = ()
    #: What the layer is with the starting values, for the warning about a checkpoint without them.
    start: str = ""

    def _set_mixing(self, shape: tuple[int, ...], device: Any, dtype: torch.dtype | None) -> None:
        for name in self.mixing:
            self.register_parameter(name, nn.Parameter(torch.ones(shape, device=device, dtype=dtype)))

    def _formula(self, group: ProcessGroup | None) -> Formula:
        """The formula; in evaluation it is given the batch's statistics as ``known=``."""
        raise NotImplementedError

    def _by_batch(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Formula:
        return self._formula(group)

    def _by_running(self, x: Tensor, running: RunningStatistics) -> tuple[Formula, Moments | None]:
        self._check_before(x)
        return partial(self._formula(None), known=running.moments()), None

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for name in self.mixing:
            if name in self._parameters:  # they do not exist yet when torch's constructor calls this method
                nn.init.ones_(self.get_parameter(name))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; a checkpoint without mixing weights sets them to 1, with a warning."""
        absent = [name for name in self.mixing if f"{prefix}{name}" not in state_dict]
        others = any(f"{prefix}{name}" in state_dict for name in ("weight", "running_mean"))
        if others and len(absent) == len(self.mixing):
            for name in absent:
                state_dict[f"{prefix}{name}"] = torch.ones_like(self.get_parameter(name))
            warnings.warn(
                f"{type(self).__name__} at {prefix.rstrip('.')!r}: the checkpoint is of a layer without "
                f"{' and '.join(absent)}; set to 1, {self.start}.",
                UserWarning,
                stacklevel=2,
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
