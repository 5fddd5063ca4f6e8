"""Running statistics: the layer's memory of the batches it has seen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .history import without_history
from .layout import check_memory
from .moments import Moments
from .observed import is_exporting
from .precision import table_dtype

#: Given mean and variance as they would be after an update, and the buffers' dtypes: whether the update may be made.
Judge = Callable[[tuple[Tensor, Tensor], tuple[torch.dtype, torch.dtype]], Tensor | bool]


class RunningStatistics(NamedTuple):
    r"""A layer's buffers and the rule that moves them.

    .. math:: \text{running} \leftarrow (1 - a)\,\text{running} + a\,\text{batch}

    ``momentum`` is PyTorch's ``a``, the weight of the *new* value; None means the cumulative average, with
    ``a = 1 / batches``. The variance that goes in is the **unbiased** one, as in torch.nn, although the
    biased one normalizes. The buffers are changed in place, and no backward pass needs them: a second forward pass, or
    another process' broadcast, never invalidates the first.

    The arithmetic is in the table's dtype (fp64). A ``judge`` is given the values as they would be stored: a variance
    that is finite in fp64 may overflow in the buffer's dtype.

    A batch with fewer than two values per channel (an empty one, or one that is almost all masked) has no variance: it
    changes nothing and is not counted. torch.nn counts an empty batch, which skews its cumulative average.

    >>> running = RunningStatistics(torch.zeros(1), torch.ones(1), torch.tensor(0), momentum=None)
    >>> for value in (2.0, 4.0):
    ...     running.update(torch.tensor([value]), torch.tensor([1.0]))
    >>> running.mean
    tensor([3.])
    """

    mean: Tensor
    var: Tensor
    batches: Tensor | None
    momentum: float | None

    def moments(self) -> Moments:
        """The remembered statistics as a table ``[1, C]``, copied, so that later updates do not change it."""
        check_memory(self.mean, self.var)
        dtype = table_dtype(self.mean)
        mean, var = (without_history(t).to(dtype, copy=True).unsqueeze(0) for t in (self.mean, self.var))
        return Moments(mean, var, 1)

    def update_from_batch(self, table: Moments, judge: Judge | None = None) -> None:
        """Update from the statistics of one batch: a table ``[N, C]``, which is pooled over N, or ``[1, C]``."""
        pooled = table if table.mean.shape[0] == 1 else table.over_batch()
        self.update(pooled.mean.squeeze(0), pooled.unbiased_var().squeeze(0), _has_variance(pooled), judge)

    def update_from_instances(self, table: Moments, judge: Judge | None = None) -> None:
        """Update from the average of a table's moments over the samples, ``[N, C]`` (instance normalization)."""
        seen = _has_variance(table)
        if seen is False:
            return
        mean, var = table.mean, table.unbiased_var()
        if isinstance(table.count, Tensor):
            weight = (table.count > 1).expand_as(mean).to(mean.dtype)
            weight = weight / weight.sum(0).clamp_min(1)
            self.update((mean * weight).sum(0), (var * weight).sum(0), seen, judge)
        else:
            self.update(mean.mean(0), var.mean(0), seen, judge)

    def update(self, mean: Tensor, var: Tensor, seen: Tensor | bool = True, judge: Judge | None = None) -> None:
        """Move the buffers towards ``mean`` and (unbiased) ``var``, ``[C]`` each, if ``seen`` and not refused."""
        if seen is False:
            return
        check_memory(self.mean, self.var, self.batches)
        self._check_writable()
        # `no_grad` would become an operator of an exported graph that cannot be saved; none is needed there, since
        # nothing here has a gradient.
        with nullcontext() if is_exporting() else torch.no_grad():
            wide = torch.promote_types(self.mean.dtype, mean.dtype)
            factor = self._factor(wide)
            moved = self.mean.to(wide).lerp(mean.to(wide), factor), self.var.to(wide).lerp(var.to(wide), factor)
            if judge is not None:
                seen = _both(seen, judge(moved, (self.mean.dtype, self.var.dtype)))
            if seen is False:
                return
            for running, new in zip((self.mean, self.var), moved, strict=True):
                running.copy_(torch.where(seen, new, running) if isinstance(seen, Tensor) else new)
            if self.batches is not None:
                self.batches.add_(seen.to(self.batches.dtype) if isinstance(seen, Tensor) else 1)

    def _check_writable(self) -> None:
        """Refuse an expanded tensor (one value behind many) before anything is written, not in the middle."""
        for name, t in (("running_mean", self.mean), ("running_var", self.var)):
            if 0 in t.stride() and t.numel() > 1:
                raise RuntimeError(
                    f"{name} is expanded, {list(t.shape)} with strides {list(t.stride())}, and cannot be updated; "
                    f"write {name}.clone()."
                )

    def _factor(self, dtype: torch.dtype) -> Tensor | float:
        if self.momentum is not None:
            return self.momentum
        if self.batches is None:
            raise ValueError("momentum=None needs the buffer num_batches_tracked; give a momentum instead.")
        return (self.batches + 1).to(dtype).reciprocal()


def _has_variance(table: Moments) -> Tensor | bool:
    if table.mean.shape[0] == 0:
        return False
    seen = table.count > 1
    return seen.any() if isinstance(seen, Tensor) else seen


def _both(one: Tensor | bool, other: Tensor | bool) -> Tensor | bool:
    if isinstance(one, bool):
        return other if one else False
    if isinstance(other, bool):
        return one if other else False
    return one & other
